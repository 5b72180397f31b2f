"""Applications of web frameworks enqueue into the kit of the test that calls them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from flask import Flask
from flask import current_app as flask_app
from httpx2 import ASGITransport, AsyncClient

from psyqueue import LifecycleError, PsyQueue
from psyqueue.backends import redis

q = PsyQueue().use(redis(host="nowhere.invalid"))


@q.handle("email.send")
async def send(to: str) -> None: ...


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with q:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/signup")
async def sign_up(to: str) -> dict[str, str]:
    return {"job": (await send.enqueue(to)).id}


@app.post("/plain")
def sign_up_in_a_thread(to: str) -> dict[str, str]:
    return {"job": send.sync.enqueue(to).id}


async def test_fastapi_is_called_in_the_loop_of_the_test_with_its_lifespan():
    async with (
        q.testing() as t,
        lifespan(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://test") as client,
    ):
        answer = await client.post("/signup", params={"to": "ada"})
        t.assert_enqueued("email.send", payload={"to": "ada"}, id=answer.json()["job"], count=1)
        assert await t.drain() == 1


async def test_client_with_a_loop_of_its_own_is_refused():
    async with q.testing() as t:
        with pytest.raises(LifecycleError, match="belongs to the event loop that started it"):
            TestClient(app).post("/signup", params={"to": "ada"})
        t.refute_enqueued()


def test_fastapi_s_own_client_calls_plain_endpoints_from_a_plain_test():
    with q.sync.testing() as t, TestClient(app) as client:
        answer = client.post("/plain", params={"to": "ada"})
        t.assert_enqueued("email.send", payload={"to": "ada"}, id=answer.json()["job"], count=1)
        assert t.drain() == 1
        with pytest.raises(LifecycleError, match="belongs to the event loop that started it"):
            client.post("/signup", params={"to": "ada"})


def test_flask_enqueues_from_its_views_and_handlers_find_the_application():
    flask = Flask("shop")
    flask.config["SENDER"] = "shop@example.org"

    @flask.post("/signup/<to>")
    def view(to: str) -> str:
        return greet.sync.enqueue(to).id

    queue = PsyQueue().use(redis(host="nowhere.invalid"))

    @queue.handle("greet")
    def greet(to: str) -> str:
        return f"{flask_app.config['SENDER']} to {to}"

    with queue.sync.testing() as t, flask.app_context():
        job_id = flask.test_client().post("/signup/ada").text
        t.assert_enqueued(greet, payload={"to": "ada"}, id=job_id)
        assert t.drain() == 1
        assert t.job(job_id).result == "shop@example.org to ada"


DJANGO = """
import asyncio

import django
from asgiref.sync import async_to_sync
from django.conf import settings
from django.http import HttpResponse
from django.urls import path

from psyqueue import PsyQueue
from psyqueue.backends import redis

q = PsyQueue().use(redis(host="nowhere.invalid"))


@q.handle("email.send")
async def send(to: str) -> None: ...


async def async_view(request):
    return HttpResponse((await send.enqueue("ada")).id)


def sync_view(request):
    return HttpResponse(async_to_sync(send.enqueue)("eve").id)


urlpatterns = [path("async", async_view), path("sync", sync_view)]
settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="test", ALLOWED_HOSTS=["*"])
django.setup()


async def main():
    from django.test import AsyncClient

    async with q.testing() as t:
        for address, to in (("/async", "ada"), ("/sync", "eve")):
            answer = await AsyncClient().get(address)
            t.assert_enqueued(send, payload={"to": to}, id=answer.content.decode())
        print(await t.drain())


asyncio.run(main())
"""


def test_django_enqueues_from_async_and_from_sync_views(tmp_path: Path):
    """A process of its own: the settings of Django are for a whole process."""
    program = tmp_path / "program.py"
    program.write_text(DJANGO, encoding="utf-8")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


DJANGO_TESTS = """
import django
from django.conf import settings
from django.db import connection, transaction
from django.http import HttpResponse
from django.test import TestCase
from django.test.runner import DiscoverRunner
from django.urls import path

from psyqueue import PsyQueue
from psyqueue.backends import redis

q = PsyQueue().use(redis(host="nowhere.invalid"))


@q.handle("user.greet")
def greet(number):
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM users WHERE number = %s", [number])
        return "hello " + cursor.fetchone()[0]


def sign_up(request):
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("INSERT INTO users VALUES (1, 'ada')")
        transaction.on_commit(lambda: greet.sync.enqueue(1))
    return HttpResponse("welcome")


urlpatterns = [path("signup", sign_up)]
settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY="test",
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)


class SignUp(TestCase):
    def setUp(self):
        self.jobs = self.enterContext(q.sync.testing())
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE users (number INTEGER, name TEXT)")

    def test_handler_sees_what_the_view_wrote_in_the_transaction_of_the_test(self):
        self.client.get("/signup")
        self.jobs.refute_enqueued()
        with self.captureOnCommitCallbacks(execute=True):
            self.client.get("/signup")
        [job] = self.jobs.assert_enqueued(greet)
        self.jobs.drain()
        self.assertEqual(self.jobs.job(job).result, "hello ada")

    def test_nothing_is_left_of_the_other_test(self):
        self.jobs.refute_enqueued()


if __name__ == "__main__":
    django.setup()
    print(DiscoverRunner(verbosity=0).run_tests([__name__]))
"""


def test_django_s_own_test_case_shares_its_transaction_with_the_handlers(tmp_path: Path):
    program = tmp_path / "program.py"
    program.write_text(DJANGO_TESTS, encoding="utf-8")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["0"]), done.stderr
    assert "Ran 2 tests" in done.stderr

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

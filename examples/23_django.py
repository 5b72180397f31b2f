"""Django: a view saves its model and enqueues its job in one transaction; the handler uses the ORM."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import django
from django.conf import settings
from django.db import IntegrityError, close_old_connections, connection, models, transaction
from django.http import HttpRequest, JsonResponse
from django.test import Client
from django.urls import path

from psyqueue import Depends, PsyQueue
from psyqueue.backends import sqlite

made = TemporaryDirectory()
DATABASE = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": Path(made.name) / "shop.db",
    "OPTIONS": {"transaction_mode": "IMMEDIATE"},  # what reads first can still write, however busy the file is
}
settings.configure(DATABASES={"default": DATABASE}, ROOT_URLCONF=__name__, ALLOWED_HOSTS=["testserver"])
django.setup()

q = PsyQueue().use(sqlite(path=DATABASE["NAME"]))  # one file for the tables of the shop and its jobs


class Order(models.Model):
    number = models.IntegerField(primary_key=True)
    is_confirmed = models.BooleanField(default=False)

    class Meta:
        app_label = "shop"


def orm() -> Iterator[None]:  # around each run, as Django does around each request
    close_old_connections()
    yield
    close_old_connections()


@q.handle("order.confirm", queue="orders")
def confirm(number: int, *, _: None = Depends(orm)) -> str:
    found = Order.objects.filter(number=number).update(is_confirmed=True)
    return f"{found} order confirmed"


def place(_: HttpRequest, number: int) -> JsonResponse:
    try:
        with transaction.atomic():
            job = confirm.options(conn=connection.connection).sync.enqueue(number)
            Order.objects.create(number=number)
    except IntegrityError:
        return JsonResponse({"error": f"order {number} is placed already"}, status=409)
    return JsonResponse({"job": job.id}, status=202)


urlpatterns = [path("orders/<int:number>", place)]


def main() -> None:
    with connection.schema_editor() as schema:
        schema.create_model(Order)
    with q.sync:  # makes the tables of psyqueue, as `psyqueue schema up` does where an application is installed
        placed, refused = Client().put("/orders/1"), Client().put("/orders/1")
        print(placed.status_code, refused.status_code, "jobs:", len(q.sync.jobs(queue="orders")))
        q.sync.start_worker("orders")  # usually a process of its own: psyqueue worker shop.worker:q
        print(q.sync.handle_of(placed.json()["job"]).result(timeout="10s"))
    connection.close()


if __name__ == "__main__":
    with made:
        main()

# prints:
# | 202 409 jobs: 1
# | 1 order confirmed

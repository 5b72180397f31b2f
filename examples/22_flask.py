"""Flask: views enqueue by plain calls, in the transaction of the request where that matters."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flask import Flask, g

from psyqueue import PsyQueue
from psyqueue.backends import sqlite

q = PsyQueue()
app = Flask("shop")


@q.handle("order.confirm", queue="orders")
def confirm(number: int) -> str:
    with app.app_context():  # a handler has no request; what it uses of Flask needs a context
        return f"{app.name}: order {number} confirmed"


def database() -> sqlite3.Connection:
    """The connection of this request, to the file that holds the jobs as well."""
    if "database" not in g:
        g.database = sqlite3.connect(app.config["DATABASE"])
    return g.database


@app.teardown_appcontext
def close(_: BaseException | None) -> None:
    if "database" in g:
        g.pop("database").close()


@app.put("/orders/<int:number>")
def place(number: int) -> Any:
    try:
        with database() as db:  # commits at its end, or rolls back
            job = confirm.options(conn=db).sync.enqueue(number)
            db.execute("INSERT INTO placed VALUES (?)", (number,))
    except sqlite3.IntegrityError:
        return {"error": f"order {number} is placed already"}, 409
    return {"job": job.id}, 202


@app.get("/jobs/<job_id>")
def look(job_id: str) -> Any:
    view = q.sync.get(job_id)
    return ({"error": "no such job"}, 404) if view is None else {"status": view.status, "result": view.result}


def main(folder: Path) -> None:
    app.config["DATABASE"] = str(folder / "shop.db")
    q.use(sqlite(path=app.config["DATABASE"]))  # in a real application where q is made
    with q.sync:  # makes the file, as `psyqueue schema up` does where an application is installed
        with app.app_context(), database() as db:
            db.execute("CREATE TABLE placed (number INTEGER PRIMARY KEY)")
        client = app.test_client()
        placed, refused = client.put("/orders/1"), client.put("/orders/1")
        print(placed.status_code, refused.status_code, refused.json)
        print("jobs:", len(q.sync.jobs(queue="orders")))

        q.sync.start_worker("orders")  # usually a process of its own: psyqueue worker shop:q
        q.sync.handle_of(placed.json["job"]).wait(timeout="10s")
        print(client.get(f"/jobs/{placed.json['job']}").json)


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        main(Path(made))

# prints:
# | 202 409 {'error': 'order 1 is placed already'}
# | jobs: 1
# | {'result': 'shop: order 1 confirmed', 'status': 'completed'}

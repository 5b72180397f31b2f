"""Plain tests of an application whose views block: its own queue object, a store and a time of the test's own."""

from __future__ import annotations

import sqlite3

from psyqueue import Context, PsyQueue
from psyqueue.backends import redis

# What stands in the application. No test reaches the server.
q = PsyQueue().use(redis(host="redis.internal"))
db = sqlite3.connect(":memory:")  # serves this thread only
db.execute("CREATE TABLE users (name TEXT, greeted TEXT)")


@q.handle("user.greet", queue="mail", max_retries=3, backoff_base="1m")
def greet(ctx: Context, name: str) -> None:
    if ctx.attempt == 1:
        raise ConnectionError("the mail server is down")
    db.execute("UPDATE users SET greeted = 'yes' WHERE name = ?", (name,))


def sign_up(name: str) -> str:
    """What a Flask or Django view would do."""
    db.execute("INSERT INTO users VALUES (?, 'no')", (name,))
    return greet.options(delay="1h").sync.enqueue(name).id


# Its tests.
def test_new_users_are_greeted_an_hour_later() -> None:
    with q.sync.testing(raise_errors=False) as t:
        job_id = sign_up("ada")
        t.assert_enqueued(greet, payload={"name": "ada"}, queue="mail", delay="1h")
        assert t.drain() == 0  # nothing is due yet
        t.advance("2h")  # in no time
        # The handler ran in this thread, so it saw the row that nobody committed.
        print("greeted:", db.execute("SELECT greeted FROM users").fetchone()[0])
        for moment in t.history.of(job_id):
            print(moment.after, moment.what)
        db.rollback()


def test_inline_what_is_due_runs_as_it_is_enqueued() -> None:
    with q.sync.testing(mode="inline") as t:
        try:
            greet.sync.enqueue("bob")
        except ConnectionError as error:
            print("the handler's own error:", error)
        print(t.job(t.enqueued(greet)[0]).status)


if __name__ == "__main__":  # pytest would do this
    test_new_users_are_greeted_an_hour_later()
    test_inline_what_is_due_runs_as_it_is_enqueued()
    db.close()

# prints:
# | greeted: yes
# | 0:00:00 enqueued
# | 1:00:00 started
# | 1:00:00 failed
# | 1:00:00 retry
# | 1:01:00 started
# | 1:01:00 completed
# | the handler's own error: the mail server is down
# | scheduled

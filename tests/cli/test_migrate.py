"""`psyqueue migrate` as its users run it: the whole way, what it says, and what it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import subprocess
import sys
from collections import Counter

import pytest

from psyqueue import PsyQueue
from psyqueue.cli.existing import backend_at
from psyqueue.cli.migrate_ends import address_of
from psyqueue.cli.progress import line_of
from psyqueue.moving import Progress
from psyqueue.testing.conformance import Store
from support.waiting import wait_until


def fill(url: str, count: int = 7, **options) -> None:
    async def work() -> None:
        async with PsyQueue.from_url(url) as q:
            await q.enqueue_bulk([{"name": "note", "payload": {"text": f"{n}"}} for n in range(count)], **options)

    asyncio.run(work())


def said(shop, code: int, *arguments: str) -> str:
    """What a command says that ends with this code, in few words and without a traceback."""
    answer = shop.run(*arguments)
    assert answer.code == code, answer
    assert "Traceback" not in answer.err
    return str(answer.err)


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def elsewhere(request, shop, namespace):
    """The address of a store that is not there yet."""
    if request.param == "sqlite":
        return "sqlite:./new.db"
    server = request.getfixturevalue(f"{request.param}_server")
    return f"{server.url}?key_prefix={namespace}:" if request.param == "redis" else f"{server.url}?schema={namespace}"


def finished(url: str, count: int) -> None:
    """So many completed jobs, and one that was cancelled."""

    async def work() -> None:
        q = PsyQueue.from_url(url)
        q.handle("done", lambda: None, queue="past")
        async with q:
            for _ in range(count):
                await q.enqueue("done")
                await q.process_next("past")
            await (await q.enqueue("done")).cancel()

    asyncio.run(work())


@pytest.mark.parametrize(
    ("include", "moved"),
    [("", {}), ("completed", {"completed": 3}), ("completed,cancelled", {"completed": 3, "cancelled": 1})],
)
def test_what_has_ended_moves_where_it_is_asked_for(shop, elsewhere, include, moved):
    finished(shop.url, 3)
    asked = ("--include", include) if include else ()
    shop.json("migrate", "--from", shop.url, "--to", elsewhere, *asked, "--yes")

    async def counts() -> dict[str, int]:
        async with PsyQueue.from_url(elsewhere.replace("./", f"{shop.folder}/")) as q:
            return dict(Counter(job.status for job in await q.jobs(queue="past")))

    assert asyncio.run(counts()) == moved


def test_what_has_ended_moves_without_a_pause_where_it_is_asked_for(shop):
    finished(shop.url, 3)
    ends = ("--from", shop.url, "--to", "sqlite:./new.db")
    shop.json("migrate", *ends, "run", "--include", "completed", "--yes")
    shop.json("migrate", *ends, "finish", "--yes")

    async def counts() -> dict[str, int]:
        async with PsyQueue.from_url(f"sqlite:{shop.folder}/new.db") as q:
            return dict(Counter(job.status for job in await q.jobs(queue="past")))

    assert asyncio.run(counts()) == {"completed": 3}


def test_a_rehearsal_the_move_and_what_the_old_application_is_told(shop, elsewhere):
    fill(shop.url)
    ends = ("--from", shop.url, "--to", elsewhere)
    planned = shop.json("migrate", *ends, "--dry-run")
    assert (planned["ok"], planned["dry_run"], planned["moved"], planned["obstacles"]) == (True, True, 0, [])
    row = {"queue": "note", "status": "pending", "source": 7, "destination": 0}
    assert planned["queues"] == [row]
    assert any("would be made" in text for text in planned["warnings"])
    moved = shop.json("migrate", *ends, "--yes")
    assert moved == {
        "ok": True, "dry_run": False, "digest_ok": True, "moved": 7, "queues": [{**row, "destination": 7}]
    }  # fmt: skip
    assert "moved to" in said(shop, 1, "enqueue", "note", "{}")
    items = shop.json("--backend", elsewhere, "jobs", "ls")["items"]
    assert len(items) == 7
    again = shop.json("migrate", *ends, "--yes")
    assert (again["ok"], again["moved"]) == (True, 0)


def test_a_dry_run_makes_and_changes_nothing(shop):
    fill(shop.url)
    shop.run("migrate", "--from", shop.url, "--to", "sqlite:./new.db", "--dry-run")
    assert not (shop.folder / "new.db").exists()
    fill(shop.url, 1)


def test_people_are_told_in_a_table(shop):
    fill(shop.url)
    text = shop.run("migrate", "--from", shop.url, "--to", "sqlite:./new.db", "--dry-run").out
    assert re.search(r"note +pending +7 +0", text)
    assert "7 jobs would move" in text
    text = shop.run("migrate", "--from", shop.url, "--to", "sqlite:./new.db", "--yes").out
    assert re.search(r"note +pending +7 +7", text)
    assert "Moved 7 jobs, contents compared and equal." in text
    assert "is closed" in text


def test_nobody_is_asked_where_nobody_can_answer(shop):
    fill(shop.url)
    assert "--yes" in said(shop, 2, "migrate", "--from", shop.url, "--to", "sqlite:./new.db")
    fill(shop.url, 1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--to", "sqlite:./new.db"), "two ends"),
        (("--from", "sqlite:./jobs.db"), "two ends"),
        (("--from", "sqlite:./jobs.db", "--to", "sqlite:jobs.db"), "the same store"),
        (("--from", "sqlite:./nowhere.db", "--to", "sqlite:./new.db", "--yes"), "no such file"),
        (("--from", "sqlite:./jobs.db", "--to", "mongo://x", "--yes"), "no backend"),
        (("--from", "sqlite:./jobs.db", "--to", "sqlite:./new.db", "--include", "dead", "--yes"), "always move"),
        (("--from", "sqlite:./jobs.db", "--to", "sqlite:./new.db", "--wait", "soon", "--yes"), "wait"),
    ],
)
def test_wrong_use_is_one_line_and_changes_nothing(shop, arguments, says):
    fill("sqlite:" + str(shop.folder / "jobs.db"))
    assert says in said(shop, 2, "migrate", *arguments)
    fill("sqlite:" + str(shop.folder / "jobs.db"), 1)


def test_what_stands_in_the_way_is_said_and_nothing_is_changed(shop):
    fill(shop.url)
    fill("sqlite:" + str(shop.folder / "new.db"), 2)
    ends = ("--from", shop.url, "--to", "sqlite:./new.db")
    planned = shop.run("migrate", *ends, "--dry-run")
    assert planned.code == 1
    assert "holds 2 jobs already" in planned.out
    assert "--merge" in said(shop, 1, "migrate", *ends, "--yes")
    fill(shop.url, 1)
    assert shop.json("migrate", *ends, "--yes", "--merge")["moved"] == 8


def test_one_queue_moves_alone(shop):
    fill(shop.url, queue="a")
    fill(shop.url, 3, queue="b")
    moved = shop.json("migrate", "--from", shop.url, "--to", "sqlite:./new.db", "--queue", "a", "--yes")
    assert moved["moved"] == 7
    assert [item["queue"] for item in shop.json("--backend", shop.url, "queues", "ls")["items"]] == ["b"]
    fill(shop.url, 1)


def test_killed_while_it_copies_it_is_run_again(shop):
    fill(shop.url, 6_000)
    ends = ("--from", shop.url, "--to", "sqlite:./new.db", "--yes")
    move = shop.start("migrate", *ends)
    new = shop.folder / "new.db"

    def is_copying() -> bool:
        if not new.exists():
            return False
        with contextlib.closing(sqlite3.connect(f"{new.as_uri()}?mode=ro", uri=True)) as connection:
            tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'psyqueue_job'").fetchone()[0]
            return bool(tables and connection.execute("SELECT count(*) FROM psyqueue_job").fetchone()[0])

    assert wait_until(is_copying)
    move.kill()
    assert shop.json("migrate", *ends)["moved"] == 6_000


@pytest.mark.parametrize("is_lost", [False, True], ids=["there", "lost"])
def test_killed_and_rolled_back_it_works_as_before(shop, is_lost):
    fill(shop.url, 6_000)
    move = shop.start("migrate", "--from", shop.url, "--to", "sqlite:./new.db", "--yes")
    assert wait_until(lambda: mode_of(shop) == "frozen")
    move.kill()
    assert mode_of(shop) == "frozen", "it was killed too late to show anything"
    how = ("--lost",) if is_lost else ()
    back = shop.json("migrate", "rollback", "--from", shop.url, "--to", "sqlite:./new.db", *how)
    assert back == {"ok": True, "rolled_back": True}
    assert mode_of(shop) == "open"
    fill(shop.url, 1)
    if not is_lost:
        assert shop.json("--backend", "sqlite:./new.db", "jobs", "ls")["items"] == []
    assert "nothing to open" in said(
        shop, 1, "migrate", "rollback", "--lost", "--from", shop.url, "--to", "sqlite:./new.db"
    )


def mode_of(shop) -> str:
    with contextlib.closing(sqlite3.connect(shop.folder / "jobs.db")) as connection:
        (mode,) = connection.execute("SELECT mode FROM psyqueue_meta").fetchone()
    return str(mode)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("sqlite:/srv/jobs.db?durability=normal", "sqlite:/srv/jobs.db"),
        ("redis://u:secret@cache:6379/2?key_prefix=shop:&timeout=3s", "redis://u:***@cache:6379/2?key_prefix=shop%3A"),
        ("postgresql://u:secret@db/shop?schema=jobs&max_size=3", "postgresql://u:***@db/shop?schema=jobs"),
    ],
)
def test_addresses_are_told_without_secrets(url, address):
    assert address_of(url) == address


@pytest.mark.parametrize(
    ("step", "elapsed_ms", "line"),
    [
        (Progress("copying", 0, 100), 0, "copying 0 of 100"),
        (Progress("copying", 40_000, 100_000), 2_000, "copying 40,000 of 100,000 · 20,000/s · 3 s left"),
        (Progress("verifying", 7, 7), 1_000, "verifying 7 of 7 · 7/s · 0 s left"),
    ],
)
def test_progress_has_a_rate_and_the_time_left(step, elapsed_ms, line):
    assert line_of(step, elapsed_ms) == line


# ── without a pause ───────────────────────────────────────────────────────────────────────────────────────────────────
APPLICATION = """
import asyncio, sys
from psyqueue import PsyQueue
from psyqueue.moving import moving

q = PsyQueue()
q.use(moving({old!r}, {new!r}))

@q.handle("note")
async def note(text: str) -> None:
    with open("ran.txt", "a") as file:
        file.write(text + "\\n")

async def produce() -> None:
    async with q:
        for number in range(*map(int, sys.argv[1:])):
            await note.enqueue(f"{{number}}")

if __name__ == "__main__":
    asyncio.run(produce())
"""


def produce(shop, first: int, last: int) -> None:
    """A producer of the application, from its begin to its end."""
    done = subprocess.run(
        [sys.executable, "shop.py", str(first), str(last)], cwd=shop.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def ran(shop) -> list[int]:
    file = shop.folder / "ran.txt"
    return sorted(map(int, file.read_text().split())) if file.exists() else []


def test_an_application_is_moved_while_it_works(shop, elsewhere):
    ends = ("--from", shop.url, "--to", elsewhere)
    (shop.folder / "shop.py").write_text(APPLICATION.format(old=shop.url, new=elsewhere))
    produce(shop, 0, 5)
    assert shop.json("migrate", "plan", *ends)["obstacles"] == []
    alone = shop.run("migrate", "run", *ends, "--yes", "--drain", "0s")
    assert "no worker is there: start one with `psyqueue worker`" in alone.err
    assert "No worker is there to drain the old store." in alone.out
    assert shop.json("migrate", "run", *ends, "--yes", "--drain", "0s")["drained"] is False
    produce(shop, 5, 9)
    worker = shop.start("worker", "shop:q")
    try:
        wait_until(lambda: ran(shop) == list(range(5)))
        again = shop.json("migrate", "run", *ends, "--yes")
        assert (again["step"], again["drained"], again["source_mode"]) == ("draining", True, "draining")
        status = shop.run("migrate", "status", *ends).out
        assert "Workers in the old store" in status
        assert "No worker" not in status
        assert shop.json("migrate", "finish", *ends, "--yes")["ok"]
        produce(shop, 9, 12)
        wait_until(lambda: ran(shop) == list(range(12)))
    finally:
        worker.process.terminate()
        worker.end()
    status = shop.json("migrate", "status", *ends)
    assert (status["step"], status["source_mode"], status["destination_mode"]) == ("over", "moved", "open")
    assert "moved to" in said(shop, 1, "enqueue", "note", "{}")
    assert "live at" in said(shop, 1, "migrate", "rollback", *ends)


def test_a_worker_of_a_store_that_was_closed_is_not_started(shop, elsewhere):
    fill(shop.url)
    shop.json("migrate", "--from", shop.url, "--to", elsewhere, "--yes")
    (shop.folder / "shop.py").write_text("from psyqueue import PsyQueue\nq = PsyQueue()\n")
    answer = shop.run("worker", "shop:q", "--queues", "note", "--backend", shop.url)
    assert answer.code == 1, answer
    assert "Point the application there" in answer.err
    assert "Traceback" not in answer.err
    assert "ready" not in answer.out


def test_a_move_without_a_pause_is_rolled_back_by_the_same_command_as_any(shop, elsewhere):
    ends = ("--from", shop.url, "--to", elsewhere)
    (shop.folder / "shop.py").write_text(APPLICATION.format(old=shop.url, new=elsewhere))
    produce(shop, 0, 3)
    shop.json("migrate", "run", *ends, "--yes", "--drain", "0s")
    produce(shop, 3, 5)
    assert shop.json("migrate", "rollback", *ends)["rolled_back"]
    produce(shop, 5, 6)
    assert len(shop.json("jobs", "ls")["items"]) == 6
    assert shop.json("migrate", "status", *ends)["step"] == "none"


def test_status_names_the_jobs_that_hold_up_the_end(shop):
    fill(shop.url, 5)
    ends = ("--from", shop.url, "--to", "sqlite:./new.db")
    shop.json("migrate", "run", *ends, "--yes", "--drain", "0s")

    async def start(count: int) -> list[str]:
        backend = backend_at(shop.url)
        await backend.connect()
        ids = await Store(backend).dequeue_ids("note", count=count)
        await backend.disconnect()
        return ids

    ids = asyncio.run(start(4))
    found = shop.json("migrate", "status", *ends)["running_in_source"]
    assert sorted(each["id"] for each in found) == sorted(ids)
    assert all(each["for_ms"] >= 0 for each in found)
    told = shop.run("migrate", "status", *ends).out
    assert re.search(r"Running in the old store: (\S+ for \d+ m?s(, )?){3} and 1 more\.", told), told
    assert "waits for them" in told
    assert "--take-over" in told
    assert "still running" in said(shop, 1, "migrate", "finish", *ends, "--yes", "--wait", "0s")


def test_a_step_out_of_turn_says_which_is_next(shop):
    fill(shop.url)
    fill("sqlite:" + str(shop.folder / "other.db"))
    ends = ("--from", shop.url, "--to", "sqlite:./other.db")
    assert "migrate run" in said(shop, 1, "migrate", "finish", *ends, "--yes")
    assert "holds 7 jobs already" in said(shop, 1, "migrate", "run", *ends, "--yes")
    assert "two ends" in said(shop, 2, "migrate", "status")

"""Many processes, one file: what no server stands between."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from backends.sqlite.stores import counts, finish, opened, start_child
from psyqueue.errors import ForkedProcess, PsyQueueError, StoreUnavailable
from support.waiting import wait_until

RUNNING = """
    import asyncio, json
    from pathlib import Path
    from backends.sqlite.stores import opened
    from psyqueue.testing.conformance.handle import ack

    async def main(path, name, total):
        done, others = 0, 0
        async with opened(path, name, busy_timeout="30s") as store:
            print("ready", flush=True)
            sys.stdin.readline()
            outcomes, empty = (), 0
            while empty < 3:
                reply = await store.settle(*outcomes, session=name, fetch=store.fetch(count=20))
                done += sum(each.verdict == "ok" for each in reply.settled)
                others += sum(each.verdict != "ok" for each in reply.settled)
                outcomes = [ack(each) for each in reply.deliveries]
                empty = 0 if outcomes else empty + 1
            print(json.dumps([done, others]), flush=True)

    asyncio.run(main(sys.argv[1], sys.argv[2], 0))
"""


def begin(children: list[subprocess.Popen[str]]) -> None:
    """All at once, when every one is ready."""
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()


async def test_four_processes_share_the_turns_at_writing(tmp_path: Path) -> None:
    """With SQLite's busy handler alone one of them may get nothing at all (measured: 0 of 60,000)."""
    total = 8_000
    async with opened(tmp_path / "jobs.db") as store:
        await store.fill(total)
        children = [start_child(RUNNING, tmp_path / "jobs.db", f"w{number}") for number in range(4)]
        begin(children)
        shares = [json.loads(finish(child)) for child in children]
        assert [others for _, others in shares] == [0, 0, 0, 0]
        assert sum(done for done, _ in shares) == total
        assert min(done for done, _ in shares) > total / 4 * 0.5, shares
        assert await counts(store, "q") == {"completed": total}
        assert await store.broken() == []


GUEST = """
    import asyncio
    from backends.sqlite.stores import opened

    async def main(path, name):
        async with opened(path, name) as store:
            await store.add(name)

    asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


async def test_a_second_client_of_a_process_keeps_the_locks_of_the_first(tmp_path: Path) -> None:
    """The system drops all locks that a process has on a file when the process closes any handle on it.

    Without them a guest takes itself for the last one, and removes the WAL under those who stay.
    """
    file = tmp_path / "jobs.db"
    async with opened(file, "one") as one:
        async with opened(file, "two") as two:
            await two.add("two")
        finish(start_child(GUEST, file, "guest"))
        assert (tmp_path / "jobs.db-wal").exists()
        await one.add("one")
        finish(start_child(GUEST, file, "later"))
        assert all(await one.backend.get(["one", "two", "guest", "later"]))
    async with opened(file) as after:
        assert all(await after.backend.get(["one", "two", "guest", "later"]))
        assert await after.broken() == []


def test_two_processes_that_make_the_file_at_once_make_it_once(tmp_path: Path) -> None:
    making = """
        import asyncio
        from backends.sqlite.stores import opened
        print("ready", flush=True)
        sys.stdin.readline()
        async def main(path, name):
            async with opened(path, name) as store:
                await store.add(name)
        asyncio.run(main(sys.argv[1], sys.argv[2]))
    """
    file = tmp_path / "jobs.db"
    children = [start_child(making, file, f"c{each}") for each in range(4)]
    begin(children)
    for child in children:
        finish(child)
    connection = sqlite3.connect(file)
    assert connection.execute("SELECT number FROM psyqueue_schema").fetchall() == [(1,)]
    assert connection.execute("SELECT count(*) FROM psyqueue_job").fetchone() == (4,)
    connection.close()


@pytest.mark.parametrize("border", ["sqlite.migrate.before", "sqlite.migrate.commit"])
async def test_a_process_that_dies_while_it_makes_the_schema_leaves_none(tmp_path: Path, border: str) -> None:
    making = """
        import asyncio, os
        os.environ.update(PSYQUEUE_TEST="1", PSYQUEUE_FAILPOINT=sys.argv[2] + ":kill")
        from backends.sqlite.stores import opened
        async def main(path):
            async with opened(path):
                pass
        asyncio.run(main(sys.argv[1]))
    """
    child = start_child(making, tmp_path / "jobs.db", border)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    async with opened(tmp_path / "jobs.db") as store:
        await store.add("a")
        assert await store.broken() == []


@pytest.mark.parametrize(
    ("border", "is_there"),
    [
        ("sqlite.begin.before", False),
        ("sqlite.begin.after", False),
        ("sqlite.commit.before", False),
        ("sqlite.commit.after", True),
    ],
)
async def test_a_process_that_dies_at_a_border_leaves_all_or_nothing(
    tmp_path: Path, border: str, is_there: bool
) -> None:
    dying = """
        import asyncio, os
        # The first two calls open the session and put a job in; the third is the one to die in.
        os.environ.update(PSYQUEUE_TEST="1", PSYQUEUE_FAILPOINT=sys.argv[2] + ":kill:3")
        from backends.sqlite.stores import opened
        from psyqueue.backend import Op
        from psyqueue.testing.conformance.handle import job
        async def main(path):
            async with opened(path, "child", test_clock=True) as store:
                await store.open_session()
                await store.add("first")
                await store.backend.enqueue(Op("again", 0, 1), [job("a"), job("b")])
        asyncio.run(main(sys.argv[1]))
    """
    child = start_child(dying, tmp_path / "jobs.db", border)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    async with opened(tmp_path / "jobs.db", test_clock=True) as store:
        assert [view is not None for view in await store.backend.get(["a", "b"])] == [is_there, is_there]
        assert await store.broken() == []
        from psyqueue.backend import Op
        from psyqueue.testing.conformance.handle import job

        reply = await store.backend.enqueue(Op("again", 0, 1), [job("a"), job("b")])
        assert [each.created for each in reply] == [True, True]
        assert await counts(store, "q") == {"pending": 3}


async def test_a_process_that_dies_in_its_turn_gives_it_back(tmp_path: Path) -> None:
    dying = """
        import asyncio, os
        os.environ.update(PSYQUEUE_TEST="1", PSYQUEUE_FAILPOINT="sqlite.commit.before:hang")
        from backends.sqlite.stores import opened
        async def main(path):
            async with opened(path, "child") as store:
                print("ready", flush=True)
                await store.add("never")
        asyncio.run(main(sys.argv[1]))
    """
    async with opened(tmp_path / "jobs.db", busy_timeout="20s") as store:
        child = start_child(dying, tmp_path / "jobs.db")
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        lock = tmp_path / "jobs.db-lock"
        assert wait_until(lambda: not _is_free(lock))
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        assert (await store.add("a")).created
        assert await store.backend.get(["never"]) == (None,)


def _is_free(lock: Path) -> bool:
    import fcntl

    handle = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(handle)


# ── fork ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_forked_child_is_told_to_connect_by_itself(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as store:
        await store.open_session()
        keeper = store.backend.keeper()
        keeper.renew("s")
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()

        def try_all() -> None:
            found = []
            coroutines = (
                store.add("a"),
                store.backend.get(["a"]),
                store.backend.wait(("q",), (), 1),
                store.backend.info(),
            )
            for coroutine in coroutines:
                try:
                    coroutine.send(None)
                except PsyQueueError as exc:
                    found.append(type(exc).__name__)
            try:
                keeper.renew("s")
            except PsyQueueError as exc:
                found.append(type(exc).__name__)
            answers.put(found)

        child = context.Process(target=try_all)
        child.start()
        child.join(30)
        assert answers.get() == [ForkedProcess.__name__] * 5
        assert keeper.renew("s").open
        keeper.close()
        assert (await store.add("a")).created


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_turn_at_writing_does_not_outlive_its_process_in_a_forked_child(tmp_path: Path) -> None:
    """The lock belongs to the open file, which a fork shares: the child must have let go of it."""
    forking = """
        import asyncio, os, time, signal
        from backends.sqlite.stores import opened
        async def main(path):
            async with opened(path, "child") as store:
                store.backend._client._lock.acquire()
                pid = os.fork()
                if pid == 0:
                    os.close(1)
                    signal.sigwait({signal.SIGTERM})
                    os._exit(0)
                print(pid, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main(sys.argv[1]))
    """
    async with opened(tmp_path / "jobs.db", busy_timeout="5s") as store:
        child = start_child(forking, tmp_path / "jobs.db")
        out, _ = child.communicate()
        grandchild = int(out)
        try:
            assert (await store.add("a")).created
        finally:
            os.kill(grandchild, signal.SIGTERM)


async def test_a_lost_reply_is_repaired_by_asking_again(tmp_path: Path) -> None:
    """The failpoint raises after the commit: the caller cannot know, the same op finds out."""
    asking = """
        import asyncio, os
        os.environ.update(PSYQUEUE_TEST="1", PSYQUEUE_FAILPOINT="sqlite.commit.after:raise:2")
        from backends.sqlite.stores import opened
        from psyqueue.backend import Op
        from psyqueue.errors import StoreUnavailable
        from psyqueue.testing.conformance.handle import job
        async def main(path):
            async with opened(path, "child") as store:
                await store.add("first")
                try:
                    await store.backend.enqueue(Op("c", 0, 1), [job("a")])
                except StoreUnavailable as exc:
                    print(exc.outcome)
                print((await store.backend.enqueue(Op("c", 0, 1), [job("a")]))[0].created)
        asyncio.run(main(sys.argv[1]))
    """
    assert finish(start_child(asking, tmp_path / "jobs.db")).split() == ["unknown", "True"]
    assert StoreUnavailable("x").outcome == "unknown"

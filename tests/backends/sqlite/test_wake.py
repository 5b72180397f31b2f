"""Sleepers hear of what concerns them, from other processes too. Sockets beside the file are SQLite's own way."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from pathlib import Path

import pytest

from backends.sqlite.stores import finish, opened, start_child
from psyqueue.backends._sqlite import waiting, wake
from psyqueue.backends._sqlite.wake import EVERYTHING, Mailbox, folder_for, mask_of, prepare
from psyqueue.testing.conformance.handle import Store, job

LONG_MS = 30_000


@pytest.fixture
def short_tmp() -> object:
    """A folder whose path leaves room for sockets: those of pytest are often too long."""
    with tempfile.TemporaryDirectory(prefix="pq") as folder:
        yield Path(folder)


@pytest.fixture
def no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only datagrams wake: the look that would make good for a lost one never comes."""
    monkeypatch.setattr(waiting, "POLL_MS", LONG_MS)


# ── one mailbox ───────────────────────────────────────────────────────────────────────────────────────────────────────
class Inbox:
    """What a mailbox received; `first` waits for it."""

    def __init__(self) -> None:
        self._received: asyncio.Queue[bytes] = asyncio.Queue()
        self.put = self._received.put_nowait

    async def first(self) -> bytes:
        async with asyncio.timeout(5):
            return await self._received.get()

    @property
    def is_empty(self) -> bool:
        return self._received.empty()


async def test_a_datagram_reaches_those_who_wait_for_one_of_its_words(short_tmp: Path) -> None:
    folder = str(short_tmp / "wake")
    inbox = Inbox()
    listening, sending = Mailbox(folder, "w", inbox.put), Mailbox(folder, "w", lambda _: None)
    sending.send(EVERYTHING, b"nobody there")
    listening.listen(mask_of(["mail"]))
    other = next(word for word in map(str, range(99)) if not mask_of([word]) & mask_of(["mail"]))
    assert sending.is_anybody_there(mask_of(["mail"]))
    assert not sending.is_anybody_there(mask_of([other]))
    sending.send(mask_of([other]), b"not for you")
    sending.send(mask_of(["mail", other]), b"for you")
    assert await inbox.first() == b"for you"
    assert inbox.is_empty
    for box in (listening, sending):
        box.close()
    assert list((short_tmp / "wake").iterdir()) == []


async def test_a_sleeper_that_changed_its_name_in_between_is_still_reached(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender has listed the folder; then the sleeper waits for more than before."""
    folder = str(short_tmp / "wake")
    inbox = Inbox()
    listening, sending = Mailbox(folder, "w", inbox.put), Mailbox(folder, "w", lambda _: None)
    listening.listen(mask_of(["a"]))
    stale = iter([sending._listeners()])
    look = sending._listeners
    listening.listen(mask_of(["a", "b"]))
    monkeypatch.setattr(sending, "_listeners", lambda: next(stale, None) or look())
    sending.send(mask_of(["a"]), b"found you")
    assert await inbox.first() == b"found you"
    for box in (listening, sending):
        box.close()


async def test_a_sleeper_whose_socket_was_cleared_away_is_reached_again(short_tmp: Path) -> None:
    """Sockets that look old are removed from temporary folders by many systems."""
    folder = short_tmp / "wake"
    inbox = Inbox()
    listening, sending = Mailbox(str(folder), "w", inbox.put), Mailbox(str(folder), "w", lambda _: None)
    for masks in ((EVERYTHING, mask_of("a")), (EVERYTHING, 0, EVERYTHING)):
        listening.listen(masks[0])
        for each in folder.iterdir():
            each.unlink()
        folder.rmdir()
        for mask in masks[1:]:
            listening.listen(mask)
        sending.send(EVERYTHING, b"found you")
        assert await inbox.first() == b"found you"
    for box in (listening, sending):
        box.close()
    assert list(folder.iterdir()) == []


def test_a_sender_without_a_free_handle_says_nothing_until_it_has_one(short_tmp: Path) -> None:
    """It speaks after the commit: an error would be taken for one of the commit."""
    told = """
        import asyncio, os, resource
        from psyqueue.backends._sqlite.wake import EVERYTHING, Mailbox

        async def main(folder):
            received = asyncio.Queue()
            listening, sending = Mailbox(folder, "w", received.put_nowait), Mailbox(folder, "w", print)
            listening.listen(EVERYTHING)
            os.utime(folder, (1, 1))  # quiet for so long that what is found in it is kept
            assert sending.is_anybody_there(EVERYTHING)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            spare = os.open(os.devnull, os.O_RDONLY)
            resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 1, hard))
            sending.send(EVERYTHING, b"unheard")
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            sending.send(EVERYTHING, b"heard")
            print((await received.get()).decode())
            for box in (listening, sending):
                box.close()

        asyncio.run(main(sys.argv[1]))
    """
    assert finish(start_child(told, short_tmp / "wake")) == "heard\n"


async def test_sockets_of_the_dead_are_removed(short_tmp: Path) -> None:
    folder = short_tmp / "wake"
    left = """
        import asyncio, os
        from psyqueue.backends._sqlite.wake import EVERYTHING, Mailbox
        async def main():
            Mailbox(sys.argv[1], "w", print).listen(EVERYTHING)
            os._exit(0)
        asyncio.run(main())
    """
    finish(start_child(left, folder))
    assert len(list(folder.iterdir())) == 1
    sending = Mailbox(str(folder), "w", lambda _: None)
    sending.send(EVERYTHING, b"anybody?")
    assert list(folder.iterdir()) == []
    finish(start_child(left, folder))
    prepare(str(folder))
    assert list(folder.iterdir()) == []
    sending.close()


def test_a_path_too_long_for_a_socket_moves_to_the_temporary_folder(tmp_path: Path) -> None:
    assert folder_for("/srv/jobs.db") == "/srv/jobs.db-wake"
    long = str(tmp_path / ("x" * 90) / "jobs.db")
    folder = folder_for(long)
    assert folder.startswith(str(Path(tempfile.gettempdir()) / "psyqueue-"))
    assert folder == folder_for(long) != folder_for(f"{long}2")


@pytest.mark.parametrize("clean", [True, False], ids=["stopped", "killed"])
async def test_the_folder_in_the_temporary_one_goes_with_the_last_process(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch, clean: bool
) -> None:
    """A killed process cannot tidy up; the next one does it."""
    monkeypatch.setattr(tempfile, "tempdir", str(short_tmp))
    db = short_tmp / ("x" * 90) / "jobs.db"
    db.parent.mkdir()
    folder = short_tmp / Path(folder_for(str(db))).name
    assert str(folder) == folder_for(str(db))
    waiting = """
        import asyncio, os, tempfile
        from backends.sqlite.stores import opened
        async def main(tmp, path, clean):
            tempfile.tempdir = tmp
            async with opened(path, "child") as store:
                asyncio.ensure_future(store.backend.wait(("q",), (), 30_000))
                await asyncio.sleep(0)
                print("waits", flush=True)
                sys.stdin.readline()
                if not clean:
                    os._exit(0)
        asyncio.run(main(*sys.argv[1:3], sys.argv[3] == "True"))
    """
    child = start_child(waiting, short_tmp, db, clean)
    assert child.stdout is not None
    assert await asyncio.to_thread(child.stdout.readline) == "waits\n"
    async with opened(db) as store:
        assert not await store.backend.wait(("q",), (), 1)
    assert len(list(folder.iterdir())) == 1, "the other one is still there"
    finish(child)
    assert folder.exists() is not clean
    async with opened(db):
        pass
    assert not folder.exists()


async def test_a_folder_that_goes_while_a_sleeper_comes_is_made_anew(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = short_tmp / "wake"
    inbox = Inbox()
    listening, sending = Mailbox(str(folder), "w", inbox.put), Mailbox(str(folder), "w", lambda _: None)
    make, goes = wake.own_folder, iter([True, False])

    def made_and_gone(path: str) -> None:
        make(path)
        if next(goes):
            folder.rmdir()

    monkeypatch.setattr(wake, "own_folder", made_and_gone)
    listening.listen(EVERYTHING)
    sending.send(EVERYTHING, b"found you")
    assert await inbox.first() == b"found you"
    for box in (listening, sending):
        box.close()


# ── stores ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def woken(store: Store, *, queues: tuple[str, ...] = (), ids: tuple[str, ...] = ()) -> asyncio.Task[bool]:
    waiter = asyncio.ensure_future(store.backend.wait(queues, ids, LONG_MS))
    await asyncio.sleep(0)
    return waiter


@pytest.mark.usefixtures("no_poll")
async def test_another_process_wakes_for_its_queues_and_its_jobs_alone(short_tmp: Path) -> None:
    writing = """
        import asyncio
        from backends.sqlite.stores import opened
        async def main(path):
            async with opened(path, "child") as store:
                for line in sys.stdin:
                    verb, name = line.split()
                    if verb == "add":
                        await store.add(f"{name}-job", name)
                    else:
                        await store.cancel(name)
                    print("done", flush=True)
        asyncio.run(main(sys.argv[1]))
    """
    async with opened(short_tmp / "jobs.db") as store:
        await store.add("a", "slow", delay_ms=60_000)
        child = start_child(writing, short_tmp / "jobs.db")
        assert child.stdin is not None
        assert child.stdout is not None

        async def tell(line: str) -> None:
            child.stdin.write(f"{line}\n")  # type: ignore[union-attr]
            child.stdin.flush()  # type: ignore[union-attr]
            assert await asyncio.to_thread(child.stdout.readline) == "done\n"  # type: ignore[union-attr]

        for_queue, for_job = await woken(store, queues=("mail",)), await woken(store, ids=("a",))
        await tell("add other")
        assert not for_queue.done()
        assert not for_job.done()
        async with asyncio.timeout(10):
            await tell("add mail")
            assert await for_queue
            assert not for_job.done()
            await tell("cancel a")
            assert await for_job
        finish(child)


async def test_a_transaction_of_somebodys_own_is_noticed_without_any_datagram(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "POLL_MS", 20)
    async with opened(short_tmp / "jobs.db") as store:
        waiter = await woken(store, queues=("mail",))
        connection = sqlite3.connect(short_tmp / "jobs.db")
        await store.backend.bind(connection).enqueue([job("a", "mail")])
        connection.commit()
        connection.close()
        async with asyncio.timeout(10):
            assert await waiter


async def test_nobody_is_woken_while_nothing_happens(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended jobs and empty queues: many looks, no news."""
    monkeypatch.setattr(waiting, "POLL_MS", 5)
    async with opened(short_tmp / "jobs.db") as store:
        await store.add("a", "other")
        assert not await store.backend.wait(("mail",), (), 200)


async def test_without_sockets_the_store_is_polled(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_MS", 20)
    (short_tmp / "jobs.db-wake").write_text("in the way")
    async with opened(short_tmp / "jobs.db") as store, opened(short_tmp / "jobs.db", "other") as other:
        waiter = await woken(store, queues=("mail",))
        await other.add("a", "mail")
        async with asyncio.timeout(10):
            assert await waiter


async def test_a_closed_store_leaves_no_socket(short_tmp: Path) -> None:
    async with opened(short_tmp / "jobs.db") as store:
        waiter = await woken(store, queues=("mail",))
        assert len(list((short_tmp / "jobs.db-wake").iterdir())) == 1
    assert list((short_tmp / "jobs.db-wake").iterdir()) == []
    assert await waiter

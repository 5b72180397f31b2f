"""Files, folders and file systems that jobs cannot be trusted to are refused, in words. Only SQLite has a file."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import sys
from pathlib import Path

import pytest

from backends.sqlite.stores import counts, finish, opened, start_child
from psyqueue.backends._sqlite import SqliteBackend, SqliteOptions
from psyqueue.backends._sqlite.connection import check_version
from psyqueue.backends._sqlite.place import check_file_system, kind_at
from psyqueue.errors import InvalidOption, SchemaTooNew, StoreBusy, StoreFull, StoreUnavailable, StoreUnusable


def modes_in(folder: Path) -> dict[str, int]:
    return {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir() if each.is_file()}


def set_mode(path: Path, mode: int) -> None:
    path.chmod(mode)


async def refusal(path: Path | str, **options: object) -> str:
    backend = SqliteBackend(SqliteOptions(path=path, **options))  # type: ignore[arg-type]
    with pytest.raises(StoreUnusable) as caught:
        await backend.connect()
    return caught.value.message


# ── before anything is opened ─────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "options",
    [
        {"path": ""},
        {"path": "a\0b"},
        {"path": "file:jobs.db?mode=ro"},
        {"path": 5},
        {"path": b"jobs.db"},
        {"path": "jobs.db", "durability": "off"},
        {"path": "jobs.db", "busy_timeout": "soon"},
        {"path": "jobs.db", "busy_timeout": 0},
        {"path": "jobs.db", "busy_timeout": "2h"},
        {"path": "jobs.db", "test_clock": 1},
        {"path": "jobs.db", "allow_network_filesystem": "yes"},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidOption):
        SqliteOptions(**options)  # type: ignore[arg-type]


async def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "is a folder" in await refusal(tmp_path)


async def test_a_missing_folder_is_refused_and_not_made(tmp_path: Path) -> None:
    assert "does not exist" in await refusal(tmp_path / "no" / "jobs.db")
    assert not (tmp_path / "no").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder that nobody can write is needed")
async def test_a_folder_that_takes_no_files_is_refused() -> None:
    assert "Give this user access" in await refusal("/proc/self/jobs.db")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
async def test_a_file_or_folder_without_rights_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "jobs.db"
    file.touch(0o400)
    assert "Give this user access" in await refusal(file)
    set_mode(tmp_path, 0o500)
    try:
        assert "Give this user access" in await refusal(tmp_path / "other.db")
    finally:
        set_mode(tmp_path, 0o700)


async def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(b"dear diary " * 1_000)
    assert "is not an SQLite database" in await refusal(file)
    assert file.read_bytes() == b"dear diary " * 1_000


@pytest.mark.parametrize("text", [b"x", b"SQLite format 2\0" + b"\0" * 1_000])
async def test_a_file_of_something_else_gets_no_files_beside_it(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(text)
    assert "is not an SQLite database" in await refusal(file)
    assert file.read_bytes() == text
    assert modes_in(tmp_path).keys() == {"notes.txt"}


async def test_a_lock_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "jobs.db-lock").mkdir()
    assert "jobs.db-lock cannot be opened" in await refusal(tmp_path / "jobs.db")


HANDLES = """
    import asyncio, os, resource
    from backends.sqlite.stores import opened
    from psyqueue.backends._sqlite import SqliteBackend, SqliteOptions
    from psyqueue.errors import StoreUnusable

    def used():
        names = [f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd")]
        return sorted(os.readlink(each) for each in names if os.path.lexists(each))

    def without(path, names):
        # SQLite keeps handles on it for later, so that its locks stay, and uses them again.
        return [each for each in names if each != path]

    async def main(path):
        async with opened(path) as store:
            await store.add("before")
            await store.open_session()
            keeper = store.backend.keeper()
            before = used()
            for free in range(1, 12):
                resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + free, HARD))
                other = SqliteBackend(SqliteOptions(path=path))
                try:
                    await other.connect()
                    await other.disconnect()
                except StoreUnusable as exc:
                    assert "files" in str(exc), exc
                for _ in range(2):
                    try:
                        keeper.renew("s")
                    except StoreUnusable as exc:
                        assert "files" in str(exc), exc
                keeper.close()
                await store.add(f"during-{free}")
                resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT, HARD))
                assert without(path, used()) == without(path, before), (free, before, used())
            assert keeper.renew("s").open
            keeper.close()
            print(await store.broken())

    SOFT, HARD = resource.getrlimit(resource.RLIMIT_NOFILE)
    asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted there")
def test_a_process_that_runs_out_of_handles_says_so_keeps_none_and_goes_on(tmp_path: Path) -> None:
    """With one handle left, with two, …: each opening fails at another place."""
    assert finish(start_child(HANDLES, tmp_path / "jobs.db")) == "[]\n"


def test_an_old_sqlite_is_refused() -> None:
    check_version((3, 35, 0))
    with pytest.raises(StoreUnusable, match=r"SQLite 3\.34\.1; psyqueue needs 3\.35\.0"):
        check_version((3, 34, 1))


async def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as store:
        await store.add("a")
        modes = modes_in(tmp_path)
        assert modes.keys() >= {"jobs.db", "jobs.db-wal", "jobs.db-shm", "jobs.db-lock"}
        assert set(modes.values()) == {0o600}
        assert (await store.backend.info()).warnings == ()
        set_mode(tmp_path / "jobs.db", 0o644)
        assert any("chmod 600" in each for each in (await store.backend.info()).warnings)


# ── file systems ──────────────────────────────────────────────────────────────────────────────────────────────────────
MOUNTS = r"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /net/team rw,relatime shared:1 - nfs4 host:/team rw
31 22 0:41 / /net/team/local rw - xfs /dev/vdb rw
32 22 0:42 / /net/my\040share rw - cifs //host/share rw
33 22 0:43 / /net/again rw - ext4 /dev/vdc rw
34 22 0:44 / /net/again rw - fuse.sshfs host: rw
broken line
""".splitlines()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/jobs.db", "ext4"),
        ("/net/team/jobs.db", "nfs4"),
        ("/net/teamwork/jobs.db", "ext4"),
        ("/net/team/local/jobs.db", "xfs"),
        ("/net/my share/jobs.db", "cifs"),
        ("/net/again/jobs.db", "fuse.sshfs"),
    ],
)
def test_the_file_system_of_a_path_is_found(path: str, kind: str) -> None:
    assert kind_at(path, MOUNTS) == kind


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"])
def test_network_file_systems_are_refused_unless_allowed(kind: str) -> None:
    with pytest.raises(StoreUnusable, match=f"network file system \\({kind}\\)"):
        check_file_system("jobs.db", kind, allow_network=False)
    (warning,) = check_file_system("jobs.db", kind, allow_network=True)
    assert "lost or run twice" in warning


def test_local_and_unknown_file_systems_are_taken() -> None:
    assert check_file_system("jobs.db", "ext4", allow_network=False) == ()
    assert check_file_system("jobs.db", None, allow_network=False) == ()
    assert len(check_file_system("jobs.db", "virtiofs", allow_network=False)) == 1


async def test_the_file_system_is_looked_at_when_a_store_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psyqueue.backends._sqlite.place.file_system_of", lambda file: "nfs4")
    assert "network file system" in await refusal(tmp_path / "jobs.db")
    assert not (tmp_path / "jobs.db").exists()
    async with opened(tmp_path / "jobs.db", allow_network_filesystem=True) as store:
        assert any("network" in each for each in (await store.backend.info()).warnings)


# ── what is in the file ───────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_users_own_database_can_hold_the_jobs_too(tmp_path: Path) -> None:
    file = tmp_path / "app.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO orders VALUES (7)")
    connection.close()
    async with opened(file) as store:
        await store.add("a")
        assert await store.broken() == []
    connection = sqlite3.connect(file)
    assert connection.execute("SELECT id FROM orders").fetchall() == [(7,)]
    connection.close()


async def test_tables_that_only_look_like_ours_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "app.db"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE psyqueue_job (x)")
    connection.close()
    assert "not ours" in await refusal(file)


async def test_an_edited_or_newer_schema_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "jobs.db"
    async with opened(file):
        pass
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("UPDATE psyqueue_schema SET checksum = 'x'")
    assert "differs" in await refusal(file)
    connection.execute("INSERT INTO psyqueue_schema VALUES (99, 'later', 'x', 0)")
    connection.close()
    with pytest.raises(SchemaTooNew):
        await SqliteBackend(SqliteOptions(path=file)).connect()


async def test_the_clock_of_a_real_store_cannot_be_stopped(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db"):
        pass
    assert "real clock" in await refusal(tmp_path / "jobs.db", test_clock=True)


async def test_a_damaged_file_says_so(tmp_path: Path) -> None:
    """Half of its pages are overwritten with noise; the header stays."""
    file = tmp_path / "jobs.db"
    async with opened(file) as store:
        await store.fill(500)
    data = bytearray(file.read_bytes())
    for page in range(2, len(data) // 4096, 2):
        data[page * 4096 : (page + 1) * 4096] = os.urandom(4096)
    file.write_bytes(data)
    with pytest.raises(StoreUnusable, match=r"damaged|not an SQLite") as caught:
        async with opened(file) as store:
            await store.fill(500, "r")
    assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)


# ── while it is open ──────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
async def test_a_file_that_went_away_is_noticed_before_anything_is_written(tmp_path: Path, how: str) -> None:
    file = tmp_path / "jobs.db"
    async with opened(file) as store:
        await store.fill(1)
        await store.open_session()
        keeper = store.backend.keeper()
        moved = file.rename(tmp_path / "old.db") if how == "moved" else None
        if how == "deleted":
            file.unlink()
        elif how == "replaced":
            shutil.copy(file, tmp_path / "copy.db")
            (tmp_path / "copy.db").rename(file)
        for call in (store.add("b"), store.backend.get(["q-0000"]), store.dequeue()):
            with pytest.raises(StoreUnusable, match=r"replaced|deleted or moved"):
                await call
        with pytest.raises(StoreUnusable):
            keeper.renew("s")
        keeper.close()
        if moved is not None:
            moved.rename(file)
            assert (await store.add("b")).created


@pytest.mark.parametrize("lost", ["-wal", "-shm"])
async def test_a_side_file_of_sqlite_that_was_deleted_is_noticed_before_anything_is_written(
    tmp_path: Path, lost: str
) -> None:
    """Whoever opens the file next gets new ones: what both accept from then on, only one of them would ever see."""
    file = tmp_path / "jobs.db"
    async with opened(file) as store:
        await store.fill(1)
        await store.open_session()
        (tmp_path / f"jobs.db{lost}").unlink()
        keeper = store.backend.keeper()
        for call in (store.add("b"), store.backend.get(["q-0000"]), store.dequeue()):
            with pytest.raises(StoreUnusable, match=rf"jobs\.db{lost}: was deleted .* restart every process"):
                await call
        with pytest.raises(StoreUnusable, match=f"{lost}: was deleted"):
            keeper.renew("s")
        keeper.close()
    async with opened(file) as store:
        assert await counts(store, "q") == {"pending": 1}
        assert await store.broken() == []


async def test_a_lease_is_not_renewed_in_another_file(tmp_path: Path) -> None:
    """Its keeper is made after the file was replaced: it is of the file that was opened all the same."""
    file = tmp_path / "jobs.db"
    async with opened(file) as store, opened(tmp_path / "other.db") as other:
        for each in (store, other):
            await each.open_session()
        (tmp_path / "other.db").rename(file)
        keeper = store.backend.keeper()
        with pytest.raises(StoreUnusable, match="was replaced"):
            keeper.renew("s")
        keeper.close()


async def test_a_file_that_others_keep_locked_is_busy_and_says_why(tmp_path: Path) -> None:
    file = tmp_path / "jobs.db"
    async with opened(file, busy_timeout="200ms") as store:
        connection = sqlite3.connect(file, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy, match="pass conn="):
            await store.add("a")
        connection.execute("ROLLBACK")
        assert (await store.add("a")).created
        connection.close()


async def test_a_file_that_is_locked_whole_cannot_be_opened_and_says_why(tmp_path: Path) -> None:
    file = tmp_path / "jobs.db"
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("CREATE TABLE t (x)")
    connection.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreBusy, match="stayed locked"):
        async with opened(file, busy_timeout="100ms"):
            pass
    connection.execute("ROLLBACK")
    connection.close()
    async with opened(file, busy_timeout="100ms") as store:
        assert (await store.add("a")).created


async def test_a_full_store_refuses_whole_calls_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """SQLite's own bound of pages stands for the end of the disk: it is met at the same places."""
    async with opened(tmp_path / "jobs.db") as store:
        await store.fill(20)
        await store.open_session()
        held = await store.dequeue(count=10)
        connection = store.backend._client._writer._connection  # type: ignore[attr-defined]
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreFull, match="nothing was written"):
            await store.fill(500, "r", payload=b'"' + b"x" * 2_000 + b'"')
        assert await counts(store, "r") == {}
        for delivery in held:
            await store.ack(delivery)
        connection.execute(f"PRAGMA max_page_count = {1 << 30}")
        await store.fill(500, "r", payload=b'"' + b"x" * 2_000 + b'"')
        assert await counts(store, "r") == {"pending": 500}
        assert await store.broken() == []


FILE_SIZE = """
    import asyncio, resource
    from pathlib import Path
    from backends.sqlite.stores import counts, opened
    from psyqueue.errors import StoreError

    async def main(path):
        async with opened(path, durability="full") as store:
            await store.fill(20)
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (Path(path + "-wal").stat().st_size + 20_000, hard))
            try:
                await store.fill(500, "r", payload=b'"' + b"x" * 2_000 + b'"')
            except StoreError as exc:
                print(type(exc).__name__, getattr(exc, "outcome", ""))
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            print(await counts(store, "r"))
            await store.fill(500, "r", payload=b'"' + b"x" * 2_000 + b'"')
            print(await counts(store, "r"), await store.broken())

    asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of resources")
def test_a_disk_that_fails_in_the_middle_of_a_commit_leaves_nothing_half_there(tmp_path: Path) -> None:
    """The kernel refuses the file's growth: a write of the commit fails where no error of SQLite is planned for."""
    lines = finish(start_child(FILE_SIZE, tmp_path / "jobs.db")).splitlines()
    assert lines[0] in ("StoreUnavailable unknown", "StoreFull ")
    assert lines[1:] == ["{}", "{'pending': 500} []"]


DEAF_DISK = """
    import asyncio, os
    from backends.sqlite.stores import opened
    from psyqueue.errors import StoreError

    async def main(path):
        async with opened(path) as store:
            ids = await store.fill(1_000)
            names = [int(each) for each in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{each}")]
            for each in names:
                if os.readlink(f"/proc/self/fd/{each}") in (path, path + "-wal"):
                    os.close(each)
            try:
                await store.backend.get(ids[:500])
            except StoreError as exc:
                print(type(exc).__name__, exc.outcome, str(exc), flush=True)
            os._exit(0)

    asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are found there")
def test_a_disk_that_fails_under_a_reader_is_told_as_that(tmp_path: Path) -> None:
    """SQLite ends the transaction by itself then: there is nothing to roll back."""
    told = finish(start_child(DEAF_DISK, tmp_path / "jobs.db"))
    assert told.startswith("StoreUnavailable unknown")
    assert "SQLITE_IOERR" in told


async def test_calls_after_the_end_are_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as store:
        pass
    with pytest.raises(StoreUnavailable, match=r"call connect\(\)") as caught:
        await store.add("a")
    assert caught.value.outcome == "refused"


async def test_a_file_with_two_names_is_refused(tmp_path: Path) -> None:
    """Hard links: each name would have a WAL of its own, and what one accepts would be written over by the other."""
    async with opened(tmp_path / "jobs.db") as store:
        await store.add("a")
    link = tmp_path / "link.db"
    link.hardlink_to(tmp_path / "jobs.db")
    for path in (tmp_path / "jobs.db", link):
        assert "has 2 names (hard links)" in await refusal(path)
    link.unlink()
    async with opened(tmp_path / "jobs.db") as store:
        assert await counts(store, "q") == {"pending": 1}


async def test_a_file_that_is_mounted_by_itself_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `docker run -v ./jobs.db:/data/jobs.db` does it; what the kernel says of such a mount is put in its place."""
    async with opened(tmp_path / "jobs.db") as store:
        await store.add("a")
    mounts = tmp_path / "mountinfo"
    monkeypatch.setattr("psyqueue.backends._sqlite.place._MOUNTS", mounts)
    of_root = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
    mounts.write_text(f"{of_root}42 27 254:0 /srv/jobs.db {tmp_path}/jobs.db rw - ext4 /dev/vda rw\n", encoding="utf-8")
    assert "Mount the folder" in await refusal(tmp_path / "jobs.db")
    mounts.write_text(f"{of_root}42 27 254:0 /srv {tmp_path} rw - ext4 /dev/vda rw\n", encoding="utf-8")
    async with opened(tmp_path / "jobs.db") as store:
        assert await counts(store, "q") == {"pending": 1}


async def test_links_to_one_file_share_its_turns(tmp_path: Path) -> None:
    """Two paths, one file: with two lock files the turns at writing would not be fair."""
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "jobs.db")
    async with opened(tmp_path / "jobs.db") as one, opened(link, "other") as two:
        await one.add("a")
        await two.add("b")
        assert await counts(two, "q") == {"pending": 2}
    assert not (tmp_path / "link.db-lock").exists()

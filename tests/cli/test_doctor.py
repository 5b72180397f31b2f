"""`psyqueue doctor`: each thing that can be wrong is made wrong, found, and comes with advice."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from psyqueue import PsyQueue
from psyqueue.backend import Info, Op
from psyqueue.backends._sqlite import SqliteOptions
from psyqueue.cli import doctor as around
from psyqueue.cli import doctor_sqlite
from psyqueue.cli.findings import Finding
from psyqueue.clock import SystemClock
from support.waiting import wait_until

CHECKS = [
    "sqlite version",
    "file system",
    "file permissions",
    "folder permissions",
    "free disk space",
    "wal size",
    "journal mode",
    "integrity",
    "store",
    "synchronous",
    "mode",
    "warnings",
    "worker sessions",
    "stranded jobs",
    "worker versions",
    "worker names",
    "worker clocks",
    "leases",
    "queues without worker",
    "forgotten pauses",
    "limits of nothing",
    "backlog",
    "full queues",
    "retention",
    "growth",
    "unknown handlers",
    "overdue jobs",
    "overdue schedules",
    "open circuits",
    "dropped tiers",
    "stuck jobs",
    "held jobs",
    "slow handlers",
    "unheeded cancels",
    "dead in the last day",
    "dead ratio",
    "deadly jobs",
    "invariants",
]


def failed(cli) -> dict[str, Any]:
    """What a doctor that says no complains about, by check."""
    answer = cli.call("doctor", "--json")
    assert answer.code == 1, answer
    assert answer.json["ok"] is False
    found = {each["name"]: each for each in answer.json["checks"] if not each["ok"]}
    assert all(each["advice"] for each in found.values()), "each complaint comes with a way out"
    return found


def test_a_healthy_store_passes_every_check(cli):
    cli.make_active("slow")
    found = cli.json("doctor")
    assert list(found) == ["ok", "checks"]
    assert [each["name"] for each in found["checks"]] == CHECKS
    assert [list(each) for each in found["checks"]] == [["name", "ok", "detail", "advice"]] * len(CHECKS)
    assert found["ok"] is True
    told = cli.call("doctor").out
    assert "FAILED" not in told
    assert len(told.splitlines()) == len(CHECKS) + 1


def test_jobs_without_a_worker_are_found(cli):
    cli.enqueue("mail")
    assert failed(cli)["queues without worker"]["detail"] == "mail (1)"
    told = cli.call("doctor")
    assert "queues without worker: mail (1)\n  Nobody takes these jobs: start a worker" in told.out


def test_a_paused_queue_needs_no_worker(cli):
    cli.enqueue("mail")
    assert cli.call("queues", "pause", "mail").code == 0
    assert cli.call("doctor").code == 0


def test_jobs_of_a_dead_worker_are_found(cli):
    cli.make_active("slow", lease_ms=1)
    assert wait_until(lambda: cli.sessions()[0].expires_in_ms < 0)
    found = failed(cli)
    assert set(found) == {"worker sessions", "stranded jobs", "leases"}
    assert re.fullmatch("1 of 1 late, up to .+: w", found["worker sessions"]["detail"])
    assert found["stranded jobs"]["detail"] == "1 held by late sessions"


def test_dead_jobs_are_found(cli):
    cli.make_dead("mail", "other")
    found = failed(cli)
    assert set(found) == {"dead in the last day"}
    assert found["dead in the last day"]["detail"] == "2 jobs"


def test_a_file_that_everybody_may_read_is_found(cli):
    cli.enqueue("mail")
    cli.with_queue(lambda queue: queue.pause("mail"))
    (cli.folder / "jobs.db").chmod(0o644)
    found = failed(cli)
    assert found["file permissions"]["detail"].startswith("jobs.db 0644")
    for path in cli.folder.glob("jobs.db*"):
        if path.is_file():
            path.chmod(0o600)
    assert cli.call("doctor").code == 0


def test_a_folder_in_which_everybody_may_write_is_found(cli):
    cli.make_active("slow")
    cli.folder.chmod(0o777)
    assert failed(cli)["folder permissions"]["detail"] == "0777"
    cli.folder.chmod(0o1777)
    assert cli.json("doctor")["ok"] is True, "in a sticky one files belong to their owners"


def test_a_damaged_file_is_found_and_left_as_it_is(cli):
    for number in range(200):
        cli.enqueue("mail", "x" * 500 + str(number))
    file = cli.folder / "jobs.db"
    data = bytearray(file.read_bytes())
    data[20_000:60_000] = b"\xff" * 40_000
    file.write_bytes(data)
    found = failed(cli)
    assert "integrity" in found
    assert "restore a copy" in found["integrity"]["advice"]


def test_a_file_that_is_no_database_is_found(cli):
    (cli.folder / "jobs.db").write_bytes(b"no database at all, " * 500)
    found = failed(cli)
    assert "file is not a database" in found["integrity"]["detail"]
    assert "is not an SQLite database" in found["store"]["detail"]


def test_a_store_that_is_being_moved_is_found(cli):
    cli.enqueue("mail")

    async def freeze(queue: PsyQueue) -> None:
        backend = queue.get_exposed("backend")
        epoch = (await backend.info()).epoch
        await backend.set_mode(Op("test", 1, 1), "moved", epoch + 1, "redis://new")

    cli.with_queue(freeze)
    found = failed(cli)
    assert found["mode"]["detail"] == "moved, moved to redis://new"
    assert list(found) == ["mode"], "nobody has to look after the jobs that are left here"
    answer = cli.call("queues", "ls")
    assert "nothing starts here, the jobs live at redis://new" in answer.err
    assert "mail" in answer.out


def test_broken_invariants_are_found(cli):
    job_id = cli.make_active("slow")
    connection = sqlite3.connect(cli.folder / "jobs.db")
    with connection:
        connection.execute("UPDATE psyqueue_job SET fence = -5")
    connection.close()
    assert job_id in failed(cli)["invariants"]["detail"]


# ── what a test cannot make wrong for real ────────────────────────────────────────────────────────────────────────────
def sqlite_finding(file: Path, name: str) -> Finding:
    return next(each for each in doctor_sqlite.sqlite_findings(file) if each.name == name)


@pytest.fixture
def file(cli):
    cli.enqueue("mail")
    return cli.folder / "jobs.db"


def test_an_old_sqlite_is_found(file, monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 0))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.31.0")
    assert sqlite_finding(file, "sqlite version") == Finding(
        "sqlite version", False, "3.31.0 (3.35.0 or newer is needed)", "Use a newer Python"
    )


@pytest.mark.parametrize(("kind", "ok"), [("nfs4", False), ("virtiofs", True), ("ext4", True), (None, True)])
def test_a_file_system_of_another_machine_is_found(file, monkeypatch, kind, ok):
    monkeypatch.setattr(doctor_sqlite, "file_system_of", lambda _: kind)
    assert sqlite_finding(file, "file system").ok is ok


def test_a_full_disk_is_found(file, monkeypatch):
    monkeypatch.setattr(doctor_sqlite, "FREE_BYTES_MIN", 1 << 60)
    assert not sqlite_finding(file, "free disk space").ok


def test_a_wal_that_nobody_writes_back_is_found(file):
    with file.with_name("jobs.db-wal").open("ab") as wal:
        wal.truncate(doctor_sqlite.WAL_BYTES_MAX + 1)
    assert not sqlite_finding(file, "wal size").ok


def test_another_journal_mode_is_found(file):
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    assert sqlite_finding(file, "journal mode").detail == "delete"


@pytest.mark.parametrize(
    ("durability", "power_loss", "ok"),
    [
        ("full", "safe", True),
        ("full", "bounded_loss", False),
        ("normal", "bounded_loss", True),
        ("normal", "safe", False),
    ],
)
def test_a_promise_that_is_not_kept_is_found(file, durability, power_loss, ok):
    found = doctor_sqlite.synchronous_finding(SqliteOptions(path=file, durability=durability), power_loss)
    assert found.ok is ok
    assert found.detail.startswith(f"{durability}; durability={durability}")


def info(**changes: Any) -> Info:
    fields: dict[str, Any] = dict.fromkeys(Info.__struct_fields__, "safe")
    fields |= {"now_ms": 0, "schema": 1, "epoch": 1, "mode": "open", "moved_to": "", "warnings": ()}
    return Info(**{**fields, **changes})


def test_warnings_of_the_store_are_passed_on():
    found = around._warnings(info(warnings=("maxmemory-policy is allkeys-lru",)))
    assert (found.ok, found.detail) == (False, "maxmemory-policy is allkeys-lru")


def test_a_clock_that_is_wrong_is_found():
    assert not around._clock(info(now_ms=0)).ok
    assert around._clock(info(now_ms=SystemClock().now_ms())).ok


def test_a_store_without_a_file_is_looked_at_too(cli):
    answer = cli.call("doctor", "--backend", "memory:", "--json")
    assert answer.code == 1, "it warns: all is gone with the process"
    assert [each["name"] for each in answer.json["checks"]] == ["store", "clock", *CHECKS[10:]]


def test_findings_are_gathered_without_blocking(file):
    found = asyncio.run(around._findings(PsyQueue.from_url(f"sqlite:{file}")))
    assert [each.name for each in found] == CHECKS

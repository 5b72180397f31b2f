"""A file whose content goes back in time under a living worker, as `.restore` of SQLite's shell does it."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from backends.troubles import Held
from support.store_at import store_at
from worker.rig import Rig, renewed_often, started


def copied(source: Path, to: Path) -> None:
    with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(to)) as new:
        old.backup(new)


async def test_an_older_content_is_worked_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, backup = tmp_path / "jobs.db", tmp_path / "backup.db"
    async with started(Rig(store_at(str(file)))) as rig:
        held = Held(rig)
        jobs = [await held.handler.enqueue(n) for n in range(3)]
        worker = rig.worker(concurrency=3, lease_ms=renewed_often(monkeypatch))  # it asks with each renewal
        await rig.told.first("job:started", count=3)
        copied(file, backup)
        held.go.set()
        assert [await job.result(20) for job in jobs] == [0, 1, 2]
        copied(backup, file)
        assert await rig.statuses("q") == {"active": 3}
        assert await rig.ended(*jobs) == ["completed"] * 3
        assert await (await held.handler.enqueue(3)).result(20) == 3
        assert held.starts == {0: 2, 1: 2, 2: 2, 3: 1}
        assert (await rig.store.check(None, 500))[0] == ()
        assert worker.failure is None

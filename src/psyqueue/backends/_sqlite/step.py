"""One atomic step: the store's clock, the counters, and what is known only when the step is over."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from psyqueue.backend import NO_EFFECTS, Effects, Mode, NewJob
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.clock import SystemClock
from psyqueue.errors import NamespaceFrozen, NamespaceMoved
from psyqueue.job import STATUSES, Status

WAITING, SCHEDULED, PENDING, ACTIVE, COMPLETED, DEAD, CANCELLED = range(len(STATUSES))
NUMBER_OF: dict[Status, int] = {status: number for number, status in enumerate(STATUSES)}

_READ = SQL["meta.read"]
_KEEP = SQL["meta.keep"]
_TALLY = SQL["meta.tally"]
_LANE = SQL["meta.lane"]
_IS_CROWDED = SQL["limits.crowded"]
_clock = SystemClock()
CLOCK_GRAIN_MS = 1_000
"""The clock's high-water mark is written when it is this old: it may lag by as much where the wall clock went back."""


About: TypeAlias = tuple[str | None, int | None, str | None]
"""Client and channel of the op, and the session: what is looked up when a step begins."""
NOTHING: About = (None, None, None)


class Step:
    """Inside a transaction of `connection`. Counts are gathered and written once, by `flush`."""

    __slots__ = (
        "_changes_before", "_counters", "_high_ms", "_is_shifted", "_lane_counts", "_shift_ms", "_tallies",
        "connection", "ended", "epoch", "follower", "given", "has_cancels", "has_followers", "has_lanes", "has_limits",
        "is_everybody_touched", "made", "mode", "mono_ms", "moved_to", "now_ms", "ready", "reaped_mono_ms", "run",
        "session", "touched", "turn",
    )  # fmt: skip

    def __init__(self, connection: sqlite3.Connection, about: About = NOTHING) -> None:
        self.connection = connection
        self.run = connection.execute
        self.touched: set[str] = set()
        """Queues in which a job became pending or scheduled."""
        self.ended: list[str] = []
        self.is_everybody_touched = False
        self.given: list[int] = []
        """Creation numbers of the deliveries, in order."""
        self._tallies: dict[tuple[str, int], int] = {}
        self._lane_counts: dict[tuple[str, str], list[int]] = {}
        self._changes_before = connection.total_changes
        row = self.run(_READ, about).fetchone()
        self.made, self.ready, self.follower = self._counters = row[:3]
        self.mode: Mode = row[3]
        self.epoch: int = row[4]
        self.moved_to: str = row[5]
        self.now_ms: int = row[6] if row[6] is not None else _clock.now_ms()
        self._high_ms: int = row[8]
        # Wall + shift; while the wall goes back it stands still, then runs on.
        self._shift_ms: int = max(row[7], self._high_ms - self.now_ms)
        self._is_shifted = self._shift_ms != row[7]
        self.mono_ms = self.now_ms + self._shift_ms
        self.reaped_mono_ms: int = row[9]
        # Asked once, so that a store without them does not ask queue by queue. True may be wrong, False is not.
        self.has_followers, self.has_limits, self.has_lanes, self.has_cancels = row[10:14]
        self.turn: tuple[int | None, str, bytes] = row[14:17]
        self.session: tuple[int | None, int | None] = row[17:]
        """(number, closed at) of the session that the step is about."""

    # ── the fence ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def require_enqueue(self, jobs: Sequence[NewJob] = (), effects: Effects = NO_EFFECTS) -> None:
        """While draining only calls are taken that belong to jobs there."""
        if self.mode in ("open", "filling"):
            return
        is_bound = self.mode == "draining" and any(map(self._belongs_here, (*jobs, *effects.jobs)))
        if not is_bound:
            self._refuse()

    def _belongs_here(self, job: NewJob) -> bool:
        """It needs another job, or somebody has a place at its gate, or stands in line there."""
        if job.needs or job.gate is None:
            return bool(job.needs)
        return self.run(SQL["links.is_gate_in_use"], (job.gate.key, job.gate.key)).fetchone() is not None

    def require_dequeue(self) -> None:
        if self.starts_nothing:
            self._refuse()

    def require_change(self) -> None:
        if self.mode in ("frozen", "moved"):
            self._refuse()

    @property
    def starts_nothing(self) -> bool:
        """Nothing becomes due, expires or is pruned either: jobs may be on their way into it."""
        return self.mode in ("filling", "frozen", "moved")

    def _refuse(self) -> None:
        if self.mode == "moved" or self.moved_to:
            raise NamespaceMoved(self.moved_to)
        raise NamespaceFrozen(f"the namespace is {self.mode}: jobs are being moved. Try again later")

    # ── counts ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def count(self, queue: str, lane: str, status: int, by: int) -> None:
        key = (queue, status)
        self._tallies[key] = self._tallies.get(key, 0) + by
        if lane:
            self.has_lanes = True
            counts = self._lane_counts.setdefault((queue, lane), [0, 0, 0])
            if status <= PENDING:
                counts[1] += by
                if status == PENDING:
                    counts[0] += by
            elif status == ACTIVE:
                counts[2] += by

    def flush_counts(self) -> None:
        if self._tallies:
            rows = [(queue, status, by) for (queue, status), by in self._tallies.items() if by]
            for row in rows:
                self.run(_TALLY, row)
            for queue, status, by in rows:
                # Where running jobs are limited, the end of one is news to who waits for a start.
                if (
                    self.has_limits
                    and status == ACTIVE
                    and by < 0
                    and self.run(_IS_CROWDED, (queue,)).fetchone() is not None
                ):
                    self.touched.add(queue)
            self._tallies.clear()
        if self._lane_counts:
            # A lane without a difference is written too: it is known from now on.
            lanes = [(queue, lane, *counts) for (queue, lane), counts in self._lane_counts.items()]
            self.connection.executemany(_LANE, lanes)
            self._lane_counts.clear()

    def tallies(self, queue: str) -> dict[int, int]:
        """Status → jobs, this step included."""
        self.flush_counts()
        return dict(self.run(SQL["meta.tallies"], (queue,)).fetchall())

    def lane_counts(self, queue: str, lane: str) -> tuple[int, int, int]:
        """(pending, unstarted, active) of a lane; of the default one by what the others leave."""
        if lane:
            self.flush_counts()
            row = self.run(SQL["meta.lane_counts"], (queue, lane)).fetchone()
            return row or (0, 0, 0)
        jobs = self.tallies(queue)
        pending, unstarted, active = self.run(SQL["meta.lane_sums"], (queue,)).fetchone()
        every = (jobs.get(WAITING, 0), jobs.get(SCHEDULED, 0), jobs.get(PENDING, 0))
        return every[2] - int(pending), sum(every) - int(unstarted), jobs.get(ACTIVE, 0) - int(active)

    @property
    def has_news(self) -> bool:
        """Something that others may be waiting for."""
        return bool(self.touched or self.ended or self.is_everybody_touched)

    # ── the end of a step, and parts of it that may fail ──────────────────────────────────────────────────────────────
    @property
    def is_changed(self) -> bool:
        return bool(self._tallies) or self.connection.total_changes != self._changes_before

    def flush(self) -> None:
        """Write counts, counters and the clock's high-water mark, if anything was changed."""
        if self.is_changed:
            self.flush_counts()
            counters = (self.made, self.ready, self.follower)
            if counters != self._counters or self.mono_ms - self._high_ms > CLOCK_GRAIN_MS or self._is_shifted:
                self.run(_KEEP, (*counters, self._shift_ms, self.mono_ms))

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[None]:
        """All of the block or nothing of it, the rest of the step untouched."""
        self.flush_counts()
        connection = self.connection
        kept: tuple[Any, ...] = (self.made, self.ready, self.follower, set(self.touched), len(self.ended))
        changes = connection.total_changes
        self.run("SAVEPOINT part")
        try:
            yield
            self.flush_counts()
        except BaseException:
            if connection.in_transaction:
                self.run("ROLLBACK TO part")
                self.run("RELEASE part")
            self._changes_before += connection.total_changes - changes
            self._tallies.clear()
            self._lane_counts.clear()
            self.made, self.ready, self.follower, self.touched, ended = kept
            del self.ended[ended:]
            raise
        self.run("RELEASE part")

    def note_clock(self) -> None:
        """Keep the clock's high-water mark although nothing else changes."""
        self.run(_KEEP, (self.made, self.ready, self.follower, self._shift_ms, self.mono_ms))

    def take_clock(self, moved: Step) -> None:
        """The clock of a step that began later, in the same transaction."""
        self.now_ms, self.mono_ms, self._shift_ms = moved.now_ms, moved.mono_ms, moved._shift_ms

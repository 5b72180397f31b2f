"""Everything the memory store knows, and the few ways in which a job's row changes."""

from __future__ import annotations

import heapq
import time
from collections import defaultdict
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from psyqueue.backend import Dependency, Item, Limits, Mode, NewJob, Op, Schedule, Session, Stored
from psyqueue.backend.state_rules import TEST_EPOCH_MS
from psyqueue.backends._memory.tables import Journal, Table
from psyqueue.job import Status


class Row(Struct, frozen=True, kw_only=True):
    """One job. `number` is its place in the order of creation; `token` is set while it is active, and only then."""

    job: NewJob
    number: int
    status: Status
    created_at_ms: int
    run_at_ms: int
    expires_at_ms: int | None = None
    ready_number: int | None = None
    attempt: int = 0
    lost: int = 0
    fence: int = 0
    generation: int = 0
    token: str | None = None
    settled_token: str | None = None
    session_id: str | None = None
    started_at_ms: int | None = None
    completed_at_ms: int | None = None
    reason: str = ""
    needs_left: int = 0
    has_place: bool = False
    """It holds a place of its gate."""
    held: bool = False
    cancel_requested: bool = False
    result: bytes | None = None
    errors: tuple[bytes, ...] = ()


class Edge(Struct, frozen=True):
    """`child` needs `parent` to end in `on`. It goes when the child ends."""

    parent: str
    child: str
    on: tuple[Status, ...]
    met: bool = False


class Kept(Struct, frozen=True):
    """An idempotency key."""

    job_id: str
    digest: bytes
    expires_mono_ms: int


class Holder(Struct, frozen=True):
    """A lock: who holds it, until when; `fence` survives the release."""

    holder: str
    fence: int
    until_mono_ms: int


class Lease(Struct, frozen=True, kw_only=True):
    session: Session
    until_mono_ms: int
    opened_at_ms: int
    closed_mono_ms: int | None = None


class Bucket(Struct, frozen=True):
    """`level` in 1/60,000 of a token, so that a rate per minute refills in whole units each millisecond."""

    level: int
    at_mono_ms: int


class Cell(Struct, frozen=True):
    """A state key: the item and when it goes; a bucket keeps its level beside it."""

    item: Item
    expires_mono_ms: int | None = None
    bucket: Bucket | None = None


class Turn(Struct, frozen=True):
    """The last op of a channel that changed something."""

    op: Op
    verb: str
    reply: Any
    at_mono_ms: int


class Line(Struct, frozen=True):
    """A record and when it may be pruned."""

    stored: Stored
    expires_mono_ms: int | None


class Store:
    """The state. Values in tables are immutable; the heaps are hints whose entries are checked against the rows."""

    def __init__(self, *, test_clock: bool = False) -> None:
        journal = Journal()
        self.journal: Journal = journal
        self.rows: Table[str, Row] = Table(journal)
        self.tally: Table[tuple[str, Status], int] = Table(journal)
        self.unique: Table[str, str] = Table(journal)
        self.kept: Table[str, Kept] = Table(journal)
        self.edges: Table[tuple[str, str], Edge] = Table(journal)
        self.children: Table[str, tuple[str, ...]] = Table(journal)
        self.places: Table[str, int] = Table(journal)
        """Gate key → places taken."""
        self.lines: Table[str, tuple[str, ...]] = Table(journal)
        """Gate key → ids waiting for a place alone, in order of creation."""
        self.followers: Table[int, tuple[str, str]] = Table(journal)
        """Left-over follow-through, in order: ("needs", parent id) or ("gate", key)."""
        self.sessions: Table[str, Lease] = Table(journal)
        self.holding: Table[str, tuple[str, ...]] = Table(journal)
        """Session id → ids of its deliveries."""
        self.limits: Table[tuple[str, str | None], Limits] = Table(journal)
        self.buckets: Table[tuple[str, str | None], Bucket] = Table(journal)
        self.lane_pending: Table[tuple[str, str], int] = Table(journal)
        self.lane_active: Table[tuple[str, str], int] = Table(journal)
        self.lane_unstarted: Table[tuple[str, str], int] = Table(journal)
        self.lane_time: Table[tuple[str, str], int] = Table(journal)
        """(queue, lane) → virtual time; a queue without lanes other than the default one has no entry."""
        self.queue_time: Table[str, int] = Table(journal)
        self.schedules: Table[str, Schedule] = Table(journal)
        self.fires: Table[tuple[str, int], int] = Table(journal)
        self.cells: Table[str, Cell] = Table(journal)
        self.records: Table[tuple[str, int], Line] = Table(journal)
        self.streams: Table[str, int] = Table(journal)
        self.locks: Table[str, Holder] = Table(journal)
        self.turns: Table[tuple[str, int], Turn] = Table(journal)
        self.counters: Table[str, int] = Table(journal)
        self.mode: Mode = "open"
        self.epoch = 0
        self.moved_to = ""
        self.pending: defaultdict[tuple[str, str], list[tuple[int, int, str]]] = defaultdict(list)
        self.scheduled: defaultdict[str, list[tuple[int, int, str]]] = defaultdict(list)
        self.touched_queues: set[str] = set()
        self.ended_ids: set[str] = set()
        self._stands_still = test_clock
        self._offset_ms = TEST_EPOCH_MS if test_clock else 0
        self._shift_ms = 0
        self._mono_ms = 0
        self.reaped_mono_ms: int = self.mono_ms()

    # ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    def now_ms(self) -> int:
        return self._offset_ms if self._stands_still else time.time_ns() // 1_000_000

    def mono_ms(self) -> int:
        """Wall + kept offset: while the wall goes back this stands still, then runs on."""
        now_ms = self.now_ms()
        if now_ms + self._shift_ms < self._mono_ms:
            self._shift_ms = self._mono_ms - now_ms
        self._mono_ms = now_ms + self._shift_ms
        return self._mono_ms

    def advance_clock(self, by_ms: int) -> None:
        self._offset_ms += by_ms
        self.mono_ms()  # looks at the clock: a step back that nobody saw would stretch leases by its length

    # ── numbers and counts ────────────────────────────────────────────────────────────────────────────────────────────
    def next_number(self, counter: str) -> int:
        self.counters[counter] = number = self.counters.get(counter, 0) + 1
        return number

    def count(self, queue: str, *statuses: Status) -> int:
        return sum(self.tally.get((queue, status), 0) for status in statuses)

    def _add(self, table: Table[Any, int], key: Any, by: int) -> None:
        number = table.get(key, 0) + by
        if number:
            table[key] = number
        else:
            table.drop(key)

    # ── rows ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    def add_row(self, row: Row) -> None:
        self.rows[row.job.id] = row
        self._count_row(row, 1)
        self._index_row(row)

    def change(self, row: Row, **fields: Any) -> Row:
        """The row with `fields` replaced; counts and indexes follow."""
        changed = replace(row, **fields)
        if changed.status != row.status:
            self._count_row(row, -1)
            self._count_row(changed, 1)
            if row.status == "active" and self._is_crowded(row):
                self.touched_queues.add(row.job.queue)
        self.rows[row.job.id] = changed
        self._index_row(changed)
        return changed

    def _is_crowded(self, row: Row) -> bool:
        """A limit on running jobs covers it: its end is news to who waits for a start."""
        covering = (self.limits.get((row.job.queue, lane)) for lane in (None, row.job.lane))
        return any(limits is not None and limits.active_max is not None for limits in covering)

    def drop_row(self, row: Row) -> None:
        """Delete an ended job; a unique key that outlived its end goes with it."""
        self._count_row(row, -1)
        self.rows.drop(row.job.id)
        if row.job.unique is not None and self.unique.get(row.job.unique.key) == row.job.id:
            self.unique.drop(row.job.unique.key)

    def _count_row(self, row: Row, by: int) -> None:
        queue, lane = row.job.queue, row.job.lane
        self._add(self.tally, (queue, row.status), by)
        if row.status == "active":
            self._add(self.lane_active, (queue, lane), by)
        elif row.status in ("waiting", "scheduled", "pending"):
            self._add(self.lane_unstarted, (queue, lane), by)
            if row.status == "pending":
                self._add(self.lane_pending, (queue, lane), by)
        if lane and (queue, lane) not in self.lane_time:
            self.lane_time[queue, lane] = 0

    def _index_row(self, row: Row) -> None:
        job = row.job
        if row.status == "pending":
            assert row.ready_number is not None, row
            heapq.heappush(self.pending[job.queue, job.lane], (-job.priority, row.ready_number, job.id))
        elif row.status == "scheduled":
            heapq.heappush(self.scheduled[job.queue], (row.run_at_ms, row.number, job.id))
        if row.status in ("pending", "scheduled"):
            self.touched_queues.add(job.queue)

    def hold_delivery(self, session_id: str, job_id: str) -> None:
        self.holding[session_id] = (*self.holding.get(session_id, ()), job_id)

    def let_go_delivery(self, session_id: str, job_id: str) -> None:
        left = tuple(each for each in self.holding.get(session_id, ()) if each != job_id)
        if left:
            self.holding[session_id] = left
        else:
            self.holding.drop(session_id)

    def add_edge(self, parent_id: str, child_id: str, need: Dependency, *, met: bool) -> None:
        self.edges[parent_id, child_id] = Edge(parent_id, child_id, need.on, met)
        self.children[parent_id] = (*self.children.get(parent_id, ()), child_id)

    def drop_edges_of(self, row: Row) -> None:
        """The child ended: nobody has to keep its parents for it."""
        for need in row.job.needs:
            self.drop_edge(need.job_id, row.job.id)

    def drop_edge(self, parent_id: str, child_id: str) -> None:
        self.edges.drop((parent_id, child_id))
        left = tuple(each for each in self.children.get(parent_id, ()) if each != child_id)
        if left:
            self.children[parent_id] = left
        else:
            self.children.drop(parent_id)

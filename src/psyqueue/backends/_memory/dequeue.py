"""Which job is next: queue by queue, lane by lane, priority, then age; within what limits allow."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from psyqueue.backend import Delivery, Fetch, Limits
from psyqueue.backend.reading import is_paused
from psyqueue.backend.state_rules import LANE_TURN, TOKEN_UNITS, refilled, wait_ms
from psyqueue.backends._memory import fence
from psyqueue.backends._memory.lifecycle import let_go_key
from psyqueue.backends._memory.state import Bucket, Row, Store


class Budget:
    """What one fetch may still give."""

    def __init__(self, fetch: Fetch) -> None:
        self.count = fetch.count
        self.bytes = fetch.bytes_max
        self.deliveries: list[Delivery] = []
        self.is_out_of_bytes = False

    @property
    def is_spent(self) -> bool:
        return len(self.deliveries) >= self.count or self.is_out_of_bytes

    def fits(self, row: Row) -> bool:
        """The first job always fits; one that does not ends the fetch, so that order is kept."""
        size = len(row.job.payload) + len(row.job.cold)
        if self.deliveries and size > self.bytes:
            self.is_out_of_bytes = True
            return False
        self.bytes -= size
        return True


def dequeue(store: Store, session_id: str, fetch: Fetch, now_ms: int) -> tuple[list[Delivery], bool]:
    """(deliveries in the order to run, whether a bound ended it)."""
    budget = Budget(fetch)
    for queue in fetch.queues:
        if not budget.is_spent and fetch.count:
            _dequeue_queue(store, session_id, queue, fetch.token_seed, budget, now_ms)
    return budget.deliveries, bool(fetch.count) and budget.is_spent


def _dequeue_queue(store: Store, session_id: str, queue: str, token_seed: str, budget: Budget, now_ms: int) -> None:
    room = _room(store, queue, None, now_ms)
    lanes = _lanes(store, queue)
    lane_room = {lane: _room(store, queue, lane, now_ms) for lane in lanes}
    while room > 0 and not budget.is_spent:
        open_lanes = [lane for lane in lanes if lane_room[lane] > 0 and _has_pending(store, queue, lane, now_ms)]
        if not open_lanes:
            break
        lane = min(open_lanes, key=lambda name: (store.lane_time.get((queue, name), 0), name))
        row = _head(store, queue, lane, now_ms)
        assert row is not None
        if not budget.fits(row):
            break
        budget.deliveries.append(_activate(store, row, session_id, token_seed, now_ms))
        _charge(store, queue, None)
        _charge(store, queue, lane)
        if len(lanes) > 1:
            _take_turn(store, queue, lane)
        room -= 1
        lane_room[lane] -= 1


def _lanes(store: Store, queue: str) -> list[str]:
    """The default lane first; it stands alone, and costs no accounting, until another lane was used."""
    return ["", *sorted(lane for name, lane in store.lane_time if name == queue and lane)]


def _take_turn(store: Store, queue: str, lane: str) -> None:
    """Start-time fair queueing: a lane that was idle starts at the queue's time and saves up no claim."""
    limits = store.limits.get((queue, lane))
    start = max(store.lane_time.get((queue, lane), 0), store.queue_time.get(queue, 0))
    store.queue_time[queue] = start
    store.lane_time[queue, lane] = start + LANE_TURN // (limits.weight if limits else 1)


# ── heads of the order ────────────────────────────────────────────────────────────────────────────────────────────────
def _head(store: Store, queue: str, lane: str, now_ms: int) -> Row | None:
    """The first pending job of the lane that is neither held nor expired; it stays where it is."""
    heap = store.pending[queue, lane]
    passed: list[tuple[int, int, str]] = []
    found: Row | None = None
    while heap and found is None:
        entry = heap[0]
        row = store.rows.get(entry[2])
        if row is None or row.status != "pending" or (-row.job.priority, row.ready_number) != entry[:2]:
            heapq.heappop(heap)
        elif row.held or (row.expires_at_ms is not None and row.expires_at_ms <= now_ms):
            passed.append(heapq.heappop(heap))
        else:
            found = row
    for entry in passed:
        heapq.heappush(heap, entry)
    return found


def _has_pending(store: Store, queue: str, lane: str, now_ms: int) -> bool:
    return (queue, lane) in store.lane_pending and _head(store, queue, lane, now_ms) is not None


def _activate(store: Store, row: Row, session_id: str, token_seed: str, now_ms: int) -> Delivery:
    row = store.change(
        row,
        status="active",
        attempt=row.attempt + 1,
        fence=row.fence + 1,
        token=f"{row.number}.{token_seed}",
        settled_token=None,
        session_id=session_id,
        started_at_ms=now_ms,
        reason="",
    )
    store.hold_delivery(session_id, row.job.id)
    let_go_key(store, row)
    return delivery_of(row)


def delivery_of(row: Row) -> Delivery:
    job = row.job
    assert row.token is not None, row
    assert row.started_at_ms is not None, row
    return Delivery(
        id=job.id,
        queue=job.queue,
        name=job.name,
        payload=job.payload,
        cold=job.cold,
        completion_token=row.token,
        fence=row.fence,
        attempt=row.attempt,
        lost=row.lost,
        max_retries=job.max_retries,
        max_lost=job.max_lost,
        priority=job.priority,
        lane=job.lane,
        created_at_ms=row.created_at_ms,
        started_at_ms=row.started_at_ms,
        run_at_ms=row.run_at_ms,
        generation=row.generation,
        schedule_id=job.schedule_id,
        needs=tuple(need.job_id for need in job.needs),
    )


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def _room(store: Store, queue: str, lane: str | None, now_ms: int) -> int:
    """How many starts the limits of the queue or lane allow now."""
    limits = store.limits.get((queue, lane))
    if limits is None:
        return 1 << 30
    if is_paused(limits, now_ms):
        return 0
    room = 1 << 30
    if limits.active_max is not None:
        room = min(room, limits.active_max - active(store, queue, lane))
    if limits.starts_per_minute is not None:
        room = min(room, _level(store, limits).level // TOKEN_UNITS)
    return room


def active(store: Store, queue: str, lane: str | None) -> int:
    return store.count(queue, "active") if lane is None else store.lane_active.get((queue, lane), 0)


def _level(store: Store, limits: Limits) -> Bucket:
    """The rate's bucket as of now; a rate that was never used starts full."""
    assert limits.starts_per_minute is not None
    full, mono_ms = limits.starts_burst * TOKEN_UNITS, store.mono_ms()
    bucket = store.buckets.get((limits.queue, limits.lane), Bucket(full, mono_ms))
    level = refilled(bucket.level, mono_ms - bucket.at_mono_ms, limits.starts_per_minute, full)
    return Bucket(level, mono_ms)


def next_start_in_ms(store: Store, queues: Sequence[str], now_ms: int) -> int | None:
    """When the first pause or rate that keeps pending jobs of `queues` back lets go; None: none does, by time alone."""
    waits: list[int] = []
    for queue in queues:
        lanes = [lane for name, lane in store.lane_pending if name == queue]
        for lane in (None, *lanes) if lanes else ():
            limits = store.limits.get((queue, lane))
            if limits is None:
                continue
            if limits.paused_until_ms is not None and limits.paused_until_ms > now_ms:
                waits.append(limits.paused_until_ms - now_ms)
            if limits.starts_per_minute is not None and (missing := TOKEN_UNITS - _level(store, limits).level) > 0:
                waits.append(wait_ms(missing, limits.starts_per_minute))
    return min(waits, default=None)


def _charge(store: Store, queue: str, lane: str | None) -> None:
    limits = store.limits.get((queue, lane))
    if limits is not None and limits.starts_per_minute is not None:
        bucket = _level(store, limits)
        store.buckets[queue, lane] = Bucket(bucket.level - TOKEN_UNITS, bucket.at_mono_ms)


def blocks(store: Store, row: Row, now_ms: int) -> tuple[str, ...]:
    """Why the job is not running, as the codes of `JobView.blocked_by`."""
    if row.status not in ("waiting", "scheduled", "pending"):
        return ()
    codes = ["held"] if row.held else []
    for need in row.job.needs:
        edge = store.edges.get((need.job_id, row.job.id))
        if edge is not None and not edge.met:
            codes.append(f"needs:{need.job_id}")
    if row.status == "waiting" and row.needs_left == 0 and row.job.gate is not None:
        codes.append(f"gate:{row.job.gate.key}")
    if row.status == "scheduled":
        codes.append("run_at")
    for lane, where in ((None, "queue"), (row.job.lane, "lane")):
        codes += _limit_codes(store, store.limits.get((row.job.queue, lane)), where, now_ms)
    if fence.starts_nothing(store):
        codes.append(f"mode:{store.mode}")
    return tuple(codes)


def _limit_codes(store: Store, limits: Limits | None, where: str, now_ms: int) -> list[str]:
    if limits is None:
        return []
    codes = [f"paused:{where}"] if is_paused(limits, now_ms) else []
    if limits.active_max is not None and active(store, limits.queue, limits.lane) >= limits.active_max:
        codes.append(f"limit:{where}")
    if limits.starts_per_minute is not None and _level(store, limits).level < TOKEN_UNITS:
        codes.append(f"rate:{where}")
    return codes

"""How jobs move: to pending, to their end, and what their end sets free."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from psyqueue.backend.bounds import EXPIRE_MAX, FOLLOW_THROUGH_MAX
from psyqueue.backends._memory.state import Row, Store
from psyqueue.job import TERMINAL, Status


def admit(store: Store, row: Row, now_ms: int) -> Row:
    """Waiting (or new) → pending or scheduled, by run_at."""
    if row.run_at_ms > now_ms:
        return store.change(row, status="scheduled")
    return store.change(row, status="pending", ready_number=store.next_number("ready"))


def end(store: Store, row: Row, status: Status, now_ms: int, *, reason: str = "", result: bytes | None = None) -> Row:
    """→ completed, dead or cancelled: keys and places are let go; who waited for it moves in `follow_through`."""
    assert status in TERMINAL, status
    job = row.job
    if row.session_id is not None:
        store.let_go_delivery(row.session_id, job.id)
    row = store.change(
        row,
        status=status,
        reason=reason,
        result=result,
        completed_at_ms=now_ms,
        settled_token=row.token or row.settled_token,
        token=None,
        session_id=None,
        cancel_requested=False,
    )
    let_go_key(store, row)
    leave_line(store, row)
    if row.has_place and job.gate is not None:
        row = store.change(row, has_place=False)
        store.places[job.gate.key] = store.places[job.gate.key] - 1
        store.followers[store.next_number("follower")] = ("gate", job.gate.key)
    store.drop_edges_of(row)
    if job.id in store.children:
        store.followers[store.next_number("follower")] = ("needs", job.id)
    store.ended_ids.add(job.id)
    return row


def let_go_key(store: Store, row: Row) -> None:
    """Its unique key is free as soon as its status is none of those that keep it."""
    unique = row.job.unique
    if unique is not None and row.status not in unique.while_ and store.unique.get(unique.key) == row.job.id:
        store.unique.drop(unique.key)


# ── gates ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def enter_gate(store: Store, row: Row, now_ms: int) -> Row:
    """Its needs are met: take a place of its gate and be admitted, or stand in line. First come, first served."""
    gate = row.job.gate
    if gate is None:
        return admit(store, row, now_ms)
    if _line(store, gate.key) or store.places.get(gate.key, 0) >= gate.capacity:
        join_line(store, row)
        return row
    return _take_place(store, row, now_ms)


def join_line(store: Store, row: Row) -> None:
    """Behind those who were made before it."""
    assert row.job.gate is not None
    key = row.job.gate.key
    ids = [*store.lines.get(key, ()), row.job.id]
    store.lines[key] = tuple(sorted(ids, key=lambda job_id: store.rows[job_id].number))


def leave_line(store: Store, row: Row) -> None:
    gate = row.job.gate
    if gate is not None and row.job.id in store.lines.get(gate.key, ()):
        left = tuple(job_id for job_id in store.lines[gate.key] if job_id != row.job.id)
        if left:
            store.lines[gate.key] = left
        else:
            store.lines.drop(gate.key)


def _line(store: Store, key: str) -> list[Row]:
    rows = [store.rows[job_id] for job_id in store.lines.get(key, ())]
    return [row for row in rows if not row.held]


def _take_place(store: Store, row: Row, now_ms: int) -> Row:
    assert row.job.gate is not None
    key = row.job.gate.key
    store.places[key] = store.places.get(key, 0) + 1
    leave_line(store, row)
    return admit(store, store.change(row, has_place=True), now_ms)


# ── follow-through ────────────────────────────────────────────────────────────────────────────────────────────────────
def follow_through(store: Store, now_ms: int, limit: int = FOLLOW_THROUGH_MAX) -> bool:
    """Move what ended jobs set free, oldest end first, at most `limit` jobs. True: some are left for the next step."""
    moved = 0
    while store.followers:
        ticket = min(store.followers)
        kind, key = store.followers[ticket]
        step = _free_places(store, key, now_ms) if kind == "gate" else _meet_needs(store, key, now_ms)
        for _ in step:
            moved += 1
            if moved >= limit:
                return bool(store.followers)
        store.followers.drop(ticket)
    return False


def _free_places(store: Store, key: str, now_ms: int) -> Iterator[None]:
    while line := _line(store, key):
        head = line[0]
        assert head.job.gate is not None
        if store.places.get(key, 0) >= head.job.gate.capacity:
            return
        _take_place(store, head, now_ms)
        yield


def _meet_needs(store: Store, parent_id: str, now_ms: int) -> Iterator[None]:
    for child_id in store.children.get(parent_id, ()):
        child = store.rows[child_id]
        edge = store.edges[parent_id, child_id]
        if not edge.met and not child.held and child.status == "waiting":
            meet_need(store, child, parent_id, now_ms)
            yield


def meet_need(store: Store, child: Row, parent_id: str, now_ms: int) -> Row:
    """`parent_id` ended: count it, or give the child up if it ended in another way than the child needs."""
    edge = store.edges[parent_id, child.job.id]
    if store.rows[parent_id].status not in edge.on:
        return end(store, child, "cancelled", now_ms, reason="dependency")
    store.edges[parent_id, child.job.id] = type(edge)(edge.parent, edge.child, edge.on, met=True)
    child = store.change(child, needs_left=child.needs_left - 1)
    return enter_gate(store, child, now_ms) if child.needs_left == 0 else child


# ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
def promote(store: Store, queues: Sequence[str], now_ms: int, limit: int) -> tuple[list[str], bool]:
    """Due jobs → pending, earliest first, in the order of `queues`. (ids, whether the limit was reached)"""
    ids: list[str] = []
    for queue in queues:
        while len(ids) < limit and (row := _next_due(store, queue, now_ms)) is not None:
            store.change(row, status="pending", ready_number=store.next_number("ready"))
            ids.append(row.job.id)
    return ids, len(ids) >= limit


def _next_due(store: Store, queue: str, now_ms: int) -> Row | None:
    heap = store.scheduled[queue]
    passed: list[tuple[int, int, str]] = []
    found: Row | None = None
    while heap and heap[0][0] <= now_ms and found is None:
        entry = heapq.heappop(heap)
        row = store.rows.get(entry[2])
        if row is None or row.status != "scheduled" or row.run_at_ms != entry[0]:
            continue
        if row.held:
            passed.append(entry)
        else:
            found = row
    for entry in passed:
        heapq.heappush(heap, entry)
    return found


def next_due_in_ms(store: Store, queues: Sequence[str], now_ms: int) -> int | None:
    due = [
        entry[0]
        for queue in queues
        for entry in store.scheduled[queue]
        if (row := store.rows.get(entry[2]))
        and row.status == "scheduled"
        and row.run_at_ms == entry[0]
        and not row.held
    ]
    return max(0, min(due) - now_ms) if due else None


def expire(store: Store, queues: Sequence[str], now_ms: int, limit: int = EXPIRE_MAX) -> tuple[list[str], bool]:
    """Unstarted jobs whose time is over → dead(`expired`), in the order of `queues`, then of expiry."""
    over = [
        row
        for row in store.rows.values()
        if row.expires_at_ms is not None
        and row.expires_at_ms <= now_ms
        and row.status in ("waiting", "scheduled", "pending")
        and not row.held
        and row.job.queue in queues
    ]
    over.sort(key=lambda row: (queues.index(row.job.queue), row.expires_at_ms, row.number))
    for row in over[:limit]:
        end(store, row, "dead", now_ms, reason="expired")
    return [row.job.id for row in over[:limit]], len(over) >= limit

"""Which job is next: queue by queue, lane by lane, priority, then age; within what limits allow."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import msgspec

from psyqueue.backend import Delivery, Fetch
from psyqueue.backend.state_rules import LANE_TURN
from psyqueue.backends._sqlite.limits import NO_LIMIT, Limited, limited
from psyqueue.backends._sqlite.rows import NO_EXTRAS, Extras, decode_extras
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.backends._sqlite.step import ACTIVE, PENDING, Step

_HEADS, _START, _HAS_LANES = SQL["dequeue.heads"], SQL["dequeue.start"], SQL["dequeue.has_lanes"]
_to_json = msgspec.json.encode


class Budget:
    """What one fetch may still give, and what it gave."""

    __slots__ = ("bytes", "deliveries", "is_out_of_bytes", "left", "seed")

    def __init__(self, fetch: Fetch) -> None:
        self.left = fetch.count
        self.bytes = fetch.bytes_max
        self.seed = fetch.token_seed
        self.deliveries: list[Delivery] = []
        self.is_out_of_bytes = False

    @property
    def is_spent(self) -> bool:
        return self.left <= 0 or self.is_out_of_bytes


def dequeue(step: Step, session: int, fetch: Fetch) -> tuple[list[Delivery], bool]:
    """(deliveries in the order to run, whether a bound ended it)."""
    budget = Budget(fetch)
    for queue in fetch.queues:
        if not budget.is_spent:
            _dequeue_queue(step, session, queue, budget)
    return budget.deliveries, bool(fetch.count) and budget.is_spent


def _dequeue_queue(step: Step, session: int, queue: str, budget: Budget) -> None:
    limits = limited(step, queue, None)
    room = limits.room(step) if limits is not None else NO_LIMIT
    if room <= 0:
        return
    if _has_lanes(step, queue):
        started = _Turns(step, queue, budget).dequeue(limits, room)
    else:
        started = _dequeue_default(step, queue, budget, limits, room)
    if started:
        numbers = [n for n, _ in started]
        step.run(_START, (budget.seed, session, step.now_ms, _to_json(numbers).decode()))
        step.given += numbers
        _count(step, queue, started)
    if limits is not None:
        limits.save(step)


def _has_lanes(step: Step, queue: str) -> bool:
    """Whether a lane other than the default one is used."""
    if not step.has_lanes:
        return False
    step.flush_counts()
    return step.run(_HAS_LANES, (queue,)).fetchone() is not None


def _count(step: Step, queue: str, started: list[tuple[int, str]]) -> None:
    lanes: dict[str, int] = {}
    for _, lane in started:
        lanes[lane] = lanes.get(lane, 0) + 1
    for lane, jobs in lanes.items():
        step.count(queue, lane, PENDING, -jobs)
        step.count(queue, lane, ACTIVE, jobs)


def _dequeue_default(
    step: Step, queue: str, budget: Budget, limits: Limited | None, room: int
) -> list[tuple[int, str]]:
    """The common case: no lane but the default one. Returns (n, lane) of what is to be started."""
    lane_limits = limited(step, queue, "")
    count = min(budget.left, room, lane_limits.room(step) if lane_limits is not None else NO_LIMIT)
    if count <= 0:
        return []
    started: list[tuple[int, str]] = []
    heads = step.run(_HEADS, (queue, "", step.now_ms, count, 0))
    for head in heads:
        if not _give(step, budget, queue, "", head):
            break
        started.append((head[0], ""))
    heads.close()
    for each in (limits, lane_limits):
        if each is not None:
            for _ in started:
                each.charge()
    if lane_limits is not None:
        lane_limits.save(step)
    return started


def _give(step: Step, budget: Budget, queue: str, lane: str, head: tuple[Any, ...]) -> bool:
    """The first job always fits; one that does not ends the fetch, so that order is kept."""
    size = len(head[12]) + len(head[13])
    if size > budget.bytes and budget.deliveries:
        budget.is_out_of_bytes = True
        return False
    budget.bytes -= size
    budget.left -= 1
    if head[11] is not None:
        _let_go_unique(step, head[0], decode_extras(head[11]))
    budget.deliveries.append(delivery_of(head, queue, lane, budget.seed, step.now_ms))
    return True


def _let_go_unique(step: Step, n: int, extras: Extras) -> None:
    """A key that is kept until the start is free now."""
    if extras.unique is not None and "active" not in extras.unique.while_:
        step.run(SQL["links.drop_unique"], (extras.unique.key, n))


def delivery_of(head: tuple[Any, ...], queue: str, lane: str, seed: str, started_at_ms: int) -> Delivery:
    """From a row of `dequeue.heads`."""
    (
        n, attempt, lost, fence, priority, generation, run_at_ms, job_id, name, max_retries, created_at_ms, data,
        cold, payload, max_lost,
    ) = head  # fmt: skip
    extras = decode_extras(data) if data is not None else NO_EXTRAS
    return Delivery(
        job_id,
        queue,
        name,
        payload,
        cold,
        f"{n}.{seed}",
        fence,
        attempt,
        lost,
        max_retries,
        priority,
        lane,
        created_at_ms,
        started_at_ms,
        run_at_ms,
        max_lost,
        generation,
        extras.schedule_id,
        tuple([need.job_id for need in extras.needs]) if extras.needs else (),
    )


class _Lane:
    """A lane that may be given a turn. Its heads are read as they are needed: most lanes give one or two."""

    __slots__ = ("_heads", "_read", "is_used", "limits", "name", "room", "turn")

    def __init__(self, step: Step, queue: str, name: str, turn: int) -> None:
        self.name = name
        self.turn = turn
        self.is_used = False
        self.limits = limited(step, queue, name)
        self.room = self.limits.room(step) if self.limits is not None else NO_LIMIT
        self._heads: list[tuple[Any, ...]] = []
        self._read = 0

    def next_head(self, step: Step, queue: str) -> tuple[Any, ...] | None:
        if self.room <= 0:
            return None
        if not self._heads:
            count = max(1, 4 * self._read)
            self._heads = step.run(_HEADS, (queue, self.name, step.now_ms, count, self._read)).fetchall()
            self._heads.reverse()
            self._read += len(self._heads)
        return self._heads.pop() if self._heads else None


class _Turns:
    """Start-time fair queueing: a lane that was idle starts at the queue's time and saves up no claim.

    Lanes are looked at in the order of their turns, and only as many as get one: a queue may have ten thousand.
    """

    def __init__(self, step: Step, queue: str, budget: Budget) -> None:
        self._step = step
        self._queue = queue
        self._budget = budget
        self._used: list[_Lane] = []
        found = step.run(SQL["dequeue.queue_turn"], (queue,)).fetchone()
        self._queue_turn: int = found[0] if found is not None else 0
        default = step.run(SQL["dequeue.lane_turn"], (queue, "")).fetchone()
        self._heap: list[tuple[int, str, _Lane | None]] = [(default[0] if default is not None else 0, "", None)]
        self._others = self._by_turn()
        self._next = next(self._others, None)

    def _by_turn(self) -> Iterator[tuple[int, str]]:
        after, page = (-1, ""), 16
        while rows := self._step.run(SQL["dequeue.lanes"], (self._queue, *after, page)).fetchall():
            yield from rows
            after, page = rows[-1], 4 * page

    def dequeue(self, limits: Limited | None, room: int) -> list[tuple[int, str]]:
        """(n, lane) of what is to be started, in order."""
        started: list[tuple[int, str]] = []
        while room > 0 and not self._budget.is_spent and (lane := self._first()) is not None:
            head = lane.next_head(self._step, self._queue)
            if head is None:
                continue
            if not _give(self._step, self._budget, self._queue, lane.name, head):
                break
            started.append((head[0], lane.name))
            room -= 1
            self._take_turn(lane, limits)
        self._save()
        return started

    def _first(self) -> _Lane | None:
        """The lane whose turn it is, taken out; it comes back with its next turn."""
        if self._next is not None and (not self._heap or self._next < self._heap[0][:2]):
            (turn, name), self._next = self._next, next(self._others, None)
            return _Lane(self._step, self._queue, name, turn)
        if not self._heap:
            return None
        turn, name, lane = heapq.heappop(self._heap)
        return lane or _Lane(self._step, self._queue, name, turn)

    def _take_turn(self, lane: _Lane, limits: Limited | None) -> None:
        if limits is not None:
            limits.charge()
        weight = 1
        if lane.limits is not None:
            lane.limits.charge()
            weight = lane.limits.limits.weight
        self._queue_turn = start = max(lane.turn, self._queue_turn)
        lane.turn = start + LANE_TURN // weight
        lane.room -= 1
        if not lane.is_used:
            lane.is_used = True
            self._used.append(lane)
        if lane.room > 0:
            heapq.heappush(self._heap, (lane.turn, lane.name, lane))

    def _save(self) -> None:
        for lane in self._used:
            self._step.run(SQL["dequeue.take_turn"], (self._queue, lane.name, lane.turn))
            if lane.limits is not None:
                lane.limits.save(self._step)
        if self._used:
            self._step.run(SQL["dequeue.keep_queue_turn"], (self._queue, self._queue_turn))

"""What is composed above the seam, once, for every backend: the seed's single-job verbs over `settle`, whole lists."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

from psyqueue.backend.adapter import BackendAdapter
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.backend.jobs import Op
from psyqueue.backend.outcomes import Ack, Delivery, Fetch, Retry, Settled
from psyqueue.backend.reading import Limits, QueueInfo, SessionInfo
from psyqueue.ids import new_token

T = TypeVar("T")
AskPage: TypeAlias = Callable[[str | None], Awaitable[tuple[Sequence[T], str | None]]]
"""From a cursor, None at the beginning, to some items and the cursor behind them, None at the end."""


async def dequeue(
    backend: BackendAdapter, op: Op, session_id: str, *queues: str, count: int = 1
) -> tuple[Delivery, ...]:
    """Up to `count` deliveries; a batch is the only form, one job is a batch of one."""
    fetch = Fetch(queues=queues, count=count, token_seed=new_token())
    return (await backend.settle(op, session_id, (), fetch)).deliveries


async def ack(backend: BackendAdapter, op: Op, session_id: str, delivery: Delivery, result: bytes = b"null") -> Settled:
    outcome = Ack(job_id=delivery.id, completion_token=delivery.completion_token, result=result)
    return (await backend.settle(op, session_id, (outcome,))).settled[0]


async def nack(
    backend: BackendAdapter, op: Op, session_id: str, delivery: Delivery, error: bytes, delay_ms: int = 0
) -> Settled:
    """Failed: again after `delay_ms`, or dead when its retries are used up."""
    outcome = Retry(job_id=delivery.id, completion_token=delivery.completion_token, error=error, delay_ms=delay_ms)
    return (await backend.settle(op, session_id, (outcome,))).settled[0]


async def ack_and_fetch(
    backend: BackendAdapter, op: Op, session_id: str, delivery: Delivery, *queues: str, result: bytes = b"null"
) -> tuple[Settled, Delivery | None]:
    """The seed's fused step: end this job and get the next one in a single call."""
    outcome = Ack(job_id=delivery.id, completion_token=delivery.completion_token, result=result)
    fetch = Fetch(queues=queues, count=1, token_seed=new_token())
    reply = await backend.settle(op, session_id, (outcome,), fetch)
    return reply.settled[0], reply.deliveries[0] if reply.deliveries else None


async def all_queues(backend: BackendAdapter, prefix: str = "") -> list[QueueInfo]:
    """Every known queue, by name. Each page is a moment of its own."""
    return await every_page(lambda cursor: backend.queues(prefix, cursor, ITEMS_MAX))


async def all_sessions(backend: BackendAdapter) -> list[SessionInfo]:
    """Every open session, by id. Each page is a moment of its own."""
    return await every_page(lambda cursor: backend.sessions(cursor, ITEMS_MAX))


async def limits_of(backend: BackendAdapter, queue: str, lane: str | None = None) -> Limits:
    """The settings of a queue or of a lane in it; the defaults where it was given none."""
    # A name sorts before everything that it is the beginning of.
    if lane is None:
        infos, _ = await backend.queues(queue, None, 1)
        return infos[0].limits if infos and infos[0].queue == queue else Limits(queue=queue)
    found, _ = await backend.lane_limits(queue, lane, None, 1)
    return found[0] if found and found[0].lane == lane else Limits(queue=queue, lane=lane)


async def every_page(ask: AskPage[T]) -> list[T]:
    """What all pages hold, in order. A page may be short or empty."""
    found: list[T] = []
    cursor: str | None = None
    while True:
        items, cursor = await ask(cursor)
        found += items
        if cursor is None:
            return found

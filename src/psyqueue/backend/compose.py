"""What is composed above the seam, once, for every backend: the seed's single-job verbs over `settle`."""

from __future__ import annotations

from psyqueue.backend.adapter import BackendAdapter
from psyqueue.backend.jobs import Op
from psyqueue.backend.outcomes import Ack, Delivery, Fetch, Retry, Settled
from psyqueue.ids import new_token


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

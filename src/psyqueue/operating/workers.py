"""The workers that run, and what each says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from psyqueue.backend import BackendAdapter, SessionInfo
from psyqueue.clock import to_datetime
from psyqueue.kernel.orders import Order, read_orders
from psyqueue.kernel.presence import presence_of


class WorkerLine(Struct, frozen=True, kw_only=True):
    """`state`: open; draining, it was told to end; late, its lease is over and nobody has taken its jobs back yet."""

    worker: str
    session_id: str
    queues: tuple[str, ...]
    held: int
    slots: int | None
    opened_at: datetime
    lease_ms: int
    lease_left_ms: int
    state: str
    version: str | None
    host: str | None
    pid: int | None


async def worker_lines(backend: BackendAdapter, sessions: Sequence[SessionInfo]) -> list[WorkerLine]:
    """Raises StoreError."""
    orders = await read_orders(backend, [info.session.id for info in sessions])
    return [_line(info, order) for info, order in zip(sessions, orders, strict=True)]


def _line(info: SessionInfo, order: Order | None) -> WorkerLine:
    said = presence_of(info.session)
    return WorkerLine(
        worker=info.session.worker,
        session_id=info.session.id,
        queues=tuple(info.session.queues),
        held=info.held,
        slots=said.slots or None,
        opened_at=to_datetime(info.opened_at_ms),
        lease_ms=info.session.lease_ms,
        lease_left_ms=info.expires_in_ms,
        state="late" if info.expires_in_ms < 0 else "draining" if order is not None else "open",
        version=said.psyqueue or None,
        host=said.host or None,
        pid=said.pid or None,
    )

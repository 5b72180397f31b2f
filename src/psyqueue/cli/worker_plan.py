"""What `psyqueue worker` was asked for, read and checked before any process or connection is opened."""

from __future__ import annotations

from dataclasses import dataclass

from psyqueue.clock import to_ms
from psyqueue.errors import InvalidOption
from psyqueue.kernel.options import read_name
from psyqueue.kernel.running import CONCURRENCY_MAX

PROCESSES_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Slots for some queues, in order of preference; no queue: those of all handlers."""

    queues: tuple[str, ...]
    concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """One worker process: each pool is a worker. `supervisor_fd`: the socket to the supervisor, None without one."""

    target: str
    pools: tuple[Pool, ...]
    lease: str
    grace_ms: int
    name: str | None
    health_host: str
    health_port: int | None
    log_level: str
    log_format: str
    supervisor_fd: int | None

    def name_of(self, number: int) -> str | None:
        """The name of its worker `number`, from 0; None lets the kernel choose."""
        return self.name if self.name is None or len(self.pools) == 1 else f"{self.name}-{number + 1}"


def read_pools(text: str | None, concurrency: int) -> tuple[Pool, ...]:
    """`a:20,b:5,c` → a worker with 20 slots for a, one with 5 for b, one with `concurrency` for all the others.

    Raises InvalidOption.
    """
    _check("concurrency", concurrency)
    own: list[Pool] = []
    common: list[str] = []
    for item in (part.strip() for part in (text or "").split(",") if part.strip()):
        queue, colon, slots = item.rpartition(":")
        if colon and slots.isdecimal():
            own.append(Pool(queues=(_queue(queue),), concurrency=_check("queues", int(slots), item)))
        else:
            common.append(_queue(item))
    named = [*common, *(pool.queues[0] for pool in own)]
    if twice := {name for name in named if named.count(name) > 1}:
        raise InvalidOption("queues", text, f"names {min(twice)!r} twice")
    shared = [Pool(queues=tuple(common), concurrency=concurrency)] if common or not own else []
    return (*shared, *own)


def read_lease(text: str) -> str:
    """Checked here, so that a typing error is told before the store is opened. Raises InvalidOption."""
    to_ms("lease", text, minimum_ms=1)
    return text


def _queue(name: str) -> str:
    return read_name("queues", name)


def _check(option: str, slots: int, given: str | None = None) -> int:
    if not 1 <= slots <= CONCURRENCY_MAX:
        bounds = f"is outside 1 to {CONCURRENCY_MAX}"
        if given is None:
            raise InvalidOption(option, slots, bounds)
        raise InvalidOption(option, given, f"the number {bounds}")
    return slots

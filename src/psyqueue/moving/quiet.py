"""Waiting until nothing runs in a store that gives out nothing more."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from msgspec import Struct

from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.errors import InvalidState
from psyqueue.moving.house import House
from psyqueue.words import counted

LOOK_EVERY_MS = 200


class Progress(Struct, frozen=True):
    """`doing`: waiting, draining (with or without workers), copying, verifying, …; `done` of `total` jobs."""

    doing: str
    done: int
    total: int


async def be_quiet(house: House, wait_ms: int, *, is_take_over: bool, tell: Callable[[Progress], None]) -> None:
    """Wait until no job is active, then let what ended jobs set free move. Raises InvalidState after `wait_ms`.

    `is_take_over`: running jobs are taken from their workers instead.
    """
    until = house.clock.mono_ms() + wait_ms
    while active := await _active(house):
        tell(Progress("waiting", 0, active))
        if is_take_over:
            await _take_over(house)
        elif house.clock.mono_ms() >= until:
            raise InvalidState(await _still_running(house, active))
        else:
            await house.backend.reap(ITEMS_MAX)
            await house.clock.sleep_ms(LOOK_EVERY_MS)
    while (await house.backend.promote((), ITEMS_MAX)).more:
        pass


async def _active(house: House) -> int:
    return sum(info.counts.get("active", 0) for info in await house.queues())


async def _still_running(house: House, active: int) -> str:
    workers = sorted({each.session.worker for each in await house.sessions() if each.held})
    running = counted(active, "job is", "jobs are")
    return (
        f"{running} still running (workers: {', '.join(workers) or 'none is left'}). Give them more time "
        f"(--wait), stop the workers, or take the jobs over (--take-over: they run again in the new store)"
    )


async def _take_over(house: House) -> None:
    for info in await house.sessions():
        close = partial(house.backend.close_session, session_id=info.session.id)
        while (await house.change(close)).more:
            pass

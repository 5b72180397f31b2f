"""Waiting with a limit, in milliseconds; and for signals."""

from __future__ import annotations

import asyncio
import math
import signal
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from psyqueue.kernel.signals import keep_from_forks

T = TypeVar("T")

ECHO_MS = 100
"""A Ctrl-C goes to all processes of a terminal, and `timeout`, npm or a process manager sends it on: it is one wish."""


async def is_set_within(event: asyncio.Event, limit_ms: float) -> bool:
    """Whether the event came within the time."""
    try:
        async with asyncio.timeout(limit_ms / 1000):
            return await event.wait()
    except TimeoutError:
        return event.is_set()


async def within(awaitable: Awaitable[T], limit_ms: float) -> T:
    """Its result. Raises TimeoutError, having cancelled it."""
    async with asyncio.timeout(limit_ms / 1000):
        return await awaitable


async def first_of(*futures: asyncio.Future[Any], limit_ms: float | None = None) -> None:
    """Until one of them is done, or the time is over; nothing is cancelled."""
    limit = None if limit_ms is None else limit_ms / 1000
    await asyncio.wait(futures, timeout=limit, return_when=asyncio.FIRST_COMPLETED)


def on_signal(number: signal.Signals, fn: Callable[[signal.Signals], None]) -> None:
    """Call `fn(number)` on the running loop whenever the signal comes, once for all that come within `ECHO_MS`.

    Processes that are forked from this one do not hear it so.
    """
    loop = asyncio.get_running_loop()
    last_s = -math.inf

    def hear() -> None:
        nonlocal last_s
        is_echo = loop.time() - last_s < ECHO_MS / 1000
        last_s = loop.time()
        if not is_echo:
            fn(number)

    keep_from_forks(number)
    try:
        loop.add_signal_handler(number, hear)
        # Whoever started us may have blocked it; then it would never be heard.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))
    except NotImplementedError:
        # Windows: the interpreter's own handler, which wakes the loop.
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(hear))

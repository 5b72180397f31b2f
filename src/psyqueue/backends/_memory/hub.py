"""Who waits for what, and who listens to which topic: nothing of it is truth."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

_BACKLOG_MAX = 1_000
"""Bodies kept for a listener that is slower than its topic; the oldest go first."""


class Hub:
    def __init__(self) -> None:
        self._waiters: dict[asyncio.Future[bool], tuple[frozenset[str], frozenset[str]]] = {}
        self._listeners: dict[asyncio.Queue[tuple[str, bytes] | None], tuple[object, tuple[str, ...]]] = {}
        """Inbox → (the client it belongs to, topics)."""

    async def wait(self, queues: Sequence[str], job_ids: Sequence[str], timeout_ms: int) -> bool:
        woken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters[woken] = (frozenset(queues), frozenset(job_ids))
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await woken
        except TimeoutError:
            return False
        finally:
            del self._waiters[woken]

    def wake(self, queues: Iterable[str], job_ids: Iterable[str]) -> None:
        """Everybody who waits for one of these."""
        if not self._waiters:
            return
        touched, ended = frozenset(queues), frozenset(job_ids)
        for woken, (wanted_queues, wanted_ids) in self._waiters.items():
            if touched & wanted_queues or ended & wanted_ids:
                self._resolve(woken)

    def wake_all(self) -> None:
        for woken in self._waiters:
            self._resolve(woken)

    def publish(self, topic: str, bodies: Sequence[bytes]) -> None:
        for inbox, (_, topics) in self._listeners.items():
            if topic in topics:
                for body in bodies:
                    if inbox.full():
                        inbox.get_nowait()
                    inbox.put_nowait((topic, body))

    async def subscribe(self, client: object, topics: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        inbox: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue(_BACKLOG_MAX)
        self._listeners[inbox] = (client, tuple(topics))
        try:
            while (received := await inbox.get()) is not None:
                yield received
        finally:
            self._listeners.pop(inbox, None)

    def close(self, client: object) -> None:
        """The client's subscriptions end, waiters look again."""
        self.wake_all()
        for inbox in [inbox for inbox, (owner, _) in self._listeners.items() if owner is client]:
            if inbox.full():
                inbox.get_nowait()
            inbox.put_nowait(None)

    @staticmethod
    def _resolve(woken: asyncio.Future[bool]) -> None:
        # A lease thread may end a job's life too: wake the waiter in its own loop.
        woken.get_loop().call_soon_threadsafe(_set_true, woken)


def _set_true(woken: asyncio.Future[bool]) -> None:
    if not woken.done():
        woken.set_result(True)

"""Best-effort messages between processes: one pub/sub connection for all listeners of this process."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

from psyqueue.backends._redis.address import Address
from psyqueue.backends._redis.faults import ReplyError, lost, translate
from psyqueue.backends._redis.link import Link
from psyqueue.backends._redis.trouble import Trouble
from psyqueue.errors import PsyQueueError

log = logging.getLogger(__name__)

BACKLOG_MAX: Final = 1_000
"""Bodies kept for a listener that is slower than its topic; the oldest go first."""
_ACTIVE_MS: Final = 1_000

Inbox = asyncio.Queue[tuple[str, bytes] | None]


class Topics:
    """Belongs to one event loop. Nothing is connected before somebody listens; `commands` publishes."""

    def __init__(self, address: Address, commands: Link, base: str, client_id: str) -> None:
        self._commands = commands
        self._prefix = f"{base}t:".encode()
        self._link = Link(address, on_push=self._on_push, on_lost=self._on_lost)
        self._inboxes: dict[Inbox, frozenset[str]] = {}
        self._active: dict[str, asyncio.Event] = {}
        """Of each topic with a listener: the server knows of it, or it cannot be told for now."""
        self._asked: set[str] = set()
        self._news = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self._trouble = Trouble("topics", client_id)
        self._is_closed = False

    async def publish(self, topic: str, bodies: Sequence[bytes]) -> None:
        """To whoever listens now, in their order. Raises StoreError.

        Listeners of this process that have just begun are waited for: they have another connection, maybe a slower one.
        """
        active = self._active.get(topic)
        if active is not None and not active.is_set():
            try:
                async with asyncio.timeout(_ACTIVE_MS / 1000):
                    await active.wait()
            except TimeoutError:
                active.set()
        channel = self._channel(topic)
        try:
            await self._commands.call_all([("PUBLISH", channel, body) for body in bodies])
        except ReplyError as exc:
            raise translate(exc, self._commands.place) from exc

    async def subscribe(self, topics: Sequence[str]) -> AsyncGenerator[tuple[str, bytes], None]:
        """The seam's `subscribe`. What is sent while the server is away is missed."""
        if self._is_closed:
            return
        inbox: Inbox = asyncio.Queue(BACKLOG_MAX)
        self._inboxes[inbox] = frozenset(topics)
        self._start()
        try:
            while (received := await inbox.get()) is not None:
                yield received
        finally:
            self._inboxes.pop(inbox, None)
            self._refresh()

    async def close(self) -> None:
        """All iterations end. Idempotent."""
        self._is_closed = True
        for inbox in self._inboxes:
            _put(inbox, None)
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait({self._work})
        await self._link.close()

    # ── what the server sends ─────────────────────────────────────────────────────────────────────────────────────────
    def _on_push(self, received: Any) -> None:
        if isinstance(received, ReplyError):
            log.warning("the server refuses a topic", extra={"error": received.text})
            for active in self._active.values():
                active.set()
            return
        kind, channel, content = received
        topic = channel[len(self._prefix) :].decode() if channel is not None else ""
        if kind == b"message":
            for inbox, topics in self._inboxes.items():
                if topic in topics:
                    _put(inbox, (topic, content))
        elif kind == b"subscribe":
            self._trouble.end()
            if topic in self._active:
                self._active[topic].set()

    def _on_lost(self) -> None:
        self._asked.clear()
        if self._active and not self._is_closed:
            self._on_failure(lost(self._link.place, "the connection for messages is gone"))

    # ── what it is asked for ──────────────────────────────────────────────────────────────────────────────────────────
    def _start(self) -> None:
        self._refresh()
        if self._work is None:
            loop = asyncio.get_running_loop()
            self._work = loop.create_task(self._run(), name="psyqueue-redis-topics", context=contextvars.Context())

    def _refresh(self) -> None:
        wanted = {topic for topics in self._inboxes.values() for topic in topics}
        self._active = {topic: self._active.get(topic) or asyncio.Event() for topic in wanted}
        if wanted != self._asked:
            self._news.set()

    async def _run(self) -> None:
        """Keep the server's list equal to ours. Ends by being cancelled, never by a failure."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._trouble.is_on:
                await self._trouble.pause()
            try:
                await self._ask()
            except PsyQueueError as exc:
                self._on_failure(exc)

    async def _ask(self) -> None:
        if not self._active and not self._asked:
            return
        await self._link.connect()
        # Nothing is awaited from here on: the lists and what was asked stay one.
        wanted = set(self._active)
        for command, topics in (("SUBSCRIBE", wanted - self._asked), ("UNSUBSCRIBE", self._asked - wanted)):
            if topics:
                self._link.tell(command, *map(self._channel, topics))
        self._asked = wanted

    def _on_failure(self, exc: PsyQueueError) -> None:
        self._trouble.note(exc)
        for active in self._active.values():
            active.set()
        self._news.set()

    def _channel(self, topic: str) -> bytes:
        return self._prefix + topic.encode()


def _put(inbox: Inbox, received: tuple[str, bytes] | None) -> None:
    if inbox.full():
        inbox.get_nowait()
    inbox.put_nowait(received)

"""Waiting for jobs and for ends of jobs: woken in the process, by datagrams of others, by looking twice a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import TypeAlias

import msgspec

from psyqueue.backends._sqlite.step import Step
from psyqueue.backends._sqlite.wake import EVERYTHING, Mailbox, mask_of

POLL_MS = 500
BACKLOG_MAX = 1_000
"""Bodies kept for a listener that is slower than its topic; the oldest go first."""
_IDS_MAX = 500
_DATAGRAM_BODIES_BYTES_MAX = 32_768

_encode = msgspec.msgpack.encode
_decode_wake = msgspec.msgpack.Decoder(tuple[list[str], list[str]]).decode
_decode_topic = msgspec.msgpack.Decoder(tuple[str, list[bytes]]).decode


class Waiter:
    __slots__ = ("ids", "mask", "queues", "woken")

    def __init__(self, queues: Sequence[str], job_ids: Sequence[str], woken: asyncio.Future[bool]) -> None:
        self.queues = frozenset(queues)
        self.ids = frozenset(job_ids)
        self.mask = mask_of(self.queues) | mask_of(self.ids)
        self.woken = woken

    def wake(self) -> None:
        if not self.woken.done():
            self.woken.set_result(True)


Look: TypeAlias = Callable[[tuple[Waiter, ...]], "asyncio.Future[list[Waiter]]"]
"""Asks in the reader's thread which of them have something to wake up for."""


class Waiting:
    """Belongs to one event loop. `look` None: there is no file that others could have changed."""

    def __init__(self, folder: str | None, look: Look | None) -> None:
        self.waiters: set[Waiter] = set()
        self._look = look
        self._inboxes: dict[asyncio.Queue[tuple[str, bytes] | None], frozenset[str]] = {}
        self._box = Mailbox(folder, "w", self._on_wake) if folder is not None else None
        self._topics = Mailbox(folder, "t", self._on_topic) if folder is not None else None
        self._poll: asyncio.TimerHandle | None = None

    # ── waiting ───────────────────────────────────────────────────────────────────────────────────────────────────────
    async def wait(self, queues: Sequence[str], job_ids: Sequence[str], timeout_ms: int) -> bool:
        """Registered before the first await: whatever is committed after the call began ends it."""
        loop = asyncio.get_running_loop()
        waiter = Waiter(queues, job_ids, loop.create_future())
        self.waiters.add(waiter)
        self._listen()
        if self._poll is None and self._look is not None:
            self._poll = loop.call_later(POLL_MS / 1000, self._on_poll)
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await waiter.woken
        except TimeoutError:
            return False
        finally:
            self.waiters.discard(waiter)
            self._listen()

    def _listen(self) -> None:
        if self._box is not None:
            mask = 0
            for waiter in self.waiters:
                mask |= waiter.mask
            self._box.listen(mask)

    def _on_poll(self) -> None:
        """The truth: a datagram may be lost, and a transaction of somebody's own sends none."""
        self._poll = None
        if self.waiters and self._look is not None:
            self._look(tuple(self.waiters)).add_done_callback(self._on_look)

    def _on_look(self, found: asyncio.Future[list[Waiter]]) -> None:
        if not found.cancelled():
            for waiter in self.waiters if found.exception() is not None else found.result():
                waiter.wake()
        if self.waiters and self._poll is None:
            self._poll = asyncio.get_running_loop().call_later(POLL_MS / 1000, self._on_poll)

    # ── waking ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def wake(self, queues: Iterable[str], job_ids: Iterable[str]) -> None:
        """Those of this process, in its loop."""
        if not self.waiters:
            return
        touched, ended = frozenset(queues), frozenset(job_ids)
        for waiter in self.waiters:
            if touched & waiter.queues or ended & waiter.ids:
                waiter.wake()

    def wake_all(self) -> None:
        for waiter in self.waiters:
            waiter.wake()

    def tell_others(self, steps: Iterable[Step]) -> tuple[set[str], list[str], bool]:
        """After a commit, in any thread: datagrams to who sleeps elsewhere. Returns what to wake for here."""
        queues: set[str] = set()
        ended: list[str] = []
        is_everybody = False
        for step in steps:
            queues |= step.touched
            ended += step.ended
            is_everybody |= step.is_everybody_touched
        if self._box is not None:
            if is_everybody:
                self._box.send(EVERYTHING, _encode(([], [])))
            elif self._box.is_anybody_there(mask := mask_of(queues) | mask_of(ended)):
                # Too many ids for a datagram: everybody who may be meant looks.
                told = (list(queues), ended) if len(ended) <= _IDS_MAX else ([], [])
                self._box.send(mask, _encode(told))
        return queues, ended, is_everybody

    def _on_wake(self, datagram: bytes) -> None:
        try:
            queues, ended = _decode_wake(datagram)
        except msgspec.MsgspecError:
            queues, ended = [], []
        if queues or ended:
            self.wake(queues, ended)
        else:
            self.wake_all()

    # ── topics ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def publish(self, topic: str, bodies: Sequence[bytes]) -> None:
        self._deliver(topic, bodies)
        if self._topics is None or not self._topics.is_anybody_there(mask := mask_of((topic,))):
            return
        part: list[bytes] = []
        size = 0
        for body in bodies:
            if part and size + len(body) > _DATAGRAM_BODIES_BYTES_MAX:
                self._topics.send(mask, _encode((topic, part)))
                part, size = [], 0
            part.append(body)
            size += len(body)
        if part:
            self._topics.send(mask, _encode((topic, part)))

    def _on_topic(self, datagram: bytes) -> None:
        try:
            topic, bodies = _decode_topic(datagram)
        except msgspec.MsgspecError:
            return
        self._deliver(topic, bodies)

    def _deliver(self, topic: str, bodies: Sequence[bytes]) -> None:
        for inbox, topics in self._inboxes.items():
            if topic in topics:
                for body in bodies:
                    if inbox.full():
                        inbox.get_nowait()
                    inbox.put_nowait((topic, body))

    async def subscribe(self, topics: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        inbox: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue(BACKLOG_MAX)
        self._inboxes[inbox] = frozenset(topics)
        self._listen_to_topics()
        try:
            while (received := await inbox.get()) is not None:
                yield received
        finally:
            self._inboxes.pop(inbox, None)
            self._listen_to_topics()

    def _listen_to_topics(self) -> None:
        if self._topics is not None:
            mask = 0
            for topics in self._inboxes.values():
                mask |= mask_of(topics)
            self._topics.listen(mask)

    def close(self) -> None:
        """Subscriptions end, waiters look again."""
        self.wake_all()
        if self._poll is not None:
            self._poll.cancel()
            self._poll = None
        for inbox in self._inboxes:
            if inbox.full():
                inbox.get_nowait()
            inbox.put_nowait(None)
        for box in (self._box, self._topics):
            if box is not None:
                box.close()

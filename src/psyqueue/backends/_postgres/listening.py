"""Waiting and messages: one listening connection for all who wait or listen in this process.

Whoever waits is written down as a sleeper; steps then send a notice. A step that began before that, and commits later,
tells nobody: so the store is looked at right after, again after a few growing moments, and then every two seconds. That
look is the truth; behind a pooler that loses notices it is all there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec

from psyqueue.backends._postgres.connecting import connect
from psyqueue.backends._postgres.faults import CALL_ERRORS, lost, translate
from psyqueue.backends._postgres.notices import Receiver, Sender
from psyqueue.backends._postgres.options import PostgresOptions
from psyqueue.backends._postgres.schema import topic_channel, wake_channel
from psyqueue.errors import PsyQueueError

log = logging.getLogger(__name__)

PAUSES_MS: Final = (10, 40, 200, 1_000, 2_000)
"""Between looks while the same ones sleep; the last one repeats."""
LINGER_MS: Final = 1_000
"""A sleeper stays written down for so long: a worker that is busy most of the time does not write at each turn."""
SLEEP_MS: Final = 60_000
SLEEP_AGAIN_MS: Final = 20_000
BACKLOG_MAX: Final = 1_000
"""Bodies kept for a listener that is slower than its topic; the oldest go first."""
_RETRY_MS: Final = (50, 200, 1_000, 5_000)
_CLOSE_S: Final = 1.0
_ACTIVE_S: Final = 1.0

Inbox = asyncio.Queue[tuple[str, bytes] | None]
_parsed = msgspec.json.Decoder(tuple[list[str], list[str], int]).decode


class Caller(Protocol):
    async def value(self, name: str, /, *args: Any) -> Any: ...


class _Waiter:
    __slots__ = ("names", "woken")

    def __init__(self, queues: Sequence[str], job_ids: Sequence[str]) -> None:
        self.names = frozenset([*(f"q{queue}" for queue in queues), *(f"j{job_id}" for job_id in job_ids)])
        self.woken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()


class Listening:
    """Belongs to one event loop. Nothing is connected before somebody waits or listens."""

    def __init__(self, options: PostgresOptions, caller: Caller, client_id: str) -> None:
        self._options = options
        self._caller = caller
        self._client_id = client_id
        self._sender = Sender(client_id)
        self._receiver = Receiver()
        self._connection: Any = None
        self._work: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._listens = asyncio.Event()
        self._waiters: dict[str, set[_Waiter]] = {}
        self._known: dict[str, float] = {}
        """Name → when it has to be written down again, by the loop's clock."""
        self._idle_since: dict[str, float] = {}
        self._missed: set[str] = set()
        self._seen: dict[str, int] = {}
        """Queue → the last number given when a look found work in it: the same work wakes once."""
        self._looks = 0
        self._inboxes: dict[Inbox, frozenset[str]] = {}
        self._failures = 0
        self._deaf = 0
        """How often in a row there was no connection for notices."""
        self._listen_at = 0.0
        self._is_closed = False

    # ── waiting ───────────────────────────────────────────────────────────────────────────────────────────────────────
    async def wait(self, queues: Sequence[str], job_ids: Sequence[str], timeout_ms: int) -> bool:
        """The seam's `wait`. Raises nothing: a store in trouble is a reason to look."""
        if self._is_closed:
            return True
        waiter = _Waiter(queues, job_ids)
        if missed := waiter.names & self._missed:
            self._missed -= missed
            return True
        for name in waiter.names:
            self._waiters.setdefault(name, set()).add(waiter)
            self._idle_since.pop(name, None)
        if not waiter.names <= self._known.keys():
            self._looks = 0
            self._news.set()
        self._start()
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await waiter.woken
        except TimeoutError:
            return waiter.woken.done() and not waiter.woken.cancelled()
        finally:
            self._discard(waiter)

    def _discard(self, waiter: _Waiter) -> None:
        now = asyncio.get_running_loop().time()
        for name in waiter.names:
            waiters = self._waiters.get(name)
            if waiters is None:
                continue
            waiters.discard(waiter)
            if not waiters:
                del self._waiters[name]
                self._idle_since[name] = now

    def _wake(self, names: Iterable[str]) -> None:
        for name in names:
            for waiter in self._waiters.get(name, ()):
                if not waiter.woken.done():
                    waiter.woken.set_result(True)

    # ── messages ──────────────────────────────────────────────────────────────────────────────────────────────────────
    async def publish(self, topic: str, bodies: Sequence[bytes]) -> None:
        """To whoever listens now, in their order. Raises StoreError.

        Listeners of this process that have just begun are waited for: they have another connection.
        """
        if self._inboxes and not self._listens.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ACTIVE_S):
                    await self._listens.wait()
        if not bodies:
            return
        await self._caller.value("publish", self._sender.notices(topic, bodies))
        if not self._options.prepared:
            for body in bodies:
                self._deliver((topic, body))

    async def subscribe(self, topics: Sequence[str]) -> AsyncGenerator[tuple[str, bytes], None]:
        """The seam's `subscribe`. Missed: what is sent while the server is away; behind a pooler, what others send."""
        if self._is_closed:
            return
        if not self._options.prepared:
            log.warning("behind a pooler only messages of this client are heard", extra={"topics": list(topics)})
        inbox: Inbox = asyncio.Queue(BACKLOG_MAX)
        self._inboxes[inbox] = frozenset(topics)
        self._news.set()
        self._start()
        try:
            while (received := await inbox.get()) is not None:
                yield received
        finally:
            self._inboxes.pop(inbox, None)

    # ── what the server sends ─────────────────────────────────────────────────────────────────────────────────────────
    def _on_wake(self, _connection: Any, _pid: int, _channel: str, name: object) -> None:
        text = str(name)
        if text == "a":
            self._wake(tuple(self._waiters))
        elif text in self._waiters:
            self._wake((text,))
        elif text.startswith("q") and text in self._idle_since:
            # Others sleep at queues that nobody here asks for: of those nothing is kept.
            self._missed.add(text)

    def _on_topic(self, _connection: Any, _pid: int, _channel: str, notice: object) -> None:
        try:
            received = self._receiver.received(str(notice))
        except ValueError:
            return  # somebody else's words on our channel
        if received is not None:
            self._deliver(received)

    def _deliver(self, received: tuple[str, bytes]) -> None:
        for inbox, topics in self._inboxes.items():
            if received[0] in topics:
                _put(inbox, received)

    def _on_lost(self, connection: Any) -> None:
        if connection is self._connection:
            self._connection = None
            self._known.clear()  # a server that crashed has emptied the list, and so has a standby that took over
            self._listens.clear()
            self._listen_at = 0.0
            self._news.set()

    # ── the work in the background ────────────────────────────────────────────────────────────────────────────────────
    def _start(self) -> None:
        if self._work is None:
            loop = asyncio.get_running_loop()
            self._work = loop.create_task(self._run(), name="psyqueue-postgres", context=contextvars.Context())

    async def _run(self) -> None:
        """Ends by being cancelled, never by a failure."""
        while True:
            self._news.clear()
            try:
                await self._turn()
                self._failures = 0
            except PsyQueueError as exc:
                await self._on_failure(exc)
            except Exception as exc:
                log.exception("waiting for notices met a defect")
                await self._on_failure(translate(exc, self._options.place))

    async def _turn(self) -> None:
        if self._waiters or self._inboxes:
            await self._listen_if_possible()
        await self._write_down()
        if self._waiters:
            await self._look()
        await self._pause(self._pause_ms())

    def _pause_ms(self) -> int | None:
        """Until the next look; None: until there is news."""
        if self._waiters:
            pause_ms = PAUSES_MS[min(self._looks, len(PAUSES_MS) - 1)]
            self._looks += 1
            return pause_ms
        if self._inboxes and self._connection is None and self._options.prepared:
            return max(1, round((self._listen_at - asyncio.get_running_loop().time()) * 1000))
        return LINGER_MS if self._known else None

    async def _pause(self, pause_ms: int | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if pause_ms is None else pause_ms / 1000):
                await self._news.wait()

    async def _listen_if_possible(self) -> None:
        """Where there is no connection for it, the looks go on, and do without notices.

        Behind a pooler nobody tries: another session would listen, and be handed to others.
        """
        if not self._options.prepared:
            self._listens.set()
            return
        loop = asyncio.get_running_loop()
        if self._connection is not None or loop.time() < self._listen_at:
            return
        try:
            await self._listen()
            self._deaf = 0
        except PsyQueueError as exc:
            self._deaf += 1
            if self._deaf == 1:
                log.warning("no connection for notices, looking instead", extra={"error": exc.message})
            self._listen_at = loop.time() + _RETRY_MS[min(self._deaf, len(_RETRY_MS)) - 1] / 1000
            self._listens.set()  # nobody has to wait for what is not to be had

    async def _listen(self) -> None:
        place = self._options.place
        connection = await connect(self._options)
        try:
            self._connection = connection
            connection.add_termination_listener(self._on_lost)
            await connection.add_listener(wake_channel(self._options.schema), self._on_wake)
            await connection.add_listener(topic_channel(self._options.schema), self._on_topic)
        except CALL_ERRORS as exc:
            self._connection = None
            connection.terminate()
            raise lost(place, "the connection for notices is gone") from exc
        self._listens.set()

    async def _write_down(self) -> None:
        """The list of sleepers in the store becomes ours: new ones, and those that slept for long, are written.

        Whoever cannot hear is not written down: each notice costs the others.
        """
        now = asyncio.get_running_loop().time()
        due = [name for name in self._waiters if self._known.get(name, 0.0) <= now]
        if due and self._connection is not None:
            await self._caller.value("sleep", self._client_id, *_by_kind(due), SLEEP_MS)
            self._known |= dict.fromkeys(due, now + SLEEP_AGAIN_MS / 1000)
        gone = [name for name, since in self._idle_since.items() if since <= now - LINGER_MS / 1000]
        if gone:
            known = [name for name in gone if name in self._known]
            for name in gone:
                del self._idle_since[name]
                self._known.pop(name, None)
            self._missed.difference_update(gone)
            for name in gone:
                self._seen.pop(name, None)
            if known:
                await self._caller.value("wake_up", self._client_id, *_by_kind(known))

    async def _look(self) -> None:
        queues, job_ids, number = _parsed(await self._caller.value("look", *_by_kind(self._waiters)))
        self._wake([f"j{job_id}" for job_id in job_ids])
        fresh = [name for name in (f"q{queue}" for queue in queues) if self._seen.get(name) != number]
        self._seen |= dict.fromkeys(fresh, number)
        self._wake(fresh)

    async def _on_failure(self, exc: PsyQueueError) -> None:
        """Whoever waits looks once; then they wait for the server to come back, or for their time to end."""
        self._failures += 1
        if self._failures == 1:
            log.warning("looking for work failed, trying again", extra={"error": exc.message})
            self._wake(tuple(self._waiters))
        self._known.clear()
        self._listens.set()  # nobody has to wait for what is not to be had
        self._news.clear()
        await self._pause(_RETRY_MS[min(self._failures, len(_RETRY_MS)) - 1])

    async def close(self) -> None:
        """All who wait look, all iterations end. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._wake(tuple(self._waiters))
        for inbox in self._inboxes:
            _put(inbox, None)
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait({self._work})
        if self._known:
            with contextlib.suppress(PsyQueueError, TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._caller.value("wake_up", self._client_id, *_by_kind(self._known))
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.remove_termination_listener(self._on_lost)
            with contextlib.suppress(Exception):
                await connection.close(timeout=_CLOSE_S)


def _by_kind(names: Iterable[str]) -> tuple[list[str], list[str]]:
    listed = list(names)
    return [name[1:] for name in listed if name[0] == "q"], [name[1:] for name in listed if name[0] == "j"]


def _put(inbox: Inbox, received: tuple[str, bytes] | None) -> None:
    if inbox.full():
        inbox.get_nowait()
    inbox.put_nowait(received)

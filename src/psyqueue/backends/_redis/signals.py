"""Waiting for jobs and for ends of jobs, on one blocking connection for all who wait in this process.

What is blocked on are signals, never jobs: a list `w:<queue>` with at most one element, which the scripts push when
there may be work, and a list `i:<client>` of our own. A signal that comes while nobody blocks stays; one that was taken
for nobody, or for somebody who then did not look, is put back. All of it may be lost or doubled: whoever waits looks at
the store, which is the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from psyqueue.backends._redis.faults import ReplyError, translate
from psyqueue.backends._redis.link import Link
from psyqueue.backends._redis.resp import Argument
from psyqueue.backends._redis.trouble import Trouble
from psyqueue.errors import PsyQueueError

log = logging.getLogger(__name__)

BLOCK_MS: Final = 25_000
"""Short enough for what drops idle connections, and for a registration among the listeners to be renewed."""
HAND_ON_MS: Final = 100
"""Who was woken fetches within this. If not, it has no room any more, and others may sleep that have."""
_CLOSE_MS: Final = 1_000
_ENDED_MAX: Final = 500
"""Ends of jobs read at once: a batch of them comes with one settle."""
_JOB: Final = b"j"
_AGAIN: Final = b"r"
"""Into our own list: block again, on more queues. Wakes nobody."""


class Caller(Protocol):
    """Runs the script of that name; it is given the base of all keys."""

    async def run(self, script: str, /, *args: Argument) -> Any: ...


class _Waiter:
    __slots__ = ("job_ids", "queues", "signal", "woken")

    def __init__(self, queues: Sequence[str], job_ids: Sequence[str]) -> None:
        self.queues = frozenset(queues)
        self.job_ids = frozenset(job_ids)
        self.signal: str | None = None
        """The queue whose signal was taken to wake this one."""
        self.woken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    @property
    def is_woken(self) -> bool:
        return self.woken.done() and not self.woken.cancelled() and self.woken.result()

    def give_up(self) -> None:
        if not self.woken.done():
            self.woken.set_result(False)


class Signals:
    """Belongs to one event loop. Nothing is connected before somebody waits."""

    def __init__(self, link_factory: Callable[[], Link], commands: Caller, base: str, client_id: str) -> None:
        self._link_factory = link_factory
        self._commands = commands
        self._client_id = client_id
        self._queue_prefix = f"{base}w:".encode()
        self._own_key = f"{base}i:{client_id}".encode()
        self._link: Link | None = None
        self._work: asyncio.Task[None] | None = None
        self._arming: asyncio.Task[None] | None = None
        self._waiters: set[_Waiter] = set()
        self._of_queue: dict[str, set[_Waiter]] = {}
        self._of_job: dict[str, set[_Waiter]] = {}
        self._to_arm: set[str] = set()
        self._owed: dict[str, asyncio.TimerHandle] = {}
        """Queues whose signal woke somebody who has not looked yet."""
        self._news = asyncio.Event()
        self._blocked_on: frozenset[str] | None = None
        """The queues that the server is being asked about; None: it is not."""
        self._is_interrupted = False
        self._is_listening = False
        self._is_closed = False
        self._trouble = Trouble("signals", client_id)

    # ── waiting ───────────────────────────────────────────────────────────────────────────────────────────────────────
    async def wait(self, queues: Sequence[str], job_ids: Sequence[str], timeout_ms: int) -> bool:
        """The seam's `wait`. Raises nothing: a store in trouble is a reason to look."""
        if self._is_closed:
            return True
        waiter = _Waiter(queues, job_ids)
        self._add(waiter)
        self._start()
        timer = asyncio.get_running_loop().call_later(timeout_ms / 1000, waiter.give_up)
        try:
            if self._is_news_to_server(waiter):
                async with asyncio.timeout(timeout_ms / 1000):
                    if await self._register(waiter):
                        return True
            return await waiter.woken
        except TimeoutError:
            return waiter.is_woken
        except asyncio.CancelledError:
            if waiter.is_woken and waiter.signal is not None:
                self._hand_on(waiter.signal)
            raise
        finally:
            timer.cancel()
            self._discard(waiter)

    def looked(self, queues: Sequence[str]) -> None:
        """A fetch from them is on its way: it finds what their signals told of."""
        if self._owed:
            for queue in queues:
                if (timer := self._owed.pop(queue, None)) is not None:
                    timer.cancel()

    def _is_news_to_server(self, waiter: _Waiter) -> bool:
        return bool(waiter.job_ids) or self._is_blocked_on_others(waiter)

    def _is_blocked_on_others(self, waiter: _Waiter) -> bool:
        return self._blocked_on is not None and not waiter.queues <= self._blocked_on

    async def _register(self, waiter: _Waiter) -> bool:
        """Tell the server what is new to it. True: there is a reason to look already."""
        try:
            if self._is_blocked_on_others(waiter):
                await self._interrupt()
            if waiter.job_ids:
                return bool(await self._commands.run("watch", self._client_id, *waiter.job_ids))
        except PsyQueueError:
            return True
        return False

    async def _interrupt(self) -> None:
        """One is enough for all who come before the server is asked again."""
        if self._is_interrupted:
            return
        self._is_interrupted = True
        try:
            await self._commands.run("signal", self._client_id, _AGAIN)
        except BaseException:
            self._is_interrupted = False
            raise

    def _add(self, waiter: _Waiter) -> None:
        self._waiters.add(waiter)
        for queue in waiter.queues:
            self._of_queue.setdefault(queue, set()).add(waiter)
        for job_id in waiter.job_ids:
            self._of_job.setdefault(job_id, set()).add(waiter)
        self._news.set()

    def _discard(self, waiter: _Waiter) -> None:
        if waiter not in self._waiters:
            return
        self._waiters.discard(waiter)
        for names, index in ((waiter.queues, self._of_queue), (waiter.job_ids, self._of_job)):
            for name in names:
                index[name].discard(waiter)
                if not index[name]:
                    del index[name]

    def _wake(self, waiters: Iterable[_Waiter], signal: str | None = None) -> None:
        """Who is woken waits no more: the next question to the server leaves its queues out."""
        for waiter in tuple(waiters):
            self._discard(waiter)
            waiter.signal = signal
            if not waiter.woken.done():
                waiter.woken.set_result(True)
        if signal is not None and signal not in self._owed:
            loop = asyncio.get_running_loop()
            self._owed[signal] = loop.call_later(HAND_ON_MS / 1000, self._hand_on, signal)

    # ── signals taken for nobody ──────────────────────────────────────────────────────────────────────────────────────
    def _hand_on(self, queue: str) -> None:
        """Others may wait for it. At once: the work below may be blocked for long."""
        self.looked((queue,))
        self._to_arm.add(queue)
        if self._arming is None and not self._is_closed:
            loop = asyncio.get_running_loop()
            self._arming = loop.create_task(self._arm(), name="psyqueue-redis-arm", context=contextvars.Context())

    async def _arm(self) -> None:
        try:
            while self._to_arm:
                queue = self._to_arm.pop()
                if queue in self._of_queue:
                    self._wake(self._of_queue[queue], queue)
                else:
                    await self._commands.run("arm", queue)
        except PsyQueueError as exc:
            # Whoever waits for them looks within a time of its own.
            log.info("signals were lost", extra={"queues": len(self._to_arm) + 1, "error": exc.message})
            self._to_arm.clear()
        finally:
            self._arming = None

    # ── the work in the background ────────────────────────────────────────────────────────────────────────────────────
    def _start(self) -> None:
        if self._work is None:
            self._link = self._link_factory()
            self._link.timeout_ms += BLOCK_MS
            loop = asyncio.get_running_loop()
            self._work = loop.create_task(self._run(), name="psyqueue-redis-signals", context=contextvars.Context())

    async def _run(self) -> None:
        """Ask the server as long as somebody waits. Ends by being cancelled, never by a failure."""
        while True:
            if not self._waiters:
                self._news.clear()
                await self._news.wait()
            try:
                await self._turn()
            except (PsyQueueError, ReplyError) as exc:
                await self._on_failure(exc)
            except Exception as exc:
                log.exception("waiting for signals met a defect")
                await self._on_failure(exc)

    async def _turn(self) -> None:
        if not self._is_listening:
            await self._commands.run("listen", self._client_id)
            self._is_listening = True
            if self._trouble.is_on:
                self._wake(self._waiters)  # what they were to be told may have gone with the server
        if self._waiters:
            await self._block()

    async def _block(self) -> None:
        assert self._link is not None
        self._blocked_on = frozenset(self._of_queue)
        keys = [self._queue_prefix + queue.encode() for queue in self._blocked_on]
        try:
            received = await self._link.call("BLPOP", self._own_key, *keys, BLOCK_MS // 1000)
        finally:
            self._blocked_on = None
            self._is_interrupted = False
        self._trouble.end()
        if received is None:
            self._is_listening = False
            return
        key, element = received
        if key != self._own_key:
            self._on_signal(key[len(self._queue_prefix) :].decode())
            return
        self._on_own(element)
        if element.startswith(_JOB) and self._of_job:
            for each in await self._link.call("LPOP", self._own_key, _ENDED_MAX) or ():
                self._on_own(each)

    def _on_signal(self, queue: str) -> None:
        if queue in self._of_queue:
            self._wake(self._of_queue[queue], queue)
        else:
            self._hand_on(queue)

    def _on_own(self, element: bytes) -> None:
        if element.startswith(_JOB):
            self._wake(self._of_job.get(element[len(_JOB) :].decode(), ()))
        elif element != _AGAIN:
            self._wake(self._waiters)

    async def _on_failure(self, exc: Exception) -> None:
        """Whoever waits looks once; then they wait for the server to come back, or for their time to end."""
        assert self._link is not None
        if self._is_listening or not self._trouble.is_on:
            self._wake(self._waiters)
        self._is_listening = False
        self._trouble.note(translate(exc, self._link.place))
        await self._trouble.pause()

    async def close(self) -> None:
        """All who wait look. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._wake(self._waiters)
        self.looked(tuple(self._owed))  # closed sessions arm their queues
        if self._work is None:
            return
        self._work.cancel()
        await asyncio.wait({self._work})
        if self._arming is not None:
            await asyncio.wait({self._arming}, timeout=_CLOSE_MS / 1000)
        if self._arming is not None:
            self._arming.cancel()
        assert self._link is not None
        await self._link.close()
        with contextlib.suppress(PsyQueueError, TimeoutError):
            async with asyncio.timeout(_CLOSE_MS / 1000):
                await self._commands.run("deafen", self._client_id)

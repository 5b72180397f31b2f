"""The public verbs for programs without asyncio: each coroutine method once more, as a call that blocks.

Nothing is written twice: `blocking` makes the plain method of the coroutine method, with its parameters, its result and
its docstring. By hand are only those whose result is a facade itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, Self, TypeVar, Unpack, overload

from psyqueue.clock import Duration, to_ms
from psyqueue.kernel.app import PsyQueue
from psyqueue.kernel.dead_letters import DeadLetters
from psyqueue.kernel.facade import Facade, blocking
from psyqueue.kernel.handler import Call, Handler
from psyqueue.kernel.job_handle import JobHandle
from psyqueue.kernel.options import EnqueueOptions
from psyqueue.kernel.portal import Portal
from psyqueue.kernel.views import JobView
from psyqueue.kernel.worker import Worker

if TYPE_CHECKING:
    from psyqueue.testing.kit import Kit
    from psyqueue.testing.sync_kit import SyncKit

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class SyncJobHandle(Facade[JobHandle[R_co]], Generic[R_co]):
    """As JobHandle: `id`, `name`, `queue`, `created`, and methods that block."""

    __slots__ = ()

    @property
    def id(self) -> str:
        """Its id."""
        return self._target.id

    @property
    def name(self) -> str:
        """The name of the handler."""
        return self._target.name

    @property
    def queue(self) -> str:
        """Where it went."""
        return self._target.queue

    @property
    def created(self) -> bool:
        """False when the job was there before."""
        return self._target.created

    def result(self, timeout: Duration | None = None) -> R_co:
        """As JobHandle.result."""
        return self._portal.run(lambda: self._target.result(timeout))

    def stream(self, every: Duration = 0.5) -> Iterator[JobView]:
        """As JobHandle.stream, for a plain `for`."""
        stream = self._target.stream(every)
        try:
            while True:
                yield self._portal.run(stream.__anext__)
        except StopAsyncIteration:
            return
        finally:
            self._portal.run(stream.aclose)

    wait: Final = blocking(JobHandle.wait)
    refresh: Final = blocking(JobHandle.refresh)
    cancel: Final = blocking(JobHandle.cancel)

    def __str__(self) -> str:
        return self._target.id

    def __repr__(self) -> str:
        return f"<Sync{repr(self._target).removeprefix('<')}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SyncJobHandle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self._target)


class SyncHandler(Facade[Handler[P, R]], Generic[P, R]):
    """`handler.sync`: enqueues a call, and returns when it is in the store."""

    __slots__ = ()

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> SyncJobHandle[R]:
        """As Handler.enqueue."""
        return SyncJobHandle(self._portal, self._portal.run(lambda: self._target.enqueue(*args, **kwargs)))


class SyncWorker(Facade[Worker]):
    """As Worker, for programs without asyncio; its handlers run on the queue's background thread and in others."""

    __slots__ = ()

    stop: Final = blocking(Worker.stop)
    wait: Final = blocking(Worker.wait)

    @property
    def name(self) -> str:
        """For logs and `psyqueue workers ls`."""
        return self._target.name

    @property
    def is_running(self) -> bool:
        """False once it has ended, for whatever reason."""
        return self._target.is_running


class SyncDeadLetters(Facade[DeadLetters]):
    """As DeadLetters, for programs without asyncio: `q.sync.dead_letter`."""

    __slots__ = ()

    list: Final = blocking(DeadLetters.list)
    replay: Final = blocking(DeadLetters.replay)
    replay_all: Final = blocking(DeadLetters.replay_all)
    purge: Final = blocking(DeadLetters.purge)


def _test_kit(method: Callable[Concatenate[PsyQueue, P], Kit]) -> Callable[Concatenate[SyncQueue, P], SyncKit]:
    """The method whose kit is for tests without asyncio. It starts nothing."""

    @functools.wraps(method)
    def call(self: SyncQueue, /, *args: P.args, **kwargs: P.kwargs) -> SyncKit:
        from psyqueue.testing.sync_kit import SyncKit  # noqa: PLC0415 - only tests load it

        return SyncKit(self._life, method(self._target, *args, **kwargs))

    return call


class SyncQueue(Facade[PsyQueue]):
    """`q.sync`: the verbs of a queue for programs without asyncio. Any thread may use it.

    `with q.sync:` starts and stops the queue. Without it the first call starts it, and the end of the process stops it.
    Inside of a running event loop every call is a LifecycleError that says to await instead.
    """

    __slots__ = ("_life",)

    def __init__(self, portal: Portal, target: PsyQueue) -> None:
        super().__init__(portal, target)
        self._life = portal

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def start(self) -> None:
        """Start the queue on a background thread, unless it runs already. Raises as PsyQueue.start."""
        self._life.start()

    def stop(self, *, grace: Duration | None = None) -> None:
        """As PsyQueue.stop; the background thread ends."""
        self._life.stop(None if grace is None else to_ms("grace", grace))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ── enqueue ───────────────────────────────────────────────────────────────────────────────────────────────────
    @overload
    def enqueue(self, call: Call[R], /, **options: Unpack[EnqueueOptions]) -> SyncJobHandle[R]: ...
    @overload
    def enqueue(self, name: str, payload: Any = None, /, **options: Unpack[EnqueueOptions]) -> SyncJobHandle[Any]: ...
    def enqueue(
        self, name_or_call: Any, payload: Any = None, /, **options: Unpack[EnqueueOptions]
    ) -> SyncJobHandle[Any]:
        """As PsyQueue.enqueue."""
        handle: JobHandle[Any] = self._portal.run(lambda: self._target.enqueue(name_or_call, payload, **options))
        return SyncJobHandle(self._portal, handle)

    def enqueue_bulk(self, items: Iterable[Any], /, **options: Unpack[EnqueueOptions]) -> list[SyncJobHandle[Any]]:
        """As PsyQueue.enqueue_bulk."""
        handles = self._portal.run(lambda: self._target.enqueue_bulk(items, **options))
        return [SyncJobHandle(self._portal, handle) for handle in handles]

    def handle_of(self, job_id: str) -> SyncJobHandle[Any]:
        """As PsyQueue.handle_of."""
        return SyncJobHandle(self._portal, self._target.handle_of(job_id))

    # ── run ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def start_worker(
        self,
        *queues: str,
        concurrency: int = 10,
        prefetch: int | str = "auto",
        lease: Duration = "30s",
        name: str | None = None,
    ) -> SyncWorker:
        """As PsyQueue.start_worker."""

        async def start() -> Worker:
            return self._target.start_worker(
                *queues, concurrency=concurrency, prefetch=prefetch, lease=lease, name=name
            )

        return SyncWorker(self._portal, self._portal.run(start))

    process_next: Final = blocking(PsyQueue.process_next)
    stop_workers: Final = blocking(PsyQueue.stop_workers)
    testing: Final = _test_kit(PsyQueue.testing)

    # ── look and operate ──────────────────────────────────────────────────────────────────────────────────────────
    get: Final = blocking(PsyQueue.get)
    jobs: Final = blocking(PsyQueue.jobs)
    cancel: Final = blocking(PsyQueue.cancel)
    cancel_all: Final = blocking(PsyQueue.cancel_all)
    explain: Final = blocking(PsyQueue.explain)
    durability: Final = blocking(PsyQueue.durability)
    pause: Final = blocking(PsyQueue.pause)
    resume: Final = blocking(PsyQueue.resume)
    limits: Final = blocking(PsyQueue.limits)

    @property
    def dead_letter(self) -> SyncDeadLetters:
        """As PsyQueue.dead_letter."""
        return SyncDeadLetters(self._portal, self._target.dead_letter)

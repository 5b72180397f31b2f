"""What the worker's tests share: a store whose calls are counted and made to fail, events to wait for, ceilings."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeVar

from psyqueue import Event, Kernel, PsyQueue
from psyqueue.backend import BackendAdapter, Change, Fetch, Filter, Op, Session
from psyqueue.ids import new_token
from psyqueue.kernel.worker import Worker, WorkerOptions

T = TypeVar("T")

LIMIT_S = 20.0
"""No promise about time: what takes longer than this hangs."""

Fault = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Gets the real call, and decides what comes of it."""


async def soon(awaitable: Awaitable[T], limit_s: float = LIMIT_S) -> T:
    """Fails the test instead of hanging it."""
    return await asyncio.wait_for(awaitable, limit_s)


async def turns(count: int = 1) -> None:
    """Let everything that is ready run, `count` times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(is_true: Callable[[], Any], limit_s: float = LIMIT_S) -> None:
    """Until a fact is there that no event tells: some turns of the loop, then a look every few milliseconds."""
    looks = 0
    async with asyncio.timeout(limit_s):
        while not is_true():
            looks += 1
            await (asyncio.sleep(0) if looks < 100 else a_moment())


async def a_moment() -> None:
    moment = asyncio.Event()
    asyncio.get_running_loop().call_later(0.003, moment.set)
    await moment.wait()


class Faults:
    """A plugin around the store. `calls` counts them by verb; `plans[verb]` are used up by its next calls, one each.

    `always[verb]` is used when no plan is left.
    """

    name = "faults"

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.args: list[tuple[str, tuple[Any, ...]]] = []
        self.plans: dict[str, list[Fault]] = {}
        self.always: dict[str, Fault] = {}
        self.store: Any = None

    def init(self, kernel: Kernel) -> None:
        kernel.wrap_backend(self.wrap)

    def wrap(self, inner: BackendAdapter) -> Any:
        self.store = inner
        return _Wrapped(inner, self)

    def next_of(self, verb: str) -> Fault | None:
        plans = self.plans.get(verb)
        return plans.pop(0) if plans else self.always.get(verb)


class _Wrapped:
    def __init__(self, inner: Any, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    def __getattr__(self, verb: str) -> Any:
        real, faults = getattr(self._inner, verb), self._faults
        if not inspect.iscoroutinefunction(real):
            return real

        async def call(*args: Any, **kwargs: Any) -> Any:
            faults.calls[verb] += 1
            faults.args.append((verb, args))
            fault = faults.next_of(verb)
            if fault is None:
                return await real(*args, **kwargs)
            return await fault(lambda: real(*args, **kwargs))

        return call


def fails(error: BaseException) -> Fault:
    """The call never reaches the store."""

    async def fault(call: Callable[[], Awaitable[Any]]) -> Any:
        raise error.with_traceback(None)

    return fault


def loses_reply(error: BaseException) -> Fault:
    """The store does the step, the caller hears only `error`."""

    async def fault(call: Callable[[], Awaitable[Any]]) -> Any:
        await call()
        raise error

    return fault


def waits_for(gate: asyncio.Event, entered: asyncio.Event | None = None) -> Fault:
    """The call stays away until the gate opens, then is done."""

    async def fault(call: Callable[[], Awaitable[Any]]) -> Any:
        if entered is not None:
            entered.set()
        await gate.wait()
        return await call()

    return fault


def answers_after(gate: asyncio.Event, done: asyncio.Event | None = None) -> Fault:
    """The store does the step at once, its reply stays away until the gate opens."""

    async def fault(call: Callable[[], Awaitable[Any]]) -> Any:
        reply = await call()
        if done is not None:
            done.set()
        await gate.wait()
        return reply

    return fault


class Told:
    """Everything published from now on, in order."""

    def __init__(self, q: PsyQueue, pattern: str = "*") -> None:
        self.events: list[Event] = []
        self._changed = asyncio.Event()
        q.events.on(pattern, self._note)

    def _note(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()

    def of(self, event_type: str, job_id: object = None) -> list[dict[str, Any]]:
        """The data of these events, of one job or of all."""
        found = [event.data for event in self.events if event.type == event_type]
        return [data for data in found if job_id is None or data.get("job_id") == str(job_id)]

    def types(self, job_id: object) -> list[str]:
        """What was told about one job, in order."""
        return [event.type for event in self.events if event.data.get("job_id") == str(job_id)]

    async def first(self, event_type: str, job_id: object = None, count: int = 1) -> dict[str, Any]:
        """Wait until it was told `count` times; the data of the last of these."""
        async with asyncio.timeout(LIMIT_S):
            while len(found := self.of(event_type, job_id)) < count:
                self._changed.clear()
                await self._changed.wait()
        return found[count - 1]


class Rig:
    """A queue on a store of its own, its faults and its events; `q` is not started."""

    def __init__(self, plugin: Any, clock: Any = None) -> None:
        self.faults = Faults()
        self.q = PsyQueue(name="rig", clock=clock).use(plugin).use(self.faults)
        self.told = Told(self.q)
        self.core = self.q._core

    def worker(self, *queues: str, name: str = "w1", **options: Any) -> Worker:
        """As `start_worker`, with options that have no public name; leases and graces may be as short as you like."""
        worker = Worker(self.core, WorkerOptions(queues=queues or ("q",), name=name, **options))
        self.core.workers.append(worker)
        worker.start()
        return worker

    @property
    def store(self) -> BackendAdapter:
        """Past the faults."""
        store: BackendAdapter = self.faults.store
        return store

    async def view(self, job: object) -> Any:
        view = await self.q.get(str(job))
        assert view is not None, job
        return view

    async def status(self, job: object) -> str:
        status: str = (await self.view(job)).status
        return status

    async def ended(self, *jobs: Any) -> list[str]:
        """The statuses in which the jobs ended."""
        for job in jobs:
            async with asyncio.timeout(LIMIT_S):
                while await self.status(job) not in ("completed", "dead", "cancelled"):
                    await self.store.wait((), (str(job),), 100)
        return [await self.status(job) for job in jobs]

    async def statuses(self, *queues: str) -> Counter[str]:
        """How many jobs are in which status."""
        page = await self.store.list_jobs(Filter(queues=queues), None, 500)
        found: Counter[str] = Counter(view.status for view in page.jobs)
        while page.cursor is not None:
            page = await self.store.list_jobs(Filter(queues=queues), page.cursor, 500)
            found.update(view.status for view in page.jobs)
        return found

    async def advance(self, seconds: float) -> None:
        """Move the store's clock."""
        await self.store.advance_clock(round(seconds * 1000))

    async def open_sessions(self) -> list[str]:
        """Their ids."""
        found, _ = await self.store.sessions(None, 100)
        return [info.session.id for info in found]

    async def lose_sessions(self) -> None:
        """Let every lease end now and take the jobs back, as another worker would.

        In steps: after more than a minute without a reaper each lease would get one of grace.
        """
        doomed = await self.open_sessions()
        while set(doomed) & set(await self.open_sessions()):
            await self.store.advance_clock(20_000)
            while (await self.store.reap(200)).more:
                pass

    async def settle_as_other(self, jobs: int = 10, queue: str = "q") -> list[Any]:
        """Another client takes pending jobs; it never settles them."""
        client = session = new_token()
        opened = Session(id=session, worker="other", queues=(queue,), lease_ms=60_000)
        await self.store.open_session(Op(client, 1, 1), opened)
        fetch = Fetch(queues=(queue,), count=jobs, token_seed=new_token())
        return list((await self.store.settle(Op(client, 1, 2), session, (), fetch)).deliveries)

    async def ask_to_cancel(self, job: object) -> None:
        await self.store.amend(Op(str(job), 1, 1), Filter(ids=(str(job),)), Change(kind="cancel"), None, 1)


def renewed_often(monkeypatch: Any, lease_ms: int = 60_000, *, every_ms: int = 200) -> int:
    """`lease_ms`, renewed so often: what a renewal brings comes soon, and a busy machine loses no lease."""
    from psyqueue.kernel import lease_keeper

    monkeypatch.setattr(lease_keeper, "RENEWALS_PER_LEASE", lease_ms / every_ms)
    return lease_ms


def time_is_up(worker: Worker) -> None:
    """What runs now has used up its time-out, however long it took to begin."""
    running = list(worker._slots.running)
    assert running, "nothing runs"
    for run in running:
        worker._timed_out(run)


async def effects_of(rig: Rig, jobs: Iterable[Any]) -> list[int]:
    """How often each outcome was applied, by the store's own account."""
    keys = [f"applied:{job.id}" for job in jobs]
    return [0 if item is None else int(item.value) for item in await rig.store.read_state(keys)]


def count_effects(monkeypatch: Any) -> None:
    """Every ack adds one to a counter of its job, in the same step."""
    from msgspec.structs import replace

    from psyqueue.backend import Ack, Effects, StateWrite
    from psyqueue.kernel import executor

    real = executor.decide

    def decide(delivery: Any, policy: Any, **how: Any) -> Any:
        outcome = real(delivery, policy, **how)
        if isinstance(outcome, Ack):
            write = StateWrite(kind="add", key=f"applied:{delivery.id}", number=1)
            return replace(outcome, effects=Effects(jobs=outcome.effects.jobs, writes=(write,)))
        return outcome

    monkeypatch.setattr(executor, "decide", decide)


@contextlib.asynccontextmanager
async def started(rig: Rig) -> AsyncIterator[Rig]:
    """The queue, started; at the end its workers are stopped at once."""
    await rig.q.start()
    try:
        yield rig
    finally:
        await soon(rig.q.stop(grace=0), 60)


class Blocker:
    """Holds threads and handlers until it is opened; opened at the end of the test at the latest."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.count = 0
        self._open = threading.Event()

    def block(self) -> None:
        """From a thread, or from a handler that is meant to block the loop."""
        self.count += 1
        self.began.set()
        assert self._open.wait(LIMIT_S), "nobody opened it"

    def open(self) -> None:
        self._open.set()


class Deaf:
    """What an async handler awaits that ignores every cancel; it hears again at the end of the test at the latest."""

    def __init__(self) -> None:
        self.swallowed = 0
        self._open = asyncio.Event()

    async def ignore_cancels(self) -> None:
        while not self._open.is_set():
            try:
                await self._open.wait()
            except asyncio.CancelledError:
                self.swallowed += 1

    def open(self) -> None:
        self._open.set()


def tasks_of_workers() -> list[str]:
    """Names of psyqueue's tasks, but for those that a connection lives by."""
    names = sorted(task.get_name() for task in asyncio.all_tasks())
    of_stores = ("psyqueue-redis", "psyqueue-postgres")
    return [name for name in names if name.startswith("psyqueue") and not name.startswith(of_stores)]


def lease_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("psyqueue-lease")]


@contextlib.contextmanager
def shortened(monkeypatch: Any, **constants: float) -> Iterator[None]:
    """Waits of the worker in milliseconds, by name, in every module that knows them."""
    from psyqueue.kernel import settler, single, slots, worker

    for name, value in constants.items():
        modules = [module for module in (settler, single, slots, worker) if hasattr(module, name)]
        assert modules, name
        for module in modules:
            monkeypatch.setattr(module, name, value)
    yield

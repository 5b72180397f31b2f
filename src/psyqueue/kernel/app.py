"""The queue object: every public verb in one place, and none of the logic."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Self, TypeVar, Unpack, overload

from psyqueue.backend import Limits
from psyqueue.clock import Clock, Duration, to_ms
from psyqueue.config import read_settings
from psyqueue.errors import ConfigError
from psyqueue.kernel import cancels, presets, queries, stores
from psyqueue.kernel.bus import EventBus
from psyqueue.kernel.context import Context
from psyqueue.kernel.core import Core
from psyqueue.kernel.dead_letters import DeadLetters
from psyqueue.kernel.explain import explain
from psyqueue.kernel.extension import Plugin
from psyqueue.kernel.handler import Call, Handler, HandlerDecorator
from psyqueue.kernel.handlers import HandleOptions, make_spec
from psyqueue.kernel.job_handle import JobHandle
from psyqueue.kernel.lifecycle import Lifecycle
from psyqueue.kernel.lifespan import LifespanFunction
from psyqueue.kernel.options import EnqueueOptions, read_id, read_name
from psyqueue.kernel.pipeline import USER, MiddlewareFunction, Phase, Stage, middleware
from psyqueue.kernel.portal import Portal
from psyqueue.kernel.views import Durability, Explanation, JobView, Page, durability_of

if TYPE_CHECKING:
    import click

    from psyqueue.kernel.sync import SyncQueue
    from psyqueue.kernel.worker import Worker
    from psyqueue.testing.kit import Kit

P = ParamSpec("P")
R = TypeVar("R")
LifespanT = TypeVar("LifespanT", bound=LifespanFunction)


class PsyQueue:
    """A job queue on one store.

    Build it (`use`, `handle`, `pipeline`, `events.on`), then `async with q:`; enqueue, and run workers here or in other
    processes. One object belongs to one event loop of one process. Its dead letters are in `dead_letter`.
    """

    def __init__(
        self, *, name: str = "psyqueue", lifespan: LifespanFunction | None = None, clock: Clock | None = None
    ) -> None:
        self._core = Core(read_name("name", name), clock=clock)
        self._lifecycle = Lifecycle(self._core)
        self._core.portal = Portal(self._core, self._lifecycle)
        self.dead_letter: DeadLetters = DeadLetters(self._core)
        if lifespan is not None:
            self.lifespan(lifespan)

    @classmethod
    def from_url(cls, url: str, *, name: str = "psyqueue", **options: Any) -> Self:
        """A queue on the store at `url`, such as "sqlite:./jobs.db"; `options` are those of its backend.

        Raises ConfigError for an unknown address or option.
        """
        queue = cls(name=name)
        queue.use(stores.plugin_for(url, options))
        return queue

    @classmethod
    def from_config(cls, url: str | None = None, *, name: str = "psyqueue", **options: Any) -> Self:
        """A queue on the store that is set outside: PSYQUEUE_URL, else `[tool.psyqueue]` in pyproject.toml, else `url`.

        `options` are those of its backend. Raises ConfigError where nothing names a store, and as `from_url`.
        """
        asked = read_settings().get("url", url)
        if not asked:
            raise ConfigError("no store named: set PSYQUEUE_URL, or url in [tool.psyqueue], or give from_config(url)")
        return cls.from_url(asked, name=name, **options)

    @classmethod
    def from_preset(cls, preset: str, url: str | None = None, *, name: str = "psyqueue", **plugins: Any) -> Self:
        """A queue with plugins that go together: "lite", "saas" or "enterprise". docs/presets.md describes them.

        The store is that of `from_config(url)`, by default the preset's own. `plugins` by name: a mapping of options,
        one that is made already, or False to leave it out. Raises ConfigError, InvalidOption, MissingExtra, and what a
        plugin raises of its options.
        """
        found = presets.preset_of(preset)
        queue = cls.from_config(url or found.url, name=name)
        for plugin in found.made(plugins):
            queue.use(plugin)
        return queue

    # ── build ─────────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def name(self) -> str:
        """For logs and errors."""
        return self._core.name

    @property
    def events(self) -> EventBus:
        """Where to listen: `q.events.on("job:*", fn)`."""
        return self._core.bus

    def use(self, plugin: Plugin) -> Self:
        """Add a plugin. Raises PluginError for one that does not fit, and then nothing of it stays; LifecycleError."""
        self._core.require_new("use()")
        self._core.registry.use(plugin)
        return self

    @overload
    def handle(self, name: str, /, **options: Unpack[HandleOptions]) -> HandlerDecorator: ...
    @overload
    def handle(
        self, name: str, fn: Callable[Concatenate[Context, P], Awaitable[R]], /, **options: Unpack[HandleOptions]
    ) -> Handler[P, R]: ...
    @overload
    def handle(
        self, name: str, fn: Callable[P, Awaitable[R]], /, **options: Unpack[HandleOptions]
    ) -> Handler[P, R]: ...
    @overload
    def handle(
        self, name: str, fn: Callable[Concatenate[Context, P], R], /, **options: Unpack[HandleOptions]
    ) -> Handler[P, R]: ...
    @overload
    def handle(self, name: str, fn: Callable[P, R], /, **options: Unpack[HandleOptions]) -> Handler[P, R]: ...
    def handle(self, name: str, fn: Callable[..., Any] | None = None, /, **options: Unpack[HandleOptions]) -> Any:
        """Register a handler: as a decorator, or with the function. docs/handlers.md describes the options.

        Raises ConfigError for a name that is taken or a function that cannot be a handler, InvalidOption.
        """
        if callable(name):
            raise ConfigError("handle takes the job's name first: write @q.handle('name'), with parentheses")
        name = read_name("name", name)

        def register(function: Callable[..., Any]) -> Handler[..., Any]:
            spec = make_spec(name, function, options)
            self._core.add_handler(spec)
            return Handler(self._core, spec, {}, {})

        return register if fn is None else register(fn)

    def pipeline(self, event: Stage, fn: MiddlewareFunction, *, phase: Phase = "execute") -> None:
        """Wrap every enqueue, or every run, with `async fn(ctx, call_next)`.

        Raises PluginError for a function that is not of this shape, ConfigError, LifecycleError.
        """
        self._core.require_new("pipeline()")
        self._core.registry.add_middleware(middleware(event, fn, phase, USER))

    def lifespan(self, fn: LifespanT, /) -> LifespanT:
        """Keep something open for all runs of this process: `@q.lifespan` on an `async def` that yields once.

        It is entered before the first run (of a worker or `process_next`), and left by `stop` after the last one; a
        process that only enqueues never enters it. What it yields is `ctx.app`. Raises ConfigError, LifecycleError.
        """
        self._core.require_new("lifespan()")
        self._core.lifespan.set(fn)
        return fn

    def get_exposed(self, namespace: str) -> Any:
        """What a plugin exposed. Raises ConfigError naming what there is."""
        return self._core.registry.get_exposed(namespace)

    @property
    def commands(self) -> tuple[click.Command, ...]:
        """What plugins add to the command line."""
        return self._core.registry.commands

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────
    async def start(self) -> None:
        """Connect the store, start plugins and their services. Raises what failed; then nothing is left running.

        That is DependencyError, CircularDependencyError, SchemaTooNew, any StoreError, LifecycleError if it was started
        before, or what a plugin raised.
        """
        await self._lifecycle.start()

    async def stop(self, *, grace: Duration | None = None) -> None:
        """Drain the workers, their running handlers within `grace` (30 s), then stop everything. Idempotent.

        Cancelled, the caller stops waiting, and the queue goes on stopping by itself. Raises InvalidOption; what failed
        to stop (an ExceptionGroup where it is more than one), when all is closed.
        """
        await self._lifecycle.stop(None if grace is None else to_ms("grace", grace))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def is_running(self) -> bool:
        """From the end of `start` to the beginning of `stop`."""
        return self._core.state == "running"

    @property
    def sync(self) -> SyncQueue:
        """The same verbs for programs without asyncio, as calls that block: `q.sync.enqueue(...)`.

        The first call starts the queue on a background thread, unless it runs already; `with q.sync:` stops it, too.
        """
        from psyqueue.kernel.sync import SyncQueue  # noqa: PLC0415 - it is made of this class

        return SyncQueue(self._core.portal, self)

    # ── enqueue ───────────────────────────────────────────────────────────────────────────────────────────────────
    @overload
    async def enqueue(self, call: Call[R], /, **options: Unpack[EnqueueOptions]) -> JobHandle[R]: ...
    @overload
    async def enqueue(self, name: str, payload: Any = None, /, **options: Unpack[EnqueueOptions]) -> JobHandle[Any]: ...
    async def enqueue(
        self, name_or_call: Any, payload: Any = None, /, **options: Unpack[EnqueueOptions]
    ) -> JobHandle[Any]:
        """Enqueue one job, by name or as `handler.build(...)`. It is in the store when this returns.

        Raises InvalidOption, PayloadError, TooLarge, IdConflict, KeyConflict, UnknownDependency, QueueFull, Rejected:
        nothing was written. StoreUnavailable: unknown; a repeat with the same id or idempotency key is safe.
        """
        return await self._core.enqueuer.enqueue(name_or_call, payload, options)

    async def enqueue_bulk(self, items: Iterable[Any], /, **options: Unpack[EnqueueOptions]) -> list[JobHandle[Any]]:
        """Enqueue many: `handler.build(...)` calls, or mappings with name, payload, options (over those given here).

        Up to 500 items and 8 MiB are one atomic step; more go in ordered chunks. Raises as `enqueue`; the error's
        `enqueued` holds the handles of the chunks before.
        """
        return await self._core.enqueuer.enqueue_bulk(items, options)

    def handle_of(self, job_id: str) -> JobHandle[Any]:
        """A handle of a job that was enqueued elsewhere; its name and queue are empty: `refresh()` knows them.

        The store is not asked. Raises InvalidOption for what cannot be an id.
        """
        return JobHandle(read_name("id", read_id(job_id)), "", "", created=False, _core=self._core)

    # ── run ───────────────────────────────────────────────────────────────────────────────────────────────────────
    async def process_next(self, queue: str) -> bool:
        """Run one job of `queue` to its end. Promotes what is due, never waits. False: nothing was pending.

        A handler that fails is an outcome, not an error. Raises InvalidOption, StoreError.
        """
        from psyqueue.kernel.single import process_next  # noqa: PLC0415 - who only enqueues never loads the worker

        self._core.require_running()
        return await process_next(self._core, read_name("queue", queue))

    def start_worker(
        self,
        *queues: str,
        concurrency: int = 10,
        prefetch: int | str = "auto",
        lease: Duration = "30s",
        name: str | None = None,
    ) -> Worker:
        """Run jobs of `queues` here until `stop`, by default those of all handlers. A plain call, it begins at once.

        Raises InvalidOption, ConfigError if there is no queue to run, LifecycleError.
        """
        from psyqueue.kernel import running  # noqa: PLC0415 - as above

        return running.start_worker(
            self._core, queues, concurrency=concurrency, prefetch=prefetch, lease=lease, name=name
        )

    async def stop_workers(self) -> None:
        """Drain and stop all workers of this queue object, as `Worker.stop` does; the queue stays open.

        Raises an ExceptionGroup of what failed.
        """
        self._core.require_running()
        await self._lifecycle.stop_workers(None)

    def testing(
        self,
        *,
        clock: Literal["virtual", "real"] = "virtual",
        mode: Literal["manual", "inline"] = "manual",
        now: datetime | None = None,
        raise_errors: bool = True,
        patience: Duration = "10s",
    ) -> Kit:
        """`async with q.testing() as t:` runs this queue on a memory store of the test's own, again and again.

        In tests without asyncio: `with q.sync.testing() as t:`. docs/testing.md describes the options. Raises
        InvalidOption.
        """
        from psyqueue.testing.kit import Kit  # noqa: PLC0415 - only tests load it

        return Kit(self._core, clock=clock, mode=mode, now=now, raise_errors=raise_errors, patience=patience)

    # ── look and operate ──────────────────────────────────────────────────────────────────────────────────────────
    async def get(self, job_id: str) -> JobView | None:
        """The job as it is now; None if there is none. Raises InvalidOption, StoreError."""
        return await queries.get_view(self._core, read_id(job_id))

    async def jobs(self, **filters: Unpack[queries.JobFilters]) -> Page[JobView]:
        """Jobs by queue, status, name, tenant, text, created_after, created_before; `limit` and `cursor` page.

        docs/operating.md describes the filters. Raises InvalidOption, StoreError.
        """
        return await queries.find_jobs(self._core, filters)

    async def cancel(self, job_id: str) -> bool:
        """As JobHandle.cancel. Raises InvalidOption."""
        return await cancels.cancel_job(self._core, read_id(job_id))

    async def cancel_all(self, **choice: Unpack[queries.JobChoice]) -> int:
        """Cancel the jobs that fit all given filters, those of `jobs()`, and were there when it began. How many.

        What waits ends, what runs is asked to end. Raises InvalidOption, also for no filter or an empty one, since that
        would mean every job; StoreError, and then those before it are cancelled.
        """
        return await cancels.cancel_all(self._core, choice)

    async def explain(self, job_id: str) -> Explanation:
        """Why the job is not running, or how it ended. Raises JobNotFound, InvalidOption."""
        return await explain(self._core, read_id(job_id))

    async def durability(self) -> Durability:
        """What accepted jobs survive on this store, as it is set up now. Raises StoreError."""
        self._core.require_running()
        return durability_of(await self._core.backend.info())

    async def pause(self, queue: str, *, until: datetime | None = None) -> None:
        """Start nothing more of `queue`, until then or until `resume`. What runs goes on.

        Raises InvalidOption, as for an `until` without a time zone; StoreError.
        """
        await queries.pause(self._core, queue, until)

    async def resume(self, queue: str) -> None:
        """Undo `pause`. Raises InvalidOption, StoreError."""
        await queries.resume(self._core, queue)

    async def limits(self, queue: str, lane: str | None = None, **limits: Unpack[queries.QueueLimits]) -> Limits:
        """Change limits of a queue or of a lane in it; what is not named stays. Returns them, also if nothing is.

        docs/operating.md describes them. Raises InvalidOption, StoreError.
        """
        return await queries.change_limits(self._core, queue, lane, limits)


def require_queue(q: object) -> PsyQueue:
    """For surfaces that load `module:queue`. Raises ConfigError for anything else."""
    if not isinstance(q, PsyQueue):
        raise ConfigError(f"{q!r} is {type(q).__name__}, not a PsyQueue")
    return q

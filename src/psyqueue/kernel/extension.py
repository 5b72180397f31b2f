"""The plugin's door: what a plugin is, and what it may do to the kernel. Plugins import nothing else of the kernel.

class Hello:
    name = "hello"
    def init(self, kernel: Kernel) -> None:
        kernel.pipeline("process", self.say, phase="observe")
    async def say(self, ctx, call_next):
        print("before", ctx.job.id); await call_next(); print("after")

q.use(Hello())
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, cast

from psyqueue.backend import BackendAdapter, Enqueued, NewJob, Op
from psyqueue.errors import ConfigError, PluginError
from psyqueue.kernel.aio import within_ms
from psyqueue.kernel.bus import EventBus
from psyqueue.kernel.context import running_job
from psyqueue.kernel.facade import Entrance, Facade, blocking
from psyqueue.kernel.pipeline import MiddlewareFunction, Phase, Stage, is_async, label, middleware, takes
from psyqueue.kernel.plans import Plan
from psyqueue.kernel.presets import Preset
from psyqueue.kernel.queries import checked_limit, read_cursor, read_limit
from psyqueue.kernel.views import JobView, Page, view_of
from psyqueue.outcome import Misfit, Retry, Verdict, is_fatal

if TYPE_CHECKING:
    import click

    from psyqueue.kernel.handlers import HandleOptions
    from psyqueue.kernel.job_handle import JobHandle
    from psyqueue.kernel.registry import Registry

__all__ = [
    "Entrance",
    "Facade",
    "JobView",
    "Kernel",
    "Page",
    "Plan",
    "Plugin",
    "Preset",
    "Service",
    "WebPage",
    "WrapBackend",
    "blocking",
    "checked_limit",
    "read_cursor",
    "read_limit",
]

T = TypeVar("T")

Service: TypeAlias = Callable[[], Awaitable[None]]
WrapBackend: TypeAlias = Callable[[BackendAdapter], BackendAdapter]
WebPage: TypeAlias = Callable[[], Awaitable[tuple[str, bytes]]]
"""What is shown over HTTP: its content type, and the body."""

BACKEND = "backend"
"""The namespace and the capability of the storage plugin."""
HEALTH_PAGES = ("/healthz", "/readyz")
"""Those of the worker itself."""


class Plugin(Protocol):
    """Anything with a `name`. The rest is optional, and checked by `use()`:

    - `version: str`
    - `provides: str | Iterable[str]`: capabilities; one provider each
    - `depends: str | Iterable[str]`: names or capabilities that must start before this one
    - `init(kernel: Kernel)`: plain function, called by `use()`; what it registers is undone when it raises
    - `start()`, `stop()`, `destroy()`: plain or async; dependencies first, and the other way round at the end
    """

    @property
    def name(self) -> str:
        """Unique in one queue; named in every error."""
        ...


class Kernel:
    """What `init` is given. It may be kept; registering is over when the queue starts."""

    def __init__(self, registry: Registry, plugin_name: str) -> None:
        self._registry = registry
        self._plugin_name = plugin_name

    @property
    def events(self) -> EventBus:
        """To subscribe with `on`, and to publish events of the plugin's own."""
        return self._registry.bus

    @property
    def store(self) -> BackendAdapter:
        """The connected backend with every wrapper around it.

        Raises NotStarted before the plugins start, ForkedProcess, LifecycleError in another thread or event loop.
        """
        store = self._registry.store
        self._require_own()
        return store

    @property
    def is_alone(self) -> bool:
        """In the test of an application the store is the test's own: nobody else changes what is in it."""
        return self._registry.core.rehearsal is not None

    @property
    def portal(self) -> Entrance:
        """The way from threads without a loop into that of the queue, as `q.sync` goes it: for a Facade."""
        return self._registry.core.portal

    async def operate(self, call: Callable[[Op], Awaitable[T]]) -> T:
        """`await call(op)`, one at a time, with the same op again until its outcome is known.

        Raises as `store`, what the store refused, and StoreUnavailable or StoreBusy after 10 s.
        """
        self._require_own()
        return await self._registry.core.operate(call)

    def now_ms(self) -> int:
        """The wall clock of this process; in a test it is that of the test. Raises nothing.

        Nothing that has to be true may go by it.
        """
        return self._registry.core.clock.now_ms()

    def chance(self) -> float:
        """A number in [0, 1), to spread what would happen at once; in a test it is that of the test. Raises nothing."""
        return self._registry.core.chance()

    def handler_of(self, name: str) -> str:
        """The name of the handler that jobs of `name` run with here: theirs may be an alias. Raises nothing."""
        spec = self._registry.core.handlers.find(name)
        return name if spec is None else spec.name

    def is_failure(self, error: BaseException) -> bool:
        """Whether `error`, which leaves what a run does, tells of trouble that another run may not meet.

        That is what a handler is run again for, `Retry` too, and the cancel of a timeout. It is no other verdict, no
        other cancel, no end of the process that it ran in, and nothing that the handler of this run calls final by its
        type. Raises nothing.
        """
        from psyqueue.kernel.children import ChildDied  # noqa: PLC0415 - handlers are made of this

        if isinstance(error, asyncio.CancelledError):
            return error.args == ("timeout",)
        if isinstance(error, Verdict | Misfit | ChildDied):
            return isinstance(error, Retry)
        job = running_job.get()
        spec = None if job is None else self._registry.core.handlers.find(job[2])
        return isinstance(error, Exception) if spec is None else not is_fatal(error, spec.policy)

    async def wait(self, event: asyncio.Event, timeout_ms: float) -> bool:
        """Until `event` is set, `timeout_ms` at most, in the time of this process or of its test.

        False: it was not. Raises nothing.
        """
        return await within_ms(timeout_ms, event.wait())

    def plan(self, name_or_call: Any, payload: Any, options: Mapping[str, Any]) -> Plan:
        """What `enqueue` would make of these arguments, checked as there and kept for later.

        Raises InvalidOption, also for options that hold for one job only, such as `id` and `run_at`; PayloadError,
        TooLarge.
        """
        from psyqueue.kernel.planning import planned  # noqa: PLC0415 - it knows handlers, which are made of this

        return planned(self._registry.core.handlers.find, name_or_call, payload, options)

    async def job_of(
        self,
        plan: Plan,
        *,
        id: str,  # noqa: A002 - as the option of enqueue
        schedule_id: str,
        nominal_at_ms: int | None = None,
    ) -> NewJob:
        """The job that a schedule makes of `plan` for an instant, as the enqueue middleware leaves it.

        Nothing is written. Raises what the middleware raises.
        """
        return await self._registry.core.enqueuer.job_of(plan, id, schedule_id, nominal_at_ms)

    def handle(self, name: str, fn: Callable[..., Any], **options: Any) -> None:
        """As PsyQueue.handle: a handler of the plugin's own, which every worker of this queue serves."""
        from psyqueue.kernel.handlers import make_spec  # noqa: PLC0415 - handlers are made of this

        self._registry.core.add_handler(make_spec(name, fn, cast("HandleOptions", options)))

    async def enqueue(self, items: Sequence[Any], **options: Any) -> list[JobHandle[Any]]:
        """As PsyQueue.enqueue_bulk."""
        return await self._registry.core.enqueuer.enqueue_bulk(items, options)

    async def write(self, jobs: Sequence[NewJob]) -> Sequence[Enqueued]:
        """Write these jobs as they are, in one step, and tell of the new ones. Raises as `operate`."""
        written = await self.operate(lambda op: self.store.enqueue(op, jobs))
        self._registry.core.enqueuer.tell(jobs, written)
        return written

    async def jobs(self, ids: Sequence[str]) -> list[JobView | None]:
        """The jobs as they are now, up to 500, all as of one moment. Raises NotStarted, StoreError."""
        found = await self.store.get(ids) if ids else ()
        return [None if each is None else view_of(each) for each in found]

    async def cancel(self, ids: Sequence[str]) -> None:
        """Cancel these jobs, up to 500, as PsyQueue.cancel does each; what has ended stays as it is.

        Raises NotStarted, StoreError.
        """
        from psyqueue.kernel.cancels import cancel_these  # noqa: PLC0415 - as above

        if ids:
            await cancel_these(self._registry.core, ids)

    def handle_of(self, job_id: str) -> JobHandle[Any]:
        """As PsyQueue.handle_of."""
        from psyqueue.kernel.job_handle import JobHandle  # noqa: PLC0415 - as above

        return JobHandle(job_id, "", "", created=False, _core=self._registry.core)

    def _require_own(self) -> None:
        self._registry.core.require_own_process()
        self._registry.core.require_own_loop()

    def pipeline(self, event: Stage, fn: MiddlewareFunction, *, phase: Phase = "execute") -> None:
        """As PsyQueue.pipeline, in the plugin's name."""
        self._registry.add_middleware(middleware(event, fn, phase, self._plugin_name))

    def expose(self, namespace: str, api: Any) -> None:
        """Offer `api` to other plugins and to the application as `get_exposed(namespace)`. Raises PluginError."""
        if not isinstance(namespace, str) or not namespace:
            raise PluginError(self._plugin_name, f"exposes under {namespace!r}, which is no name")
        self._registry.expose(namespace, api, self._plugin_name)

    def get_exposed(self, namespace: str) -> Any:
        """What another plugin exposed. Raises ConfigError if nothing is there (yet: plugins init in order of use)."""
        return self._registry.get_exposed(namespace)

    def service(self, fn: Service) -> None:
        """Run the coroutine function `fn` from start to stop; when it raises it is logged and started again, later.

        Raises PluginError for anything else than an async function without parameters.
        """
        if not callable(fn) or not takes(fn, 0) or not is_async(fn):
            raise PluginError(self._plugin_name, f"service {label(fn)} must be an async function without arguments")
        self._registry.add_service(fn, self._plugin_name)

    def command(self, command: click.Command) -> None:
        """Add a click command to `psyqueue`. Raises PluginError where its name is taken."""
        if not getattr(command, "name", None) or not callable(command):
            raise PluginError(self._plugin_name, f"command {command!r} is no click command with a name")
        self._registry.add_command(command, self._plugin_name)

    def page(self, path: str, fn: WebPage) -> None:
        """Show what `await fn()` returns, (content type, body), under `path` of the worker's health port.

        Raises PluginError for a path without its slash or that is taken, and for anything else than an async function
        without parameters.
        """
        if not isinstance(path, str) or not _PATH.fullmatch(path):
            raise PluginError(self._plugin_name, f"shows {path!r}, which is no path such as '/metrics'")
        if not callable(fn) or not takes(fn, 0) or not is_async(fn):
            raise PluginError(self._plugin_name, f"page {label(fn)} must be an async function without arguments")
        self._registry.add_page(path, fn, self._plugin_name)

    def backend(self, adapter: BackendAdapter) -> None:
        """Make `adapter` the store of this queue. Raises PluginError for a second one, or one that lacks verbs."""
        missing = [name for name in _VERBS if not hasattr(adapter, name)]
        if missing:
            raise PluginError(self._plugin_name, f"its backend lacks {', '.join(missing)}")
        self._registry.set_backend(adapter, self._plugin_name)

    def wrap_backend(self, fn: WrapBackend) -> None:
        """Put `fn(adapter)` around the store at start (tracing, metrics, chaos); the last registered is outermost.

        Raises PluginError for anything else than a plain function of one parameter.
        """
        if not callable(fn) or not takes(fn, 1) or is_async(fn):
            raise PluginError(self._plugin_name, f"backend wrapper {label(fn)} must be a plain function of the adapter")
        self._registry.add_wrapper(fn, self._plugin_name)


def require_namespace(exposed: dict[str, Any], namespace: str) -> Any:
    """Look up an exposed API. Raises ConfigError naming what there is."""
    if namespace not in exposed:
        there = ", ".join(sorted(exposed)) or "nothing"
        raise ConfigError(f"nothing is exposed as {namespace!r}; there is: {there}. use() the plugin that exposes it")
    return exposed[namespace]


_PATH = re.compile(r"(/[\w.~-]+)+", re.ASCII)
_VERBS = sorted(name for name in vars(BackendAdapter) if not name.startswith("_"))

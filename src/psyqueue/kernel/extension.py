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

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from psyqueue.backend import BackendAdapter
from psyqueue.errors import ConfigError, PluginError
from psyqueue.kernel.bus import EventBus
from psyqueue.kernel.pipeline import MiddlewareFunction, Phase, Stage, is_async, label, middleware, takes

if TYPE_CHECKING:
    import click

    from psyqueue.kernel.registry import Registry

__all__ = ["Kernel", "Plugin", "Service", "WrapBackend"]

Service: TypeAlias = Callable[[], Awaitable[None]]
WrapBackend: TypeAlias = Callable[[BackendAdapter], BackendAdapter]

BACKEND = "backend"
"""The namespace and the capability of the storage plugin."""


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
        """The connected backend with every wrapper around it. Raises NotStarted before the plugins start."""
        return self._registry.store

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


_VERBS = sorted(name for name in vars(BackendAdapter) if not name.startswith("_"))

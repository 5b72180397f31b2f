"""The plugins of one queue: what they registered, in which order they start, and that they all get to stop."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from psyqueue.backend import BackendAdapter
from psyqueue.errors import CircularDependencyError, DependencyError, LifecycleError, NotStarted, PluginError
from psyqueue.job import name_problem
from psyqueue.kernel.bus import EventBus
from psyqueue.kernel.extension import (
    BACKEND,
    HEALTH_PAGES,
    Kernel,
    Plugin,
    Service,
    WebPage,
    WrapBackend,
    require_namespace,
)
from psyqueue.kernel.pipeline import Middleware, is_async, takes

if TYPE_CHECKING:
    import click

    from psyqueue.kernel.core import Core

log: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A plugin after its check."""

    name: str
    plugin: Plugin
    provides: tuple[str, ...]
    depends: tuple[str, ...]


@dataclass(slots=True)
class _Registered:
    """Everything that plugins put in; copied before each `init`, so that a failed one leaves nothing behind."""

    installed: dict[str, Installed] = field(default_factory=dict)
    middleware: list[Middleware] = field(default_factory=list)
    exposed: dict[str, Any] = field(default_factory=dict)
    services: list[tuple[str, Service]] = field(default_factory=list)
    commands: dict[str, click.Command] = field(default_factory=dict)
    pages: dict[str, WebPage] = field(default_factory=dict)
    wrappers: list[tuple[str, WrapBackend]] = field(default_factory=list)
    backend: BackendAdapter | None = None
    backend_owner: str = ""

    def copy(self) -> _Registered:
        return _Registered(
            dict(self.installed),
            list(self.middleware),
            dict(self.exposed),
            list(self.services),
            dict(self.commands),
            dict(self.pages),
            list(self.wrappers),
            self.backend,
            self.backend_owner,
        )


class Registry:
    """`use` while the queue is being built, then `order`, `start_all`, `stop_all`."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.bus: EventBus = core.bus
        self._now = _Registered()
        self._store: BackendAdapter | None = None
        self._started: list[Installed] = []
        self.sealed = False

    # ── what plugins register (through their Kernel) ──────────────────────────────────────────────────────────────
    def use(self, plugin: Plugin) -> None:
        """Check the plugin and let it register itself. Raises PluginError, and then nothing of it stays."""
        self._require_open("use()")
        installed = _checked(plugin)
        self._refuse_twins(installed)
        forget = self.checkpoint()
        self._now.installed[installed.name] = installed
        try:
            init = getattr(plugin, "init", None)
            if init is not None:
                init(Kernel(self, installed.name))
        except BaseException:
            forget()
            raise

    def add_middleware(self, item: Middleware) -> None:
        """Order of calls is order in a phase."""
        self._require_open("pipeline()")
        self._now.middleware.append(item)

    def put_first(self, items: Sequence[Middleware]) -> None:
        """Before all others of their phase."""
        self._now.middleware[:0] = items

    def expose(self, namespace: str, api: Any, owner: str) -> None:
        """One owner per namespace."""
        if namespace in self._now.exposed or namespace == BACKEND:
            raise PluginError(owner, f"exposes under {namespace!r}, which is taken")
        self._now.exposed[namespace] = api

    def get_exposed(self, namespace: str) -> Any:
        """Raises ConfigError if nothing is there."""
        return require_namespace(self._now.exposed, namespace)

    def add_service(self, fn: Service, owner: str) -> None:
        """Started after the plugins, stopped before them."""
        self._require_open("service()")
        self._now.services.append((owner, fn))

    def add_command(self, command: click.Command, owner: str) -> None:
        """One command per name."""
        name = str(command.name)
        if name in self._now.commands:
            raise PluginError(owner, f"adds the command {name!r}, which is taken")
        self._now.commands[name] = command

    def add_page(self, path: str, fn: WebPage, owner: str) -> None:
        """One page per path."""
        self._require_open("page()")
        if path in self._now.pages or path in HEALTH_PAGES:
            raise PluginError(owner, f"shows a page at {path!r}, which is taken")
        self._now.pages[path] = fn

    def set_backend(self, adapter: BackendAdapter, owner: str) -> None:
        """One per queue."""
        self._require_open("backend()")
        if self._now.backend is not None:
            taken = self._now.backend_owner
            raise PluginError(owner, f"brings a backend, but {taken!r} brought one. Use one PsyQueue per store")
        self._now.backend, self._now.backend_owner = adapter, owner
        self._now.exposed[BACKEND] = adapter

    def stand_in(self, adapter: BackendAdapter) -> None:
        """`adapter` in place of the backend that was brought; the plugin that brought it is not started."""
        now = self._now
        brought = now.installed.get(now.backend_owner)
        if brought is None:
            brought = Installed(name=BACKEND, plugin=_NO_HOOKS, provides=(BACKEND,), depends=())
        now.installed[brought.name] = replace(brought, plugin=_NO_HOOKS)
        now.backend = now.exposed[BACKEND] = adapter

    def add_wrapper(self, fn: WrapBackend, owner: str) -> None:
        """The first registered is next to the store."""
        self._require_open("wrap_backend()")
        self._now.wrappers.append((owner, fn))

    def checkpoint(self) -> Callable[[], None]:
        """A function that takes back everything registered and subscribed after this call."""
        before, unsubscribe = self._now.copy(), self.bus.checkpoint()

        def forget() -> None:
            self._now = before
            unsubscribe()

        return forget

    # ── what the queue reads ──────────────────────────────────────────────────────────────────────────────────────
    @property
    def middleware(self) -> tuple[Middleware, ...]:
        """In order of registration."""
        return tuple(self._now.middleware)

    @property
    def services(self) -> tuple[tuple[str, Service], ...]:
        """(owner, coroutine function)."""
        return tuple(self._now.services)

    @property
    def commands(self) -> tuple[click.Command, ...]:
        """For the command line."""
        return tuple(self._now.commands.values())

    @property
    def pages(self) -> Mapping[str, WebPage]:
        """By path, for the health port of a worker."""
        return self._now.pages

    @property
    def store(self) -> BackendAdapter:
        """The wrapped backend, from `open_store` to the end."""
        if self._store is None:
            raise NotStarted("the store is there once the queue has started: await q.start()")
        return self._store

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def open_store(self, queue_name: str) -> BackendAdapter:
        """Put the wrappers around the backend. Raises DependencyError without one."""
        if self._now.backend is None:
            raise DependencyError(queue_name, BACKEND)
        store = self._now.backend
        for owner, wrap in self._now.wrappers:
            store = wrap(store)
            if not hasattr(store, "settle"):
                raise PluginError(owner, f"its backend wrapper returned {store!r}, which is no backend")
        self._store = store
        self._now.exposed[BACKEND] = store
        return store

    async def close_store(self) -> None:
        """Disconnect, if it was opened."""
        store, self._store = self._store, None
        if store is not None:
            self._now.exposed[BACKEND] = self._now.backend
            await store.disconnect()

    def order(self) -> list[Installed]:
        """Dependencies first, else in order of use. Raises DependencyError, CircularDependencyError (the very ring)."""
        installed = self._now.installed
        providers = {name: name for name in installed}
        for item in installed.values():
            for capability in item.provides:
                providers.setdefault(capability, item.name)
        needs: dict[str, list[str]] = {}
        for item in installed.values():
            for wanted in item.depends:
                if wanted not in providers:
                    raise DependencyError(item.name, wanted)
            needs[item.name] = [providers[wanted] for wanted in item.depends]
        ordered: list[Installed] = []
        done: set[str] = set()
        while len(done) < len(installed):
            ready = next((name for name in installed if name not in done and done.issuperset(needs[name])), None)
            if ready is None:
                raise CircularDependencyError(_ring({name: needs[name] for name in needs if name not in done}))
            done.add(ready)
            ordered.append(installed[ready])
        return ordered

    async def start_all(self, ordered: list[Installed]) -> None:
        """Raises what a plugin raised; those started before it are then for `stop_all`, this one too (half started)."""
        for item in ordered:
            self._started.append(item)
            await _call(item, "start")

    async def stop_all(self) -> list[Exception]:
        """Every `stop`, then every `destroy`, last started first. What fails is logged and returned after all."""
        stopping, self._started = self._started[::-1], []
        failures: list[Exception] = []
        for hook in ("stop", "destroy"):
            for item in stopping:
                try:
                    await _call(item, hook)
                except Exception as exc:
                    log.exception("plugin failed to stop", extra={"plugin": item.name, "hook": hook})
                    failures.append(exc)
        return failures

    def _require_open(self, what: str) -> None:
        if self.sealed:
            raise LifecycleError(f"{what} after start() changes nothing any more; call it before")

    def _refuse_twins(self, new: Installed) -> None:
        if new.name in self._now.installed:
            raise PluginError(new.name, "is used twice; names are unique in one queue")
        for item in self._now.installed.values():
            for capability in new.provides:
                if capability in item.provides:
                    raise PluginError(new.name, f"provides {capability!r}, which {item.name!r} provides already")


class _Bare:
    """A plugin that only has its name."""

    name = BACKEND


_NO_HOOKS = _Bare()


async def _call(item: Installed, hook: str) -> None:
    fn: Callable[[], Any] | None = getattr(item.plugin, hook, None)
    if fn is not None:
        returned = fn()
        if inspect.isawaitable(returned):
            await returned


def _checked(plugin: Any) -> Installed:
    """Raises PluginError for whatever `use()` can see to be wrong."""
    if _is_uncalled(plugin):
        kind = str(getattr(plugin, "__name__", repr(plugin)))
        raise PluginError(kind, f"is a {type(plugin).__name__}, not a plugin; call it: use({kind}(...))")
    if isinstance(plugin, str):
        raise PluginError("str", "text is no plugin; for the address of a store there is PsyQueue.from_url(...)")
    name = getattr(plugin, "name", None)
    if name is None:
        raise PluginError(type(plugin).__name__, "has no `name`")
    problem = name_problem(name)
    if problem:
        raise PluginError(str(name), f"its name {problem}")
    version = getattr(plugin, "version", "")
    if not isinstance(version, str):
        raise PluginError(name, f"its version {version!r} is not text")
    for hook, arguments in (("init", 1), ("start", 0), ("stop", 0), ("destroy", 0)):
        _check_hook(name, plugin, hook, arguments)
    return Installed(
        name=name,
        plugin=plugin,
        provides=_names(name, plugin, "provides"),
        depends=_names(name, plugin, "depends"),
    )


def _is_uncalled(plugin: object) -> bool:
    """A class or factory was given instead of what it makes."""
    return inspect.isclass(plugin) or (inspect.isroutine(plugin) and not hasattr(plugin, "name"))


def _check_hook(name: str, plugin: Any, hook: str, arguments: int) -> None:
    fn = getattr(plugin, hook, None)
    if fn is None:
        return
    wanted = f"{hook}({'kernel' if arguments else ''})"
    if not callable(fn) or not takes(fn, arguments):
        raise PluginError(name, f"its {hook} must be callable as {wanted}")
    if hook == "init" and is_async(fn):
        raise PluginError(name, "its init must be a plain function: it only registers. Connect and wait in start()")


def _names(name: str, plugin: Any, attribute: str) -> tuple[str, ...]:
    given = getattr(plugin, attribute, ())
    if given is None:
        return ()
    listed = (given,) if isinstance(given, str) else given
    if not isinstance(listed, Iterable):
        raise PluginError(name, f"its {attribute} {given!r} is neither a name nor a list of names")
    names = tuple(listed)
    for entry in names:
        problem = name_problem(entry)
        if problem:
            raise PluginError(name, f"its {attribute} holds {entry!r}, which {problem}")
    return names


def _ring(needs: dict[str, list[str]]) -> list[str]:
    """One ring among plugins that all need another one of them: walk until a name comes back."""
    path = [next(iter(needs))]
    while True:
        following = next(name for name in needs[path[-1]] if name in needs)
        if following in path:
            return path[path.index(following) :]
        path.append(following)

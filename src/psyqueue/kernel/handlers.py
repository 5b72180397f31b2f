"""Handlers by name: what was registered, checked once, ready to bind payloads and to run."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, TypeAlias, TypedDict, get_args

import msgspec

from psyqueue.backend.bounds import KEY_LENGTH_MAX
from psyqueue.backoff import BackoffFunction, Strategy
from psyqueue.clock import Duration, to_ms
from psyqueue.errors import ConfigError, InvalidOption, PayloadError
from psyqueue.job import NAME_LENGTH_MAX
from psyqueue.kernel.options import (
    SCHEDULES,
    Template,
    canonical,
    is_option,
    read_bool,
    read_int,
    read_name,
    read_retries,
    read_strategy,
    read_timeout,
    way_out_of,
)
from psyqueue.kernel.parameters import Invoke, Parameters, converter_of, place_of, result_type
from psyqueue.kernel.pipeline import is_async, label, takes
from psyqueue.outcome import Policy

Mode: TypeAlias = Literal["auto", "async", "thread", "process"]
Kind: TypeAlias = Literal["async", "thread", "process"]
UniqueFields: TypeAlias = "bool | str | tuple[str, ...] | None"
OrderFields: TypeAlias = "str | tuple[str, ...] | None"
Upgrade: TypeAlias = Callable[[Any], Any]

VERSION_MAX = 1_000_000
_POLICY_FIELDS = (
    ("backoff", "strategy"),
    ("backoff_base_ms", "base_ms"),
    ("backoff_cap_ms", "cap_ms"),
    ("backoff_jitter", "jitter"),
    ("timeout_ms", "timeout_ms"),
)
KEY_TEXT_MAX = KEY_LENGTH_MAX - 2 * NAME_LENGTH_MAX - 8
"""What is left for the value in a derived key beside the tenant and the handler's name; a longer value is hashed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerSpec:
    """One registered handler.

    `kind` says where it runs, `invoke(ctx, payload)` runs it (Misfit when the payload does not fit), `policy` holds for
    jobs that say nothing else in their cold fields. A delivery whose `schema_version` is above `version` is not for it;
    `upgrades[n]` makes a payload of version n + 1 of one of version n. `convert` makes the annotated type of a result.
    `is_plain`: an `async def` without context, timeout or upgrades, which needs nothing around it.
    """

    name: str
    fn: Callable[..., Any]
    queue: str
    kind: Kind
    wants_ctx: bool
    invoke: Invoke
    parameters: Parameters
    policy: Policy
    max_retries: int
    unique: tuple[str, ...] | Literal[True] | None
    order: tuple[str, ...] | None
    version: int
    upgrades: Mapping[int, Upgrade]
    aliases: tuple[str, ...]
    convert: Callable[[Any], Any] | None
    is_plain: bool
    makes_keys: bool
    template: Template

    def policy_for(self, cold: Mapping[str, Any]) -> Policy:
        """The policy of a job with these cold fields: what it was enqueued with, else the handler's."""
        asked = {field: cold[wire] for wire, field in _POLICY_FIELDS if wire in cold}
        if not asked:
            return self.policy
        if "strategy" in asked:
            asked["own_backoff"] = None
        return msgspec.structs.replace(self.policy, **asked)

    def upgraded(self, payload: Any, version: int) -> Any:
        """A payload of an older version as the handler takes it now. Raises what an upgrade raises."""
        for step in range(version, self.version):
            if step in self.upgrades:
                payload = self.upgrades[step](payload)
        return payload

    def unique_key(self, payload: Any) -> str | None:
        """The key that `unique=` makes of a payload; None without one."""
        if self.unique is None:
            return None
        if self.unique is True:
            return self._key(payload)
        return self._key(self._values(payload, self.unique, "unique"))

    def order_key(self, payload: Any) -> str | None:
        """The key that `order_key=` makes of a payload; None without one."""
        return None if self.order is None else self._key(self._values(payload, self.order, "order_key"))

    def _values(self, payload: Any, fields: tuple[str, ...], option: str) -> Any:
        values = [self.parameters.value(payload, field, option) for field in fields]
        return values[0] if len(values) == 1 else values

    def _key(self, value: Any) -> str:
        """`name:value`, readable where short; two handlers never share one."""
        body = canonical(value)
        if len(body) <= KEY_TEXT_MAX and body.isascii():
            return f"{self.name}:{body.decode()}"
        return f"{self.name}:{_hash(body)}"


class Handlers:
    """name (or alias) → spec. Registering is over when a name is taken: two meanings of one name are a mix-up."""

    def __init__(self) -> None:
        self._by_name: dict[str, HandlerSpec] = {}
        self._queues: tuple[str, ...] = ()

    def add(self, spec: HandlerSpec) -> None:
        """Raises ConfigError if one of its names is taken."""
        for name in (spec.name, *spec.aliases):
            taken = self._by_name.get(name)
            if taken is not None:
                raise ConfigError(
                    f"handler {name!r} is registered already ({label(taken.fn)}); give the second one another name",
                    name=name,
                )
        if len({spec.name, *spec.aliases}) != 1 + len(spec.aliases):
            raise ConfigError(f"handler {spec.name!r} lists a name twice: {', '.join(spec.aliases)}", name=spec.name)
        for name in (spec.name, *spec.aliases):
            self._by_name[name] = spec
        self._queues = tuple(dict.fromkeys(queue for each in self.all() for queue in _queues_of(each)))

    def find(self, name: str) -> HandlerSpec | None:
        """The handler of this name or alias; None if this process does not know it."""
        return self._by_name.get(name)

    def all(self) -> tuple[HandlerSpec, ...]:
        """Each once, in order of registration."""
        return tuple(spec for name, spec in self._by_name.items() if name == spec.name)

    def queues(self) -> tuple[str, ...]:
        """Where jobs of these handlers are by default, in order of registration."""
        return self._queues


def _queues_of(spec: HandlerSpec) -> tuple[str, ...]:
    """Without a queue of its own a handler had that of its former name, too: first what was left there."""
    return (*spec.aliases, spec.queue) if spec.queue == spec.name else (spec.queue,)


class HandleOptions(TypedDict, total=False):
    """What `handle` takes. docs/handlers.md describes each, with its default."""

    queue: str | None
    max_retries: int
    backoff: Strategy | BackoffFunction
    backoff_base: Duration
    backoff_cap: Duration
    backoff_jitter: bool
    timeout: Duration | None
    mode: Mode
    unique: UniqueFields
    order_key: OrderFields
    version: int
    upgrades: Mapping[int, Upgrade]
    aliases: Iterable[str]
    retry_on: type[BaseException] | tuple[type[BaseException], ...]
    fatal: type[BaseException] | tuple[type[BaseException], ...]


HANDLE_DEFAULTS: HandleOptions = {
    "queue": None,
    "max_retries": 3,
    "backoff": "exponential",
    "backoff_base": 1.0,
    "backoff_cap": 300.0,
    "backoff_jitter": True,
    "timeout": None,
    "mode": "auto",
    "unique": None,
    "order_key": None,
    "version": 1,
    "upgrades": {},
    "aliases": (),
    "retry_on": (Exception,),
    "fatal": (),
}


_LIMIT = "How many jobs of a queue run or start is a limit of it: await q.limits(queue, active_max=..., ...)"
_FOREIGN = {
    "retries": "Did you mean max_retries?",
    "retry": "Did you mean max_retries, or retry_on?",
    "max_tries": "Did you mean max_retries, which does not count the first run?",
    "time_limit": "Did you mean timeout?",
    "concurrency": _LIMIT,
    "rate_limit": _LIMIT,
    "cron": SCHEDULES,
    "schedule": SCHEDULES,
}
"""What other queues call it, or have here."""


def _way_out(option: str) -> str:
    if is_option(option) and option not in HANDLE_DEFAULTS:
        return f"It belongs to an enqueue: handler.options({option}=...).enqueue(...)"
    return way_out_of(option, HANDLE_DEFAULTS, _FOREIGN)


def make_spec(name: str, fn: Callable[..., Any], options: HandleOptions) -> HandlerSpec:
    """Check a registration. Raises InvalidOption or ConfigError naming the handler."""
    name = read_name("name", name)
    for option, value in options.items():
        if option not in HANDLE_DEFAULTS:
            raise InvalidOption(option, value, f"is not an option of handle({name!r})", _way_out(option))
    asked: dict[str, Any] = {**HANDLE_DEFAULTS, **options}
    if not callable(fn) or inspect.isclass(fn):
        raise ConfigError(f"handler {name!r}: {fn!r} is no function", name=name)
    kind = _kind(name, fn, asked["mode"])
    parameters = Parameters(name, fn)
    queue = name if asked["queue"] is None else read_name("queue", asked["queue"])
    version = read_int("version", asked["version"], 1, VERSION_MAX)
    upgrades = _upgrades(name, asked["upgrades"], version)
    policy = _policy(asked)
    unique = _unique(parameters, asked["unique"])
    order = None if asked["order_key"] is None else _fields(parameters, "order_key", asked["order_key"])
    return HandlerSpec(
        name=name,
        fn=fn,
        queue=queue,
        kind=kind,
        wants_ctx=parameters.wants_ctx,
        invoke=parameters.invoke_in_thread if kind == "thread" else parameters.invoke,
        parameters=parameters,
        policy=policy,
        max_retries=read_retries("max_retries", asked["max_retries"]),
        unique=unique,
        order=order,
        makes_keys=unique is not None or order is not None,
        version=version,
        upgrades=upgrades,
        aliases=_aliases(asked["aliases"]),
        convert=_converter(name, result_type(name, fn)),
        is_plain=kind == "async" and not (parameters.needs_ctx or upgrades) and policy.timeout_ms is None,
        template=Template(name, queue, version),
    )


def _policy(asked: Mapping[str, Any]) -> Policy:
    own = asked["backoff"] if callable(asked["backoff"]) else None
    strategy: Any = "exponential" if own is not None else read_strategy("backoff", asked["backoff"])
    return Policy(
        strategy=strategy,
        base_ms=to_ms("backoff_base", asked["backoff_base"]),
        cap_ms=to_ms("backoff_cap", asked["backoff_cap"]),
        jitter=read_bool("backoff_jitter", asked["backoff_jitter"]),
        timeout_ms=read_timeout("timeout", asked["timeout"]),
        retry_on=_exceptions("retry_on", asked["retry_on"]),
        fatal=_exceptions("fatal", asked["fatal"]),
        own_backoff=own,
    )


def _kind(name: str, fn: Callable[..., Any], mode: Any) -> Kind:
    if mode not in get_args(Mode):
        raise InvalidOption("mode", mode, f"is none of {', '.join(get_args(Mode))}")
    if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise ConfigError(f"handler {name!r} is a generator; return a value instead of yielding", name=name)
    if mode == "auto":
        return "async" if is_async(fn) else "thread"
    if mode == "process":
        _require_importable(name, fn)
        return "process"
    if is_async(fn) != (mode == "async"):
        wanted = "an `async def`" if mode == "async" else "a plain `def`"
        raise ConfigError(
            f"handler {name!r}: mode={mode!r} needs {wanted}; leave mode out to choose by itself", name=name
        )
    return "async" if mode == "async" else "thread"


def _require_importable(name: str, fn: Callable[..., Any]) -> None:
    """A spawned process finds the function by its name only."""
    module, path = getattr(fn, "__module__", None), getattr(fn, "__qualname__", "")
    found: Any = sys.modules.get(module or "")
    for part in path.split("."):
        found = getattr(found, part, None)
    # While a decorator runs, the name is not bound yet: then the path has to be a plain name at module level.
    if not path or "<" in path or "." in path or (found is not None and not callable(found)):
        raise ConfigError(
            f"handler {name!r}: mode='process' needs a function at module level, {label(fn)} is none", name=name
        )


def _unique(parameters: Parameters, given: Any) -> tuple[str, ...] | Literal[True] | None:
    if given is None or given is False:
        return None
    return True if given is True else _fields(parameters, "unique", given)


def _fields(parameters: Parameters, option: str, given: Any) -> tuple[str, ...]:
    fields = (given,) if isinstance(given, str) else given
    if not isinstance(fields, tuple | list) or not fields or not all(isinstance(field, str) for field in fields):
        raise InvalidOption(option, given, "is neither the name of a payload field nor a tuple of names")
    for field in fields:
        if not parameters.has(field):
            raise InvalidOption(option, given, f"names {field!r}, which handler {parameters.handler!r} does not take")
    return tuple(fields)


def _upgrades(name: str, given: Any, version: int) -> Mapping[int, Upgrade]:
    if not isinstance(given, Mapping):
        raise InvalidOption("upgrades", given, "is no mapping", "Give {1: function of a payload of version 1, 2: …}")
    for step, fn in given.items():
        if isinstance(step, bool) or not isinstance(step, int) or not 1 <= step < version:
            known = f"1 to {version - 1}" if version > 1 else "none: give version=2"
            raise InvalidOption("upgrades", step, f"is no older version of handler {name!r} ({known})")
        if not callable(fn) or is_async(fn) or not takes(fn, 1):
            raise InvalidOption("upgrades", fn, f"of version {step} is no plain function of the payload")
    return dict(given)


def _aliases(given: Any) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidOption("aliases", given, "is no list of names", 'Give aliases=("old.name",)')
    return tuple(read_name("aliases", alias) for alias in given)


def _exceptions(option: str, given: Any) -> tuple[type[BaseException], ...]:
    listed = (given,) if isinstance(given, type) else tuple(given) if isinstance(given, Iterable) else (given,)
    for kind in listed:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise InvalidOption(option, given, "is no exception class nor a tuple of them")
    return listed


def _hash(body: bytes) -> str:
    return blake2b(body, digest_size=16).hexdigest()


def _converter(handler: str, kind: Any) -> Callable[[Any], Any] | None:
    """Makes the annotated type of a decoded result; None where the decoded value is what was annotated.

    It raises PayloadError for a result of another shape.
    """
    if kind is Any or (isinstance(kind, type) and kind in _PLAIN):
        return None
    to_kind = converter_of(kind)

    def convert(value: Any) -> Any:
        try:
            return to_kind(value, kind)
        except msgspec.ValidationError as exc:
            path, problem = place_of(exc)
            text = f"{problem}; handler {handler!r} is annotated to return {kind!r}. refresh().result has it as it is"
            raise PayloadError(path, text, "result") from exc

    return convert


_PLAIN = frozenset((bool, int, float, str, list, dict, type(None)))

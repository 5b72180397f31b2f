"""How a handler's function takes its payload: bound to names at enqueue, checked and converted once more at run.

The wire is `{name: value}`, so that parameters can be reordered, other languages can enqueue, and a renamed parameter
is an error instead of a mix-up. Everything about the signature is worked out here, once, at registration.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import inspect as type_inspect

from psyqueue import codec
from psyqueue.errors import ConfigError, PayloadError
from psyqueue.kernel.depends import POSITIONAL, Dependency, Injector, is_annotated_context, is_context
from psyqueue.kernel.options import is_option
from psyqueue.outcome import Misfit

Invoke: TypeAlias = Callable[[Any, Any], Any]
"""`(ctx, decoded payload) -> what the function returns` (a coroutine for an async one). Raises Misfit."""


class Parameters:
    """The signature of one handler function, ready for use.

    `takes`: `fields` (bound to names), `payload` (only `ctx`: any JSON value), `nothing`. `injected` are the parameters
    that are no part of the payload, with their providers. `invoke` is for the event loop, `invoke_in_thread` for a
    thread of the worker; these differ only where something is injected.
    """

    def __init__(self, handler: str, fn: Callable[..., Any]) -> None:
        self.handler = handler
        self._annotated = fn
        self.injected: dict[str, Callable[..., Any]] = {}
        listed = list(_signature(handler, fn).parameters.values())
        self.wants_ctx: bool = bool(listed) and is_context(listed[0])
        fields = self._without_injected(listed[1:] if self.wants_ctx else listed)
        self._reject_late_context(fields)
        self._positional = tuple(field.name for field in fields if field.kind in POSITIONAL)
        self._open = any(field.kind is inspect.Parameter.VAR_KEYWORD for field in fields)
        self._fields = {field.name: field for field in fields if field.kind is not inspect.Parameter.VAR_KEYWORD}
        self._required = tuple(name for name, field in self._fields.items() if field.default is field.empty)
        self._reject_var_args(fields)
        self.takes: Literal["fields", "payload", "nothing"] = (
            "fields" if fields else "payload" if self.wants_ctx else "nothing"
        )
        self._enough = self._counts_that_are_enough()
        if not self.injected:
            self.invoke: Invoke = self._build_invoke(fn)
            self.invoke_in_thread: Invoke = self.invoke
            return
        injector = Injector(handler, self.injected)
        # The payload is checked first: nothing is opened for a run that cannot be.
        bind = self._build_invoke(functools.partial(functools.partial, fn))
        self.invoke = lambda ctx, payload: injector.around(ctx, bind(ctx, payload))
        self.invoke_in_thread = lambda ctx, payload: injector.around_in_thread(ctx, bind(ctx, payload))

    @property
    def needs_ctx(self) -> bool:
        """Whether a run needs a context: for the function, or for what is injected."""
        return self.wants_ctx or bool(self.injected)

    def _without_injected(self, listed: list[inspect.Parameter]) -> list[inspect.Parameter]:
        fields: list[inspect.Parameter] = []
        for parameter in listed:
            if isinstance(parameter.default, Dependency):
                if parameter.kind is parameter.POSITIONAL_ONLY:
                    raise self._misplaced(parameter.name, "is for positions only")
                self.injected[parameter.name] = parameter.default.provider
                continue
            if self.injected and parameter.kind in POSITIONAL:
                raise self._misplaced(next(reversed(self.injected)), f"stands before {parameter.name!r}")
            fields.append(parameter)
        return fields

    def _misplaced(self, name: str, where: str) -> ConfigError:
        return ConfigError(
            f"handler {self.handler!r}, parameter {name!r}: what is injected {where}; put it behind a `*`"
        )

    def _counts_that_are_enough(self) -> range:
        """How many values by position make a payload without a look at its names."""
        if self.takes == "payload" or not set(self._required).issubset(self._positional):
            return range(0)
        return range(len(self._required), len(self._positional) + 1)

    # ── at enqueue ────────────────────────────────────────────────────────────────────────────────────────────────
    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The payload of a call with these arguments; `kwargs` may become it.

        Raises PayloadError naming the argument that does not fit.
        """
        if not kwargs and len(args) in self._enough:
            return dict(zip(self._positional, args, strict=False))
        if self.takes == "payload":
            return self._bind_payload(args, kwargs)
        if len(args) > len(self._positional):
            most = len(self._positional)
            raise PayloadError("$", f"handler {self.handler!r} takes {most} values by position, {len(args)} were given")
        payload = kwargs
        if args:
            payload = dict(zip(self._positional, args, strict=False))
            for name, value in kwargs.items():
                if name in payload:
                    raise PayloadError(f"$.{name}", f"handler {self.handler!r} got {name!r} by position and by name")
                payload[name] = value
        if payload.keys() != self._fields.keys():
            self._check_names(payload)
        return payload

    def check(self, payload: Any) -> Any:
        """A payload given by name, as it goes on the wire. Raises PayloadError where names are missing or unknown."""
        if self.takes == "payload":
            return payload
        mapping = {} if payload is None else payload
        if not isinstance(mapping, Mapping):
            try:
                mapping = msgspec.to_builtins(mapping, enc_hook=codec.of_model)
            except (TypeError, ValueError, msgspec.MsgspecError):
                mapping = None
        if not isinstance(mapping, Mapping):
            kind = type(payload).__name__
            raise PayloadError("$", f"is {kind}, but handler {self.handler!r} takes {self._listed()}: give a mapping")
        self._check_names(mapping)
        return mapping

    def value(self, payload: Any, field: str, option: str) -> Any:
        """The value of `field` that a run would see, for keys made of it. Raises PayloadError if there is none."""
        if isinstance(payload, Mapping) and field in payload:
            return payload[field]
        parameter = self._fields.get(field)
        if parameter is not None and parameter.default is not parameter.empty:
            return parameter.default
        raise PayloadError(f"$.{field}", f"is missing, and {option} of handler {self.handler!r} is made of it")

    def has(self, field: str) -> bool:
        """Whether a payload may hold `field`."""
        return self._open or self.takes == "payload" or field in self._fields

    def _bind_payload(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) > 1 or (args and kwargs):
            raise PayloadError(
                "$", f"handler {self.handler!r} takes ctx alone: give one value as the payload, or names"
            )
        return args[0] if args else kwargs or None

    def _check_names(self, payload: Mapping[str, Any]) -> None:
        for name in self._required:
            if name not in payload:
                raise PayloadError(f"$.{name}", f"is missing; handler {self.handler!r} takes {self._listed()}")
        if not self._open:
            for name in payload:
                if name in self.injected:
                    raise PayloadError(f"$.{name}", f"is injected into handler {self.handler!r}, and no payload")
                if name not in self._fields:
                    apart = f". As an option: handler.options({name}=...).enqueue(...)" if is_option(name) else ""
                    what = f"is unknown; handler {self.handler!r} takes {self._listed()}{apart}"
                    raise PayloadError(f"$.{name}", what)

    def _listed(self) -> str:
        return ", ".join(self._fields) or "nothing"

    def _reject_late_context(self, fields: list[inspect.Parameter]) -> None:
        for field in fields:
            if is_annotated_context(field):
                raise ConfigError(
                    f"handler {self.handler!r}, parameter {field.name!r}: the context is the first parameter, "
                    "and no field of the payload; put it in front"
                )

    def _reject_var_args(self, fields: list[inspect.Parameter]) -> None:
        if any(field.kind is inspect.Parameter.VAR_POSITIONAL for field in fields):
            raise ConfigError(f"handler {self.handler!r}: *args have no names on the wire; take one list instead")

    # ── at run ────────────────────────────────────────────────────────────────────────────────────────────────────
    def _build_invoke(self, fn: Callable[..., Any]) -> Invoke:
        """One closure per shape, so that a run does no introspection."""
        if self.takes == "payload":
            return lambda ctx, payload: fn(ctx)  # noqa: ARG005 - the payload is ctx.job.payload
        if self.takes == "nothing":
            return self._invoke_without(fn)
        shape = self._shape()
        positional = len(self._positional)
        if self._open:
            return self._invoke_open(fn, shape)
        if positional == len(self._fields):
            return self._invoke_positional(fn, shape)
        by_name = tuple(self._fields)[positional:]
        as_values, fitted, wants_ctx = msgspec.structs.astuple, self._fitted, self.wants_ctx

        def invoke(ctx: Any, payload: Any) -> Any:
            values = as_values(fitted(payload, shape))
            named = dict(zip(by_name, values[positional:], strict=True))
            if wants_ctx:
                return fn(ctx, *values[:positional], **named)
            return fn(*values[:positional], **named)

        return invoke

    def _invoke_positional(self, fn: Callable[..., Any], shape: type[msgspec.Struct]) -> Invoke:
        as_values, convert, fitted = msgspec.structs.astuple, converter_of(shape), self._fitted
        if self.wants_ctx:

            def invoke_with(ctx: Any, payload: Any) -> Any:
                try:
                    values = as_values(convert(payload, shape))
                except msgspec.ValidationError:
                    values = as_values(fitted(payload, shape))
                return fn(ctx, *values)

            return invoke_with

        def invoke(ctx: Any, payload: Any) -> Any:  # noqa: ARG001 - one signature for all shapes
            try:
                values = as_values(convert(payload, shape))
            except msgspec.ValidationError:
                values = as_values(fitted(payload, shape))
            return fn(*values)

        return invoke

    def _invoke_open(self, fn: Callable[..., Any], shape: type[msgspec.Struct]) -> Invoke:
        """With `**kwargs`: what no parameter names is passed on as it is."""
        positional, names = len(self._positional), tuple(self._fields)
        as_values, fitted, wants_ctx = msgspec.structs.astuple, self._fitted, self.wants_ctx

        def invoke(ctx: Any, payload: Any) -> Any:
            values = as_values(fitted(payload, shape))
            named = {name: value for name, value in payload.items() if name not in names} if payload else {}
            named.update(zip(names[positional:], values[positional:], strict=True))
            return fn(*((ctx, *values[:positional]) if wants_ctx else values[:positional]), **named)

        return invoke

    def _invoke_without(self, fn: Callable[..., Any]) -> Invoke:
        handler = self.handler

        def invoke(ctx: Any, payload: Any) -> Any:  # noqa: ARG001 - one signature for all shapes
            if payload:
                raise Misfit("$", f"holds values, but handler {handler!r} takes nothing")
            return fn()

        return invoke

    def _fitted(self, payload: Any, shape: type[msgspec.Struct]) -> msgspec.Struct:
        try:
            return msgspec.convert({} if payload is None else payload, shape, dec_hook=codec.to_model)
        except msgspec.ValidationError as exc:
            path, problem = place_of(exc)
            raise Misfit(path, f"{problem}; handler {self.handler!r} takes {self._listed()}") from exc

    def _shape(self) -> type[msgspec.Struct]:
        """A struct with the fields of the payload: msgspec checks and converts all of them in one call."""
        defined: list[tuple[str, Any, Any]] = []
        for name, parameter in self._fields.items():
            kind = self._field_type(parameter)
            if parameter.default is parameter.empty:
                defined.append((name, kind, msgspec.NODEFAULT))
            else:
                # The function's own default object, neither copied nor checked: as Python would pass it.
                defined.append((name, kind, msgspec.field(default_factory=_always(parameter.default))))
        return msgspec.defstruct("Payload", defined, kw_only=True, forbid_unknown_fields=not self._open)

    def _field_type(self, parameter: inspect.Parameter) -> Any:
        if parameter.annotation is parameter.empty:
            return Any
        kind = _resolve(self.handler, self._annotated, parameter.annotation, f"parameter {parameter.name!r}")
        return kind if convertible(kind) else Any


def place_of(error: msgspec.ValidationError) -> tuple[str, str]:
    """Its path, and what is wrong there."""
    problem, _, where = str(error).partition(" - at `")
    return where.rstrip("`") or "$", problem


def result_type(handler: str, fn: Callable[..., Any]) -> Any:
    """What a result is converted to when it is awaited: the return annotation if msgspec knows it, else Any."""
    annotation = inspect.signature(fn).return_annotation
    if annotation is inspect.Signature.empty:
        return Any
    try:
        kind = _resolve(handler, fn, annotation, "the return value")
    except ConfigError:
        return Any
    return kind if convertible(kind) else Any


def convertible(kind: Any) -> bool:
    """Whether we can make `kind` of plain JSON values: msgspec or pydantic knows every class inside of it."""
    try:
        return all(codec.is_model(custom) for custom in _customs(type_inspect.type_info(kind), set()))
    except (TypeError, ValueError, NameError, RecursionError):  # the last: `type Json = list[Json] | str`
        return False


def converter_of(kind: Any) -> Callable[[Any, Any], Any]:
    """`msgspec.convert`, with a hook where models of pydantic are inside of `kind`."""
    has_models = any(True for _ in _customs(type_inspect.type_info(kind), set()))
    return functools.partial(msgspec.convert, dec_hook=codec.to_model) if has_models else msgspec.convert


def _customs(info: Any, seen: set[int]) -> Iterator[Any]:
    """What msgspec does not know inside of a type: its classes, None for raw JSON."""
    if isinstance(info, type_inspect.CustomType | type_inspect.RawType):
        yield getattr(info, "cls", None)
    elif isinstance(info, msgspec.Struct):
        if id(info) not in seen:
            seen.add(id(info))
            for name in info.__struct_fields__:
                yield from _customs(getattr(info, name), seen)
    elif isinstance(info, tuple):
        for item in info:
            yield from _customs(item, seen)


def _resolve(handler: str, fn: Callable[..., Any], annotation: Any, what: str) -> Any:
    """The type that an annotation means. Raises ConfigError if its text means nothing where the function lives."""
    holder = type("_", (), {"__annotations__": {"it": annotation}})
    target = inspect.unwrap(fn)
    while isinstance(target, functools.partial):
        target = inspect.unwrap(target.func)
    scope = getattr(target, "__globals__", None) or getattr(getattr(target, "__call__", None), "__globals__", {})  # noqa: B004
    try:
        return typing.get_type_hints(holder, globalns=scope, localns={}, include_extras=True)["it"]
    except Exception as exc:
        raise ConfigError(
            f"handler {handler!r}: the annotation {annotation!r} of {what} cannot be resolved at run time ({exc}). "
            "Define or import its type at module level, not under TYPE_CHECKING or inside a function"
        ) from exc


def _signature(handler: str, fn: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(fn)
    except (TypeError, ValueError) as exc:
        raise ConfigError(f"handler {handler!r}: {fn!r} has no signature that can be read; wrap it in a def") from exc


def _always(value: Any) -> Callable[[], Any]:
    return lambda: value

"""What handlers need besides their payload: made for a run, shared within it, closed after it.

Everything about the providers is worked out once, when the handler is registered: a run walks a list.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeVar, overload

from msgspec import Struct

from psyqueue.errors import ConfigError
from psyqueue.kernel.pipeline import is_async, label
from psyqueue.kernel.threads import loop_of_call

T = TypeVar("T")

Values = dict[Callable[..., Any], Any]
"""What the providers of this run gave, by provider."""


class Dependency:
    """The default of a parameter that a run fills in."""

    __slots__ = ("provider",)

    def __init__(self, provider: Callable[..., Any]) -> None:
        self.provider: Callable[..., Any] = provider

    def __repr__(self) -> str:
        return f"Depends({label(self.provider)})"


@overload
def Depends(provider: Callable[..., AsyncIterator[T]]) -> T: ...
@overload
def Depends(provider: Callable[..., Iterator[T]]) -> T: ...
@overload
def Depends(provider: Callable[..., Awaitable[T]]) -> T: ...
@overload
def Depends(provider: Callable[..., T]) -> T: ...
def Depends(provider: Callable[..., Any]) -> Any:  # noqa: N802 - it stands where a value would, and is known by this name
    """The default of a parameter that is no part of the payload: each run fills it in with what the provider gives.

    `async def handler(to: str, *, db: Db = Depends(get_db))`.
    The provider may be a `def`, an `async def`, or a generator of either kind that yields once: what stands after the
    `yield` runs when the run has ended. It may take the context as its first parameter, and have `Depends` of its own.
    Raises ConfigError.
    """
    if not callable(provider):
        raise ConfigError(f"Depends takes a function, not {provider!r}; write Depends(get_db), without calling it")
    return Dependency(provider)


class _Provider(Struct, frozen=True):
    """`enter(*args, **kwargs)` is a context manager for a generator, else the function itself."""

    fn: Callable[..., Any]
    enter: Callable[..., Any]
    is_async: bool
    is_generator: bool
    wants_ctx: bool
    needs: Mapping[str, Callable[..., Any]]

    def call(self, ctx: Any, values: Values) -> Any:
        named = {name: values[provider] for name, provider in self.needs.items()}
        return self.enter(ctx, **named) if self.wants_ctx else self.enter(**named)


class Injector:
    """The dependencies of one handler. `parameters` are its parameters with their providers.

    Raises ConfigError naming the handler and the parameter that nobody can fill in.
    """

    def __init__(self, handler: str, parameters: Mapping[str, Callable[..., Any]]) -> None:
        self._handler = handler
        self._parameters = parameters
        self._ordered: dict[Callable[..., Any], _Provider] = {}
        for name, provider in parameters.items():
            self._add(provider, name)

    def _add(self, fn: Callable[..., Any], path: str) -> None:
        """After all that it needs itself."""
        if fn in self._ordered:
            return
        try:
            listed = list(inspect.signature(fn).parameters.values())
        except (TypeError, ValueError) as exc:
            raise self._refusal(path, f"{label(fn)} has no signature that can be read; wrap it in a def") from exc
        wants_ctx = bool(listed) and is_context(listed[0])
        needs: dict[str, Callable[..., Any]] = {}
        for parameter in listed[1:] if wants_ctx else listed:
            if isinstance(parameter.default, Dependency):
                needs[parameter.name] = parameter.default.provider
                self._add(parameter.default.provider, f"{path}.{parameter.name}")
            elif parameter.default is parameter.empty and parameter.kind not in _OPEN:
                problem = f"{label(fn)} takes {parameter.name!r}, which nobody gives it"
                raise self._refusal(path, f"{problem}: give it a default, Depends(...) for example")
        is_async_generator = inspect.isasyncgenfunction(fn)
        is_generator = is_async_generator or inspect.isgeneratorfunction(fn)
        enter: Callable[..., Any] = fn
        if is_generator:
            enter = contextlib.asynccontextmanager(fn) if is_async_generator else contextlib.contextmanager(fn)
        self._ordered[fn] = _Provider(fn, enter, is_async_generator or is_async(fn), is_generator, wants_ctx, needs)

    def _refusal(self, path: str, problem: str) -> ConfigError:
        return ConfigError(f"handler {self._handler!r}, parameter {path!r}: {problem}", name=self._handler)

    def _named(self, values: Values) -> dict[str, Any]:
        return {name: values[provider] for name, provider in self._parameters.items()}

    # ── at run ────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def around(self, ctx: Any, call: Callable[..., Any]) -> Any:
        """What `call(**dependencies)` gives, awaited if it has to be; all providers run here.

        A generator sees the exception of the run, and cannot make it unseen; one that fails at its end fails the run.
        """
        failed: BaseException | None = None
        result = None
        async with contextlib.AsyncExitStack() as stack:
            values: Values = {}
            for provider in self._ordered.values():
                made = provider.call(ctx, values)
                if provider.is_generator:
                    made = await stack.enter_async_context(made) if provider.is_async else stack.enter_context(made)
                elif provider.is_async:
                    made = await made
                values[provider.fn] = made
            try:
                result = call(**self._named(values))
                if inspect.isawaitable(result):
                    result = await result
            except BaseException as exc:
                failed = exc
                raise
        if failed is not None:
            raise failed
        return result

    def around_in_thread(self, ctx: Any, call: Callable[..., Any]) -> Any:
        """The same for a plain handler in a thread: plain providers run in it, the others on the worker's loop."""
        failed: BaseException | None = None
        result = None
        with contextlib.ExitStack() as stack:
            values: Values = {}
            for provider in self._ordered.values():
                made = provider.call(ctx, values)
                if provider.is_generator:
                    made = stack.enter_context(_OnLoop(made) if provider.is_async else made)
                elif provider.is_async:
                    made = _on_loop(made)
                values[provider.fn] = made
            try:
                result = call(**self._named(values))
            except BaseException as exc:
                failed = exc
                raise
        if failed is not None:
            raise failed
        return result


class _OnLoop:
    """A context manager of coroutines, entered and left from a thread of the worker."""

    def __init__(self, inner: contextlib.AbstractAsyncContextManager[Any]) -> None:
        self._inner = inner

    def __enter__(self) -> Any:
        return _on_loop(self._inner.__aenter__())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return _on_loop(self._inner.__aexit__(kind, error, trace))


def _on_loop(made: Awaitable[T]) -> T:
    async def wait() -> T:
        return await made

    return asyncio.run_coroutine_threadsafe(wait(), loop_of_call()).result()


def is_context(parameter: inspect.Parameter) -> bool:
    """Named `ctx`, or annotated with Context (also as text that only a type checker can resolve)."""
    if parameter.kind not in POSITIONAL:
        return False
    return parameter.name == CONTEXT_NAME or is_annotated_context(parameter)


def is_annotated_context(parameter: inspect.Parameter) -> bool:
    """Annotated with Context, whatever it is called and wherever it stands."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        return annotation.strip("\"' ").rpartition(".")[2] == "Context"
    return (
        getattr(annotation, "__name__", "") == "Context"
        and getattr(annotation, "__module__", "").partition(".")[0] == "psyqueue"
    )


CONTEXT_NAME = "ctx"
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

"""Middleware: functions that wrap an enqueue or a run, folded once at start into one callable.

`async fn(ctx, call_next)`: what stands before `await call_next()` happens on the way in, what stands after it on the
way out. `call_next()` returns the inner result; it may be awaited once. A middleware that returns without it has to say
why: `raise Rejected(reason)`, or raise or return a verdict. What it returns replaces the result unless it is None.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

from msgspec import Struct

from psyqueue.errors import ConfigError, PluginError, Rejected
from psyqueue.outcome import DeadLetter, Verdict

Stage: TypeAlias = Literal["enqueue", "process"]
Phase: TypeAlias = Literal["guard", "validate", "transform", "observe", "execute", "finalize"]
CallNext: TypeAlias = Callable[[], Awaitable[Any]]
MiddlewareFunction: TypeAlias = Callable[[Any, CallNext], Awaitable[Any]]
Terminal: TypeAlias = Callable[[Any], Awaitable[Any]]
Chain: TypeAlias = Callable[[Any, Terminal], Awaitable[Any]]

STAGES: tuple[Stage, ...] = get_args(Stage)
PHASES: tuple[Phase, ...] = get_args(Phase)
USER = "user"
"""Owner of what the application registers itself; plugins are named by their name."""


class Middleware(Struct, frozen=True):
    """One registration; `owner` is named in errors."""

    stage: Stage
    phase: Phase
    fn: MiddlewareFunction
    owner: str


def middleware(stage: str, fn: MiddlewareFunction, phase: str, owner: str) -> Middleware:
    """Check a registration. Raises ConfigError for an unknown event or phase, PluginError for a wrong signature."""
    if stage not in STAGES:
        raise ConfigError(f"pipeline event {stage!r} does not exist; there are {', '.join(STAGES)}", event=stage)
    if phase not in PHASES:
        raise ConfigError(f"phase {phase!r} does not exist; in order there are {', '.join(PHASES)}", phase=phase)
    if not callable(fn) or not takes(fn, 2):
        raise PluginError(owner, f"middleware {fn!r} must be an async function of (ctx, call_next)")
    if not is_async(fn):
        raise PluginError(owner, f"middleware {label(fn)} is not async: write `async def {label(fn)}(ctx, call_next)`")
    return Middleware(stage, phase, fn, owner)


def compose(registered: Sequence[Middleware], stage: Stage) -> Chain | None:
    """`run(ctx, terminal)` for all middleware of `stage`, guard outermost; in a phase the first registered is outer.

    None when there is none: the caller then awaits its terminal directly, and an empty chain costs nothing.
    """
    layers = [item for phase in PHASES for item in registered if item.stage == stage and item.phase == phase]
    chain: Chain | None = None
    for item in reversed(layers):
        chain = _layer(item, chain)
    return chain


def takes(fn: Callable[..., Any], count: int) -> bool:
    """Whether `fn` can be called with `count` positional arguments and nothing else."""
    try:
        inspect.signature(fn).bind(*range(count))
    except (TypeError, ValueError):
        return False
    return True


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether calling `fn` gives a coroutine, as far as that can be known without calling it."""
    call = getattr(fn, "__call__", None)  # noqa: B004 - the bound method, not the question whether there is one
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(call)


def label(fn: object) -> str:
    """The name by which a person finds `fn`."""
    return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)


def _layer(item: Middleware, inner: Chain | None) -> Chain:
    fn = item.fn

    async def run(ctx: Any, terminal: Terminal) -> Any:
        step = _Step(item, inner, ctx, terminal)
        try:
            returned = await fn(ctx, step)
        except Rejected as exc:
            if item.stage == "process" and not step.called:
                # A guard's refusal is final; as an exception of the run it would be retried.
                raise DeadLetter(f"rejected: {exc.reason}") from exc
            raise
        if not step.called and not isinstance(returned, Verdict):
            raise PluginError(
                item.owner,
                f"middleware {label(fn)} returned without awaiting call_next(). "
                "Raise Rejected(reason), or raise or return a verdict, to end it here",
            )
        return step.result if returned is None else returned

    return run


class _Step:
    """The `call_next` of one layer in one run."""

    __slots__ = ("_ctx", "_inner", "_item", "_terminal", "called", "result")

    def __init__(self, item: Middleware, inner: Chain | None, ctx: Any, terminal: Terminal) -> None:
        self._item = item
        self._inner = inner
        self._ctx = ctx
        self._terminal = terminal
        self.called = False
        self.result: Any = None

    async def __call__(self) -> Any:
        if self.called:
            raise PluginError(self._item.owner, f"middleware {label(self._item.fn)} awaited call_next() twice")
        self.called = True
        if self._inner is None:
            self.result = await self._terminal(self._ctx)
        else:
            self.result = await self._inner(self._ctx, self._terminal)
        return self.result

"""What `handle` returns: the function, and the ways to enqueue it with its own types."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, Unpack, overload

from msgspec import Struct

from psyqueue.errors import PayloadError
from psyqueue.kernel.context import Context
from psyqueue.kernel.handlers import HandlerSpec  # at run time: the signature of a struct is made of it
from psyqueue.kernel.job_handle import JobHandle
from psyqueue.kernel.options import EnqueueOptions, Given, read
from psyqueue.kernel.pipeline import label

if TYPE_CHECKING:
    from psyqueue.kernel.core import Core
    from psyqueue.kernel.sync import SyncHandler

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Call(Struct, Generic[R_co], eq=False):
    """A call that was built and not enqueued: for `enqueue`, `enqueue_bulk` and `ctx.enqueue`."""

    spec: HandlerSpec
    payload: Any
    options: Mapping[str, Any]
    given: Given

    def over(self, payload: Any, options: Mapping[str, Any]) -> Call[R_co]:
        """This call with `options` over its own. Raises PayloadError for a second payload, InvalidOption."""
        if payload is not None:
            raise PayloadError("$", f"the call of {self.spec.name!r} has its payload already; give it to build(...)")
        if not options:
            return self
        merged = {**self.options, **options}
        return Call(self.spec, self.payload, merged, read(merged))

    def __repr__(self) -> str:
        return f"<Call of {self.spec.name!r}>"


class Handler(Generic[P, R]):
    """A registered handler. Calling it calls the function, without any queue."""

    __slots__ = ("_core", "_given", "_options", "_spec")

    def __init__(self, core: Core, spec: HandlerSpec, options: Mapping[str, Any], given: Given) -> None:
        self._core = core
        self._spec = spec
        self._options = options
        self._given = given

    @property
    def name(self) -> str:
        """The name that jobs carry."""
        return self._spec.name

    @property
    def fn(self) -> Callable[..., Any]:
        """The function as it was written."""
        return self._spec.fn

    def options(self, **options: Unpack[EnqueueOptions]) -> Handler[P, R]:
        """A copy that enqueues with these options, over those of this one. Raises InvalidOption."""
        merged = {**self._options, **options}
        return Handler(self._core, self._spec, merged, read(merged))

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Enqueue a call with these arguments. Raises PayloadError where they do not fit, and as PsyQueue.enqueue."""
        payload = self._spec.parameters.bind(args, kwargs)
        return await self._core.enqueuer.enqueue_bound(self._spec, payload, self._options, self._given)

    @property
    def sync(self) -> SyncHandler[P, R]:
        """For programs without asyncio: `handler.sync.enqueue(...)` blocks; see PsyQueue.sync."""
        from psyqueue.kernel.sync import SyncHandler  # noqa: PLC0415 - it is made of this class

        return SyncHandler(self._core.portal, self)

    def build(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """The call as a value. Raises PayloadError where the arguments do not fit."""
        return Call(self._spec, self._spec.parameters.bind(args, kwargs), self._options, self._given)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself, `ctx` included if it takes one, and what is injected.

        Raises TypeError where that is missing: only a run fills it in.
        """
        spec = self._spec
        for name, provider in spec.parameters.injected.items():
            if name not in inspect.signature(spec.fn).bind_partial(*args, **kwargs).arguments:
                raise TypeError(
                    f"handler {spec.name!r} called directly: give {name}=..., which in a run {label(provider)} provides"
                )
        return spec.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Handler {self._spec.name!r} on {self._spec.queue!r}>"


class HandlerDecorator(Protocol):
    """The four shapes of a handler; the async ones come first, else a coroutine would count as the result."""

    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], Awaitable[R]], /) -> Handler[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, Awaitable[R]], /) -> Handler[P, R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], R], /) -> Handler[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Handler[P, R]: ...

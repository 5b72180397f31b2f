"""What stands before an object whose methods have to be awaited: the same methods, as calls that block."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Entrance(Protocol):
    """Where calls that block get into a loop; most are a Portal."""

    def run(self, make: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """The result of `make()`, called and awaited there."""
        ...


class Facade(Generic[T_co]):
    """Stands before an object whose methods have to be awaited."""

    __slots__ = ("_portal", "_target")

    def __init__(self, portal: Entrance, target: T_co) -> None:
        self._portal = portal
        self._target = target


def blocking(method: Callable[Concatenate[T, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[Facade[T], P], R]:
    """The method that calls `method` of the target on its event loop, and waits for the result."""

    @functools.wraps(method)
    def call(self: Facade[T], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._portal.run(lambda: method(self._target, *args, **kwargs))

    return call

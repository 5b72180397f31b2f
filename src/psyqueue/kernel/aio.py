"""The only place that makes tasks outside a TaskGroup, and the only one of the kernel that knows asyncio's seconds."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator
from typing import Any, TypeVar, cast

log: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")

CUT_MS = 1_000
"""For work that was cut, to let go of what it holds."""

_owned: set[asyncio.Task[Any]] = set()


def spawn(
    coro: Coroutine[Any, Any, T], *, name: str, context: contextvars.Context | None = None, is_awaited: bool = False
) -> asyncio.Task[T]:
    """A task that is kept alive until it is done. Its failure is logged, unless the caller hears it (`is_awaited`).

    It runs in a copy of the caller's context, or in `context` itself.
    """
    task = asyncio.get_running_loop().create_task(coro, name=name, context=context)
    _owned.add(task)
    task.add_done_callback(_hear if is_awaited else _report)
    return task


class _NextTurn:
    """Awaiting it lets everything that is ready run once."""

    def __await__(self) -> Generator[None, None, None]:
        yield


_NEXT_TURN = _NextTurn()


def next_turn() -> Awaitable[None]:
    """Awaited, it goes on in the next turn of the loop."""
    return _NEXT_TURN


def at_once(coro: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing, without a loop."""
    try:
        coro.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    coro.close()
    raise RuntimeError(f"{coro} waits for the event loop, which it was said not to do")


class Isolated:
    """Awaiting it runs `coro` in the awaiting task, but in a copy of its context.

    What the coroutine sets in context variables is gone when it ends, as if it had had a task of its own; timeouts and
    task groups inside still find the task that really runs them. A third of the cost of a task (docs/adr/0005).
    A GeneratorExit of its own arrives as a RuntimeError: it would mean that the awaiting task is being closed.
    """

    __slots__ = ("_coro", "_run")

    def __init__(self, coro: Coroutine[Any, Any, T]) -> None:
        self._coro = coro
        self._run = contextvars.copy_context().run

    def __await__(self) -> Generator[Any, Any, Any]:
        run, coro = self._run, self._coro
        step, value = coro.send, None
        try:
            while True:
                try:
                    waits_for = run(step, value)
                except StopIteration as end:
                    return end.value
                except GeneratorExit as exc:
                    if isinstance(value, GeneratorExit):
                        raise  # we are being closed
                    raise RuntimeError(f"a coroutine raised {exc!r}") from exc
                try:
                    step, value = coro.send, (yield waits_for)
                except BaseException as exc:  # noqa: BLE001 - whatever is thrown at us is meant for the coroutine
                    step, value = coro.throw, exc
        finally:
            # An error's traceback holds this frame: a frame that holds the error would keep both, and all they saw.
            value = waits_for = None


def _report(task: asyncio.Task[Any]) -> None:
    _owned.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("background work failed", exc_info=error, extra={"work": task.get_name()})


def _hear(task: asyncio.Task[Any]) -> None:
    """Who was cancelled meanwhile does not need it, and asyncio would tell of it when the task is freed."""
    _owned.discard(task)
    if not task.cancelled():
        task.exception()


async def finish(coro: Coroutine[Any, Any, T], *, on_cancel: Callable[[], None], limit_ms: float) -> T:
    """Run to the end even when cancelled: the first cancel calls `on_cancel`, then there are `limit_ms` left.

    However often the caller is cancelled, the work is cut only at the limit; then CancelledError goes on. A plain
    `shield` and `await` loses the work at the second cancel (measured).
    """
    task = spawn(coro, name="psyqueue-finish", is_awaited=True)
    loop = asyncio.get_running_loop()
    cancelled: asyncio.CancelledError | None = None
    deadline: float | None = None
    is_cut = False
    while not task.done():
        wait_s = None if deadline is None else max(0.0, deadline - loop.time())
        try:
            await asyncio.wait({task}, timeout=wait_s)
        except asyncio.CancelledError as exc:
            if cancelled is None:
                cancelled, deadline = exc, loop.time() + limit_ms / 1000
                on_cancel()
            continue
        if not task.done():
            if is_cut:
                break  # it ignores its cancel: it must not keep the caller
            is_cut, deadline = True, loop.time() + CUT_MS / 1000
            task.cancel()
    if cancelled is not None:
        task.add_done_callback(_report)  # what goes on to the caller is the cancel
        raise cancelled
    return task.result()


async def within_ms(limit_ms: float, work: Awaitable[Any]) -> bool:
    """Await `work`, cut after `limit_ms`. False: it was cut."""
    limit = asyncio.timeout(limit_ms / 1000)
    try:
        async with limit:
            await work
    except TimeoutError:
        if not limit.expired():
            raise
        return False
    return True


async def settle_down(tasks: Collection[asyncio.Task[Any]], limit_ms: float) -> None:
    """Until all of them ended or the time is over; nothing is cancelled, and no failure of theirs is raised."""
    if tasks:
        await asyncio.wait(tasks, timeout=limit_ms / 1000)


def call_later_ms(delay_ms: float, fn: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(delay_ms / 1000, fn, *args)


async def wait_any(*waitables: asyncio.Future[Any], timeout_ms: float | None = None) -> None:
    """Until one is done or the time is over; nothing is cancelled."""
    await asyncio.wait(
        waitables,
        timeout=None if timeout_ms is None else timeout_ms / 1000,
        return_when=asyncio.FIRST_COMPLETED,
    )


def call_in(loop: asyncio.AbstractEventLoop, fn: Callable[..., None], *args: Any) -> None:
    """From any thread into `loop`; a loop that is closed needs nothing any more."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(fn, *args)

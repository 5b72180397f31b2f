"""Events inside the process: whoever wants to know is told, nobody can stop the work by failing or by being slow."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from psyqueue.clock import Clock
from psyqueue.errors import ConfigError
from psyqueue.events import EVENTS, Event
from psyqueue.kernel.aio import spawn
from psyqueue.kernel.pipeline import is_async, label, takes

log: logging.Logger = logging.getLogger(__name__)

Subscriber: TypeAlias = Callable[[Event], Any]

_FAMILIES = frozenset(name.partition(":")[0] for name in EVENTS)
"""Of the kernel's own events; plugins tell theirs under names of their own, which nobody can know."""

BACKLOG_MAX = 1_000
"""Events waiting for one async subscriber; the oldest go (and are counted), so that a stuck one costs no memory."""


class EventBus:
    """`on(pattern, fn)`; the pattern is an event's name with `*` for any text within a segment, or `*` alone for all.

    A plain function is called at once, so it must not block; an async one runs beside the work, event after event.
    `failures` counts subscribers that raised, `dropped` events that an async subscriber was too slow for.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._subscriptions: list[_Subscription] = []
        self._routes: dict[str, tuple[_Subscription, ...]] = {}
        self.failures: int = 0
        self.dropped = 0

    def on(self, pattern: str, fn: Subscriber) -> Callable[[], None]:
        """Call `fn(event)` for every event that matches, until the returned function is called. Raises ConfigError."""
        if not isinstance(pattern, str) or not pattern:
            raise ConfigError(f"event pattern {pattern!r} is not text, e.g. 'job:completed', 'job:*', '*'")
        if not callable(fn) or not takes(fn, 1):
            raise ConfigError(f"event subscriber {fn!r} must be a function of one argument, the event", pattern=pattern)
        kind = _Background if is_async(fn) else _Subscription
        subscription = kind(self, pattern, fn)
        family, colon, _ = pattern.partition(":")
        if colon and family in _FAMILIES and not any(map(subscription.matches, EVENTS)):
            known = ", ".join(name for name in EVENTS if name.startswith(f"{family}:"))
            raise ConfigError(f"there is no event {pattern!r}; there are {known}", pattern=pattern)
        self._subscriptions.append(subscription)
        self._routes = {}

        def unsubscribe() -> None:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)
                self._routes = {}

        return unsubscribe

    def wants(self, event_type: str) -> bool:
        """Whether anybody listens to `event_type`: one look-up, so that nothing is built for nobody."""
        routes = self._routes
        found = routes.get(event_type)
        return bool(self._route(event_type) if found is None else found)

    def publish(self, event_type: str, data: dict[str, Any]) -> None:
        """Tell everybody who listens. Never raises, never waits. Call it on the event loop, after the store's step."""
        found = self._routes.get(event_type)
        if found is None:
            found = self._route(event_type)
        if found:
            event = Event(event_type, self.clock.now_ms(), data)
            for subscription in found:
                subscription.tell(event)

    async def drain(self, limit_ms: int) -> None:
        """Wait until async subscribers have seen everything published so far, `limit_ms` at most; then stop them."""
        running = [task for item in self._subscriptions if (task := item.task) is not None]
        if running:
            await asyncio.wait(running, timeout=limit_ms / 1000)
        for task in running:
            task.cancel()

    def checkpoint(self) -> Callable[[], None]:
        """A function that takes back every subscription made after this call."""
        before = list(self._subscriptions)

        def forget() -> None:
            self._subscriptions = before
            self._routes = {}

        return forget

    def failed(self, subscription: _Subscription, event: Event, error: Exception) -> None:
        """Log and count."""
        self.failures += 1
        log.error(
            "event subscriber failed", exc_info=error, extra={"event": event.type, "subscriber": label(subscription.fn)}
        )

    def _route(self, event_type: str) -> tuple[_Subscription, ...]:
        found = tuple(item for item in self._subscriptions if item.matches(event_type))
        self._routes[event_type] = found
        return found


class _Subscription:
    """A plain function."""

    task: asyncio.Task[None] | None = None

    def __init__(self, bus: EventBus, pattern: str, fn: Subscriber) -> None:
        self._bus = bus
        self._expression = _compile(pattern)
        self.fn = fn

    def matches(self, event_type: str) -> bool:
        return self._expression is None or self._expression.fullmatch(event_type) is not None

    def tell(self, event: Event) -> None:
        try:
            returned = self.fn(event)
            if inspect.iscoroutine(returned):
                returned.close()
                raise TypeError("it returned a coroutine that nobody awaits: subscribe the async function itself")  # noqa: TRY301
        except Exception as exc:  # noqa: BLE001 - whatever a subscriber does must not reach the work
            self._bus.failed(self, event, exc)


class _Background(_Subscription):
    """An async function with a bounded backlog; its task lives while there is something to tell."""

    def __init__(self, bus: EventBus, pattern: str, fn: Callable[[Event], Awaitable[Any]]) -> None:
        super().__init__(bus, pattern, fn)
        self._backlog: deque[Event] = deque()

    def tell(self, event: Event) -> None:
        if len(self._backlog) >= BACKLOG_MAX:
            self._backlog.popleft()
            self._bus.dropped += 1
            if self._bus.dropped % BACKLOG_MAX == 1:
                log.warning("event subscriber is too slow, events dropped", extra={"dropped": self._bus.dropped})
        self._backlog.append(event)
        if self.task is None or self.task.done():
            self.task = spawn(self._work(), name=f"psyqueue-events-{label(self.fn)}")

    async def _work(self) -> None:
        while self._backlog:
            event = self._backlog.popleft()
            try:
                await self.fn(event)
            except Exception as exc:  # noqa: BLE001 - as above
                self._bus.failed(self, event, exc)


def _compile(pattern: str) -> re.Pattern[str] | None:
    """None matches everything."""
    if pattern == "*":
        return None
    return re.compile("[^:]*".join(re.escape(part) for part in pattern.split("*")))

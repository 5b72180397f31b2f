"""What the kernel's tests share: a clock moved by hand, a store that can be made to fail, a queue on it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from psyqueue import EventBus, Kernel, PsyQueue
from psyqueue.backends import memory


class FakeClock:
    """Time moves by sleeping only. `slept` lists how long, in order."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self.wall_ms = now_ms
        self.passed_ms = 0.0
        self.slept: list[float] = []

    def now_ms(self) -> int:
        return self.wall_ms + int(self.passed_ms)

    def mono_ms(self) -> float:
        return self.passed_ms

    async def sleep_ms(self, duration_ms: float) -> None:
        self.slept.append(duration_ms)
        self.passed_ms += duration_ms
        await next_turn()


async def next_turn() -> None:
    """Let everything that is ready run once."""
    turned = asyncio.Event()
    asyncio.get_running_loop().call_soon(turned.set)
    await turned.wait()


class Wrapped:
    """A backend around another one: `before[verb]` gets the arguments first and may raise; calls are kept."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.before: dict[str, Callable[..., Awaitable[None]]] = {}
        self.after: dict[str, Callable[..., Awaitable[None]]] = {}
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def verb(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args))
            if name in self.before:
                await self.before[name](*args)
            answer = await found(*args, **kwargs)
            if name in self.after:
                await self.after[name](*args)
            return answer

        return verb

    def count(self, verb: str) -> int:
        return sum(1 for name, _ in self.calls if name == verb)

    def args(self, verb: str) -> list[tuple[Any, ...]]:
        return [args for name, args in self.calls if name == verb]


class Probe:
    """A plugin that puts a `Wrapped` around the store, at `probe.store` once the queue started."""

    name = "probe"
    store: Wrapped

    def init(self, kernel: Kernel) -> None:
        kernel.wrap_backend(self.wrap)

    def wrap(self, adapter: Any) -> Any:
        self.store = Wrapped(adapter)
        return self.store


def build(*, clock: Any = None, test_clock: bool = False, name: str = "psyqueue") -> tuple[PsyQueue, Probe]:
    """A new queue on a memory store, not started, and the probe in it."""
    probe = Probe()
    queue = PsyQueue(name=name, clock=clock).use(memory(test_clock=test_clock)).use(probe)
    return queue, probe


class Heard:
    """Everything published, as (type, data)."""

    def __init__(self, bus: EventBus, pattern: str = "*") -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        bus.on(pattern, lambda event: self.events.append((event.type, event.data)))

    def types(self) -> list[str]:
        return [event for event, _ in self.events]

    def data(self, event_type: str) -> list[dict[str, Any]]:
        return [data for event, data in self.events if event == event_type]

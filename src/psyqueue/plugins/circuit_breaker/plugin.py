"""`q.use(CircuitBreaker("payments"))`: handlers, or parts of them, that wait while what they depend on is down."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from psyqueue.clock import Duration, to_ms
from psyqueue.errors import ConfigError, InvalidOption, NotStarted, PsyQueueError
from psyqueue.job import name_problem
from psyqueue.kernel.extension import Facade, Kernel, blocking
from psyqueue.outcome import Verdict, is_one_of
from psyqueue.plugins.circuit_breaker.circuit import CircuitView, view_of
from psyqueue.plugins.circuit_breaker.ledger import Ledger
from psyqueue.plugins.circuit_breaker.turnstile import Passage, Rules, Turnstile

_COUNT_MAX: Final = 500


class CircuitBreaker:
    """Puts runs off while what they depend on is down. Add it to a queue with `use`; several have several names.

    `failures` within `within`, over all workers of the store, open the circuit `circuit`. After `reset` as many runs as
    `probes` at a time try: a success closes it, a failure opens it again. What goes through it: all runs of `handlers`
    (names or handlers), and what stands in `async with breaker.call():`. Errors of the types in `ignores` say nothing.
    docs/circuit_breaker.md describes the rest. Raises InvalidOption.
    """

    def __init__(
        self,
        circuit: str,
        *,
        failures: int = 5,
        within: Duration = "1m",
        reset: Duration = "30s",
        probes: int = 1,
        handlers: Iterable[Any] = (),
        ignores: type[BaseException] | Iterable[type[BaseException]] = (),
    ) -> None:
        self.circuit: str = _read_name("circuit", circuit)
        self.name: str = f"circuit-breaker:{self.circuit}"
        self._rules = Rules(
            failures=_read_count("failures", failures),
            within_ms=to_ms("within", within, minimum_ms=1),
            reset_ms=to_ms("reset", reset, minimum_ms=1),
            probes=_read_count("probes", probes),
        )
        self._handlers = _read_handlers(handlers)
        self._ignores = _read_types(ignores)
        self._kernel: Kernel | None = None
        self._turnstile: Turnstile | None = None
        """From the start of the queue to its stop."""

    # ── the plugin ────────────────────────────────────────────────────────────────────────────────────────────────────
    def init(self, kernel: Kernel) -> None:
        """Called by `use`. Raises ConfigError for a second queue."""
        if self._kernel is not None:
            raise ConfigError(f"circuit breaker {self.circuit!r} belongs to another queue: make a new one for this")
        self._kernel = kernel
        kernel.expose(self.name, self)
        kernel.service(self._keep)
        if self._handlers:
            kernel.pipeline("process", self._around)

    def start(self) -> None:
        """Called when the queue starts."""
        self._turnstile = Turnstile(self._door(), self.circuit, self._rules)

    def stop(self) -> None:
        """Called when it stops."""
        if self._turnstile is not None:
            self._turnstile.close()
        self._turnstile = None

    async def _keep(self) -> None:
        await self._entrance().keep()

    async def _around(self, ctx: Any, call_next: Any) -> Any:
        if self._door().handler_of(ctx.job.name) not in self._handlers:
            return await call_next()
        async with self.call():
            result = await call_next()
            if isinstance(result, Verdict):
                raise result
            return result

    # ── use ───────────────────────────────────────────────────────────────────────────────────────────────────────────
    def call(self) -> Passage:
        """`async with breaker.call():` around a call of what may be down, in a handler or anywhere.

        Going in raises CircuitOpen instead; NotStarted before the queue is.
        """
        return Passage(self._entrance(), self._is_failure)

    async def open(self, for_: Duration | None = None) -> CircuitView:
        """Open it by hand, for `reset` or this long; then runs try as ever. Raises StoreError, NamespaceFrozen."""
        lasts_ms = self._rules.reset_ms if for_ is None else to_ms("for_", for_, minimum_ms=1)
        await self._ledger().open(lasts_ms)
        return await self._changed()

    async def close(self) -> CircuitView:
        """Close it by hand: runs go through, and failures are counted from none. Raises StoreError, NamespaceFrozen."""
        await self._ledger().close()
        return await self._changed()

    async def state(self) -> CircuitView:
        """As the store has it. Raises NotStarted, StoreError, InvalidState for one of a later release."""
        return view_of(self.circuit, (await self._ledger().read()).circuit)

    @property
    def sync(self) -> SyncCircuitBreaker:
        """`open`, `close` and `state` for programs without asyncio, as calls that block: `breaker.sync.open(...)`.

        The first call starts the queue, as `q.sync` does. Raises ConfigError before `use`.
        """
        return SyncCircuitBreaker(self._door().portal, self)

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _door(self) -> Kernel:
        if self._kernel is None:
            raise ConfigError(f"circuit breaker {self.circuit!r} belongs to no queue yet: q.use(breaker) first")
        return self._kernel

    def _entrance(self) -> Turnstile:
        self._door()
        if self._turnstile is None:
            text = f"circuit breaker {self.circuit!r} stands before a queue that is not started here"
            raise NotStarted(f'{text}: await q.start(). A handler with mode="process" has none: use handlers=')
        return self._turnstile

    def _ledger(self) -> Ledger:
        return Ledger(self._door(), self.circuit)

    async def _changed(self) -> CircuitView:
        self._entrance().look_soon()
        return await self.state()

    def _is_failure(self, error: BaseException) -> bool:
        """Errors of psyqueue are none of what the handler depends on."""
        if isinstance(error, PsyQueueError) or is_one_of(error, self._ignores):
            return False
        return self._door().is_failure(error)


class SyncCircuitBreaker(Facade[CircuitBreaker]):
    """As CircuitBreaker, with methods that block."""

    __slots__ = ()

    open: Final = blocking(CircuitBreaker.open)
    close: Final = blocking(CircuitBreaker.close)
    state: Final = blocking(CircuitBreaker.state)


def _read_name(option: str, given: Any) -> str:
    problem = name_problem(given)
    if problem:
        raise InvalidOption(option, given, problem)
    return str.__str__(given)  # of a member of an enumeration its value, as names are read elsewhere


def _read_count(option: str, given: Any) -> int:
    if type(given) is not int or not 1 <= given <= _COUNT_MAX:
        raise InvalidOption(option, given, f"is no whole number from 1 to {_COUNT_MAX}")
    return given


def _read_handlers(given: Any) -> frozenset[str]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidOption("handlers", given, "is no list of handlers", 'Give handlers=["charge"]')
    names = (each if isinstance(each, str) else getattr(each, "name", each) for each in given)
    return frozenset(_read_name("handlers", name) for name in names)


def _read_types(given: Any) -> tuple[type[BaseException], ...]:
    listed = (given,) if isinstance(given, type) else tuple(given) if isinstance(given, Iterable) else (given,)
    for each in listed:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise InvalidOption("ignores", given, "is no exception class nor a list of them")
    return listed

"""Lets runs through a circuit, or puts them off: what one process does, with a hint of what the store says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final, Literal, TypeAlias, TypeVar

from msgspec import Struct

from psyqueue.errors import InvalidState, NamespaceFrozen, StoreError
from psyqueue.ids import new_token
from psyqueue.kernel.extension import Kernel
from psyqueue.outcome import Snooze
from psyqueue.plugins.circuit_breaker.circuit import CLOSED, opened
from psyqueue.plugins.circuit_breaker.ledger import Ledger, Seen

log: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")

Ending: TypeAlias = Literal["success", "failure", "neither"]

LOOK_MS: Final = 1_000
"""What other processes did to the circuit is seen within this."""
PROBE_MS: Final = 30_000
"""A run that tries is renewed as long as its process lives; a dead one keeps its place so long."""
PATIENCE_MS: Final = 2_000
"""A run waits so long for a store that does not answer, then it goes on without."""
A_YEAR_MS: Final = 365 * 86_400_000


class CircuitOpen(Snooze):
    """The circuit `circuit` is open: again in `retry_after` seconds. A run that it leaves is put off.

    No attempt is used then. Catch it to do without what is down.
    """

    def __init__(self, circuit: str, retry_after: float) -> None:
        super().__init__(retry_after)
        self.reason: str = f"circuit {circuit!r} is open"
        self.circuit: str = circuit
        self.retry_after: float = retry_after

    def __str__(self) -> str:
        return f"{self.reason}; again in {self.retry_after:.3f} s"


class Rules(Struct, frozen=True, kw_only=True):
    """When it opens, for how long, and how many runs try then."""

    failures: int
    within_ms: int
    reset_ms: int
    probes: int


class Ticket(Struct, frozen=True):
    """Of a run that got through. `period`: the version of the closed circuit that its failure counts for.

    `mark` and `seen` are set where it tries whether a half-open circuit can be closed.
    """

    period: int | None = None
    mark: str = ""
    seen: Seen | None = None


class _Hint(Struct, frozen=True):
    """What the store said `at_ms` of this process's clock: runs get a ticket, or are put off for `wait_ms`."""

    at_ms: float
    ticket: Ticket | None
    wait_ms: float = 0


class Turnstile:
    """Of the circuit `name` in this process, from the start of its queue to its stop."""

    def __init__(self, kernel: Kernel, name: str, rules: Rules) -> None:
        self._kernel = kernel
        self._name = name
        self._rules = rules
        self._ledger = Ledger(kernel, name)
        self._looking = asyncio.Lock()
        self._hint: _Hint | None = None
        self._trying: set[str] = set()
        """Marks of runs of this process."""
        self._is_trying = asyncio.Event()
        self._has_store = True
        self._is_closed = False

    async def enter(self) -> Ticket:
        """Raises CircuitOpen. A closed circuit costs no call, but one a second in a process that is busy."""
        hint = self._fresh()
        if hint is None:
            async with self._looking:  # what many find out at once, one asks
                hint = self._fresh() or await self._look()
        if hint.ticket is not None:
            return hint.ticket
        spread_ms = max(LOOK_MS, self._rules.reset_ms / 2)
        wait_ms = max(LOOK_MS, hint.at_ms + hint.wait_ms - self._kernel.now_ms()) + spread_ms * self._kernel.chance()
        raise CircuitOpen(self._name, round(wait_ms) / 1000)

    async def leave(self, ticket: Ticket, ending: Ending) -> None:
        """The run is over. Raises nothing of the store."""
        if self._is_closed:
            return
        if ticket.mark:
            self._trying.discard(ticket.mark)
            if not self._trying:
                self._is_trying.clear()
            await self._dare(self._tried(ticket, ending))
        elif ending == "failure" and ticket.period is not None and self._is_current(ticket.period):
            await self._dare(self._failed(ticket.period))

    def look_soon(self) -> None:
        """Something was changed in this process."""
        self._hint = None

    def close(self) -> None:
        """The queue stops: of what is still inside nothing is written any more, and its marks run out."""
        self._is_closed = True

    async def keep(self) -> None:
        """Renew the marks of runs that try; for ever."""
        never = asyncio.Event()
        while True:
            await self._kernel.wait(self._is_trying, A_YEAR_MS)
            await self._kernel.wait(never, PROBE_MS / 3)
            for mark in tuple(self._trying):
                await self._dare(self._ledger.renew(mark, PROBE_MS))

    # ── on the way in ─────────────────────────────────────────────────────────────────────────────────────────────────
    def _fresh(self) -> _Hint | None:
        hint = self._hint
        # The clock may have been set back since.
        return hint if hint is not None and 0 <= self._kernel.now_ms() - hint.at_ms < LOOK_MS else None

    async def _look(self) -> _Hint:
        """What the store says; who does not get an answer gets through: a breaker makes nothing worse."""
        hint = await self._dare(self._ask()) or _Hint(self._kernel.now_ms(), Ticket())
        is_place = hint.ticket is not None and bool(hint.ticket.mark)
        self._hint = None if is_place else hint  # a place is for one: the next one has to ask for its own
        return hint

    async def _ask(self) -> _Hint:
        while True:
            seen = await self._ledger.read()
            circuit = seen.circuit
            if circuit.state == "closed":
                # Once for each circuit: then operators see that it is there, and that its name is spelled so.
                known = seen if seen.version else await self._ledger.write(seen, CLOSED)
                if known is not None:
                    return _Hint(self._kernel.now_ms(), Ticket(known.version))
                continue
            mark = new_token()
            wanted = circuit.tried(await self._ledger.alive(circuit.marks), mark, self._rules.probes)
            if wanted is None:
                left_ms = circuit.until_ms - await self._ledger.now_ms() if circuit.state == "open" else 0
                return _Hint(self._kernel.now_ms(), None, min(left_ms, circuit.lasts_ms))
            written = await self._ledger.write(seen, wanted, PROBE_MS)
            if written is not None:
                self._trying.add(mark)
                self._is_trying.set()
                return _Hint(self._kernel.now_ms(), Ticket(mark=mark, seen=written))

    # ── on the way out ────────────────────────────────────────────────────────────────────────────────────────────────
    def _is_current(self, period: int) -> bool:
        """Failures of calls that began before the circuit opened say nothing new."""
        hint = self._fresh()
        return hint is None or (hint.ticket is not None and hint.ticket.period == period)

    async def _failed(self, period: int) -> None:
        rules = self._rules
        if await self._ledger.count_failure(period, rules.within_ms, rules.failures):
            await self._ledger.trip(Seen(CLOSED, period), rules.reset_ms)
            self.look_soon()

    async def _tried(self, ticket: Ticket, ending: Ending) -> None:
        assert ticket.seen is not None
        outcome, lasts_ms = None, self._rules.reset_ms
        if ending == "success":
            outcome = CLOSED
        elif ending == "failure":
            outcome = opened(new_token(), await self._ledger.now_ms(), lasts_ms)
        await self._ledger.settle_mark(ticket.mark, ticket.seen, outcome, lasts_ms)
        self.look_soon()

    async def _dare(self, work: Awaitable[T]) -> T | None:
        """None: the store is away, or does not answer in time. That is told once."""
        try:
            async with asyncio.timeout(PATIENCE_MS / 1000):
                done = await work
        except (StoreError, NamespaceFrozen, InvalidState, TimeoutError) as exc:
            if self._has_store:
                self._has_store = False
                about = {"circuit": self._name, "error": repr(exc)}
                log.warning("a circuit breaker does without its store: runs get through", extra=about)
            return None
        self._has_store = True
        return done


_inside: ContextVar[frozenset[Turnstile]] = ContextVar("psyqueue_turnstiles", default=frozenset())
"""Those that were gone through on the way to here."""


class Passage:
    """One way through: `async with`, once. `is_failure(error)` says whether what came out counts.

    Who is inside goes in once more without being asked or counted: a run that tries would wait for its own place.
    """

    __slots__ = ("_is_failure", "_ticket", "_turnstile")

    def __init__(self, turnstile: Turnstile, is_failure: Callable[[BaseException], bool]) -> None:
        self._turnstile = turnstile
        self._is_failure = is_failure
        self._ticket: Ticket | None = None

    async def __aenter__(self) -> None:
        if self._turnstile not in _inside.get():
            self._ticket = await self._turnstile.enter()
            _inside.set(_inside.get() | {self._turnstile})

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is None:
            return
        _inside.set(_inside.get() - {self._turnstile})
        if not isinstance(error, GeneratorExit):  # being closed, nothing can be awaited
            ending: Ending = "success" if error is None else "failure" if self._is_failure(error) else "neither"
            await self._turnstile.leave(ticket, ending)

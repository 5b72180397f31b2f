"""A circuit in the store. It is one key, changed by compare and set; what has to end by itself are keys that do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct

from psyqueue.backend import BackendAdapter, Effects, StateWrite
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.backend.compose import every_page
from psyqueue.errors import InvalidState, StateConflict
from psyqueue.ids import new_token
from psyqueue.kernel.extension import Kernel
from psyqueue.plugins.circuit_breaker.circuit import CLOSED, Circuit, CircuitView, decoded, encoded, opened, view_of

_PREFIX: Final = "circuit:"
_TRIES: Final = 20
"""Each one that fails means that somebody else changed the circuit: nobody does so without end."""


class Seen(Struct, frozen=True):
    """A circuit as it was read, with its version in the store; 0: it is not there."""

    circuit: Circuit
    version: int


class Ledger:
    """Of the circuit `name`. All of it raises StoreError, and what changes something NamespaceFrozen."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self._kernel = kernel
        self._name = name

    async def read(self) -> Seen:
        """Raises InvalidState for one of a later release."""
        (item,) = await self._kernel.store.read_state((_PREFIX + self._name,))
        return Seen(CLOSED, 0) if item is None else Seen(decoded(self._name, item.value), item.version)

    async def now_ms(self) -> int:
        """Of the store."""
        return (await self._kernel.store.info()).now_ms

    async def alive(self, marks: Sequence[str]) -> set[str]:
        """Those whose time has not run out.

        That of an open circuit is written once, so what is written upon its end holds. A run that tries may renew its
        mark too late: whoever wrote meanwhile has left it out, and nobody asks it any more.
        """
        items = await self._kernel.store.read_state([_mark_key(mark) for mark in marks])
        return {mark for mark, item in zip(marks, items, strict=True) if item is not None}

    async def write(self, seen: Seen, circuit: Circuit, mark_ms: int = 0) -> Seen | None:
        """Make `circuit` of what was seen, and let its new marks live for `mark_ms`. None: somebody else changed it.

        Who made a change tells it, once.
        """
        key, before = _PREFIX + self._name, seen.circuit
        new = [mark for mark in circuit.marks if mark not in before.marks]
        over = [mark for mark in before.marks if mark not in circuit.marks]
        writes = (
            StateWrite(kind="put", key=key, value=encoded(circuit), expected=seen.version),
            *(StateWrite(kind="put", key=_mark_key(mark), ttl_ms=mark_ms) for mark in new),
            *(StateWrite(kind="delete", key=_mark_key(mark)) for mark in over),
        )
        try:
            version, *_ = await self._write(*writes)
        except StateConflict:
            return None
        if circuit.state != before.state:
            self._tell(circuit)
        return Seen(circuit, version)

    async def trip(self, seen: Seen, lasts_ms: int) -> Seen | None:
        """Open what was seen, or keep it open, for that long from now. None: somebody else changed it."""
        return await self.write(seen, opened(new_token(), await self.now_ms(), lasts_ms), lasts_ms)

    async def open(self, lasts_ms: int) -> None:
        """As `trip`, whatever it is."""
        for _ in range(_TRIES):
            if await self.trip(await self.read(), lasts_ms):
                return
        raise self._restless()

    async def close(self) -> None:
        """Close it. One that is closed stays as it is."""
        for _ in range(_TRIES):
            seen = await self.read()
            if seen.circuit.state == "closed" or await self.write(seen, CLOSED):
                return
        raise self._restless()

    async def settle_mark(self, mark: str, seen: Seen, outcome: Circuit | None, lasts_ms: int) -> None:
        """A run that tried is over: make `outcome` of the circuit, or what it is without that run.

        Nothing is done where the circuit went on without it: what it has to say is of no interest any more.
        """
        for _ in range(_TRIES):
            if mark not in seen.circuit.marks:
                return
            if await self.write(seen, outcome or seen.circuit.without(mark), lasts_ms):
                return
            seen = await self.read()

    async def renew(self, mark: str, mark_ms: int) -> None:
        """Let it live on."""
        await self._write(StateWrite(kind="put", key=_mark_key(mark), ttl_ms=mark_ms))

    async def count_failure(self, period: int, within_ms: int, enough: int) -> bool:
        """Note a failure of the time in which the circuit is closed in version `period`. True: that were `enough`.

        Each failure is a key that lives for `within_ms`. A counter that lives as long from the last one on says when
        it is worth to look how many there are: seldom, where failures are.
        """
        prefix = f"circuit-failure:{period}:{self._name}\x1f"
        _, in_a_row = await self._write(
            StateWrite(kind="put", key=prefix + new_token(), ttl_ms=within_ms),
            StateWrite(kind="add", key=f"circuit-failures:{period}:{self._name}", number=1, ttl_ms=within_ms),
        )
        if in_a_row < enough:
            return False
        items, _ = await self._kernel.store.scan_state(prefix, None, enough)
        return len(items) >= enough

    async def _write(self, *writes: StateWrite) -> tuple[int, ...]:
        store = self._kernel.store
        return await self._kernel.operate(lambda op: store.write_state(op, Effects(writes=writes)))

    def _tell(self, circuit: Circuit) -> None:
        events, about = self._kernel.events, {"circuit": self._name}
        match circuit.state:
            case "open":
                events.publish("circuit:opened", {**about, "until_ms": circuit.until_ms})
            case "half-open":
                events.publish("circuit:half-opened", about)
            case "closed":
                events.publish("circuit:closed", about)

    def _restless(self) -> InvalidState:
        return InvalidState(f"circuit {self._name!r} changes all the time: try again")


async def all_circuits(store: BackendAdapter) -> list[CircuitView]:
    """Those that runs came to, by name, as far as this release can read them. Raises StoreError."""
    found: list[CircuitView] = []
    for item in await every_page(lambda cursor: store.scan_state(_PREFIX, cursor, ITEMS_MAX)):
        name = item.key.removeprefix(_PREFIX)
        with suppress(InvalidState):
            found.append(view_of(name, decoded(name, item.value)))
    return found


def _mark_key(mark: str) -> str:
    return f"circuit-mark:{mark}"

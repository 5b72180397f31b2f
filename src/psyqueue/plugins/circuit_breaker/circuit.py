"""A circuit as the store keeps it, how it changes, and how it is shown. Pure."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from psyqueue.clock import to_datetime
from psyqueue.errors import InvalidState

CircuitState: TypeAlias = Literal["closed", "open", "half-open"]

FORMAT = 1


class Circuit(Struct, frozen=True, kw_only=True):
    """One that is not in the store is closed.

    `marks` name keys that live for a time by the store's clock: while it is open the one that keeps it so, while it is
    half-open one for each run that tries. `until_ms` (the store's wall clock) says what nothing depends on: how long
    runs are put off. `lasts_ms`: that can be no longer.
    """

    state: CircuitState = "closed"
    marks: tuple[str, ...] = ()
    until_ms: int = 0
    lasts_ms: int = 0
    format: int = FORMAT

    def tried(self, alive: Collection[str], mark: str, probes: int) -> Circuit | None:
        """With one more run that tries, where of its marks these are `alive`; None: it has to wait."""
        if self.state == "open" and alive:
            return None
        others = tuple(each for each in self.marks if each in alive)
        return Circuit(state="half-open", marks=(*others, mark)) if len(others) < probes else None

    def without(self, mark: str) -> Circuit:
        """As it is when a run has tried and come to nothing."""
        return msgspec.structs.replace(self, marks=tuple(each for each in self.marks if each != mark))


CLOSED = Circuit()


class CircuitView(Struct, frozen=True, kw_only=True):
    """A circuit as it is now. `until`: while it is open no run gets through before; the first one after that tries."""

    name: str
    state: CircuitState
    until: datetime | None


def opened(mark: str, now_ms: int, lasts_ms: int) -> Circuit:
    return Circuit(state="open", marks=(mark,), until_ms=now_ms + lasts_ms, lasts_ms=lasts_ms)


def encoded(circuit: Circuit) -> bytes:
    return msgspec.json.encode(circuit)


def decoded(name: str, value: bytes) -> Circuit:
    """Raises InvalidState for what a later release wrote."""
    try:
        circuit = msgspec.json.decode(value, type=Circuit)
    except msgspec.MsgspecError:
        circuit = Circuit(format=0)
    if circuit.format != FORMAT:
        raise InvalidState(f"circuit {name!r} was written by a later release of psyqueue: use that one")
    return circuit


def view_of(name: str, circuit: Circuit) -> CircuitView:
    """Its public form."""
    until = to_datetime(circuit.until_ms) if circuit.state == "open" else None
    return CircuitView(name=name, state=circuit.state, until=until)

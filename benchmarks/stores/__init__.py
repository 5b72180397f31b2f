"""The stores that are measured: each has its cases, its peers and its lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.spec import Peer, Size, Spec
from benchmarks.stores import sqlite


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """`lines(size)`: every measurement of a whole session; the rounds of a case go through its lines in order.

    `trial`: how a peer with threads finds its best number of them.
    """

    name: str
    peers: tuple[Peer, ...]
    lines: Callable[[Size], list[Spec]]
    trial: Spec

    @property
    def cases(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(spec.case for spec in self.lines("smoke")))


STORES = {
    store.name: store for store in (Store(name="sqlite", peers=sqlite.PEERS, lines=sqlite.lines, trial=sqlite.TRIAL),)
}

"""The stores that are measured: each has its cases, its peers and its lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from types import ModuleType

from benchmarks.binaries import Binary
from benchmarks.spec import OURS, Facts, Peer, Size, Spec
from benchmarks.stores import postgres, redis, sqlite

from benchmarks import postgres_server, redis_server


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What the harness starts for each measurement: the path of a binary, and what it is."""

    path: str
    facts: Facts


def _served(module: ModuleType) -> Server | None:
    found: Binary | None = module.find()
    if found is None:
        return None
    facts = {"version": found.version, "origin": found.origin, "settings": module.SETTINGS}
    return Server(path=str(found.path), facts=facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """`lines(size)`: every measurement of a whole session; the rounds of a case go through its lines in order.

    `trial`: how a peer with threads finds its best number of them. `find`: the server, for a store that has one.
    """

    name: str
    peers: tuple[Peer, ...]
    lines: Callable[[Size], list[Spec]]
    trial: Spec
    find: Callable[[], Server | None] | None = None

    @property
    def cases(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(spec.case for spec in self.lines("smoke")))

    def why_not_ours(self) -> str:
        """Empty: psyqueue has a backend for it."""
        known = {point.name for point in entry_points(group="psyqueue.backends")}
        return "" if self.name in known else f"{OURS} has no backend for it"


STORES = {
    store.name: store
    for store in (
        Store(name="sqlite", peers=sqlite.PEERS, lines=sqlite.lines, trial=sqlite.TRIAL),
        Store(
            name="redis", peers=redis.PEERS, lines=redis.lines, trial=redis.TRIAL, find=partial(_served, redis_server)
        ),
        Store(
            name="postgres",
            peers=postgres.PEERS,
            lines=postgres.lines,
            trial=postgres.TRIAL,
            find=partial(_served, postgres_server),
        ),
    )
}

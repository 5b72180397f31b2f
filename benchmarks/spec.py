"""What one measurement is told, and the lists of them that make up a case."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

Durability: TypeAlias = Literal["full", "normal"]
DURABILITIES: tuple[Durability, ...] = ("full", "normal")
BULK_SIZE = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One measurement in a fresh process. `kind` names the function of the peer's module that makes it.

    `n`: what is counted (jobs, samples, rows). `waiting`: how many jobs lie in the queue at the start, by default `n`.
    `variant` tells lines of one case apart. `threads`: workers of a peer that has threads. `idle_s`: for how long a
    worker at rest is watched. `folder`: for its files.
    """

    case: str
    kind: str
    peer: str
    n: int
    durability: Durability = "full"
    variant: str = ""
    waiting: int = 0
    concurrency: int = 10
    callers: int = 1
    processes: int = 1
    threads: int = 1
    idle_s: float = 0.0
    folder: str = ""

    @property
    def line(self) -> str:
        """The name of its line in results and goals."""
        return " ".join(part for part in (self.case, self.peer, self.durability, self.variant) if part)

    @property
    def stock(self) -> int:
        """Jobs that lie in the queue before the clock starts."""
        return (self.waiting or self.n) if self.kind in STOCKED else 0

    @property
    def place(self) -> Path:
        return Path(self.folder)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        return cls(**json.loads(text))


STOCKED = frozenset(("process", "share", "memory", "calls"))

Facts: TypeAlias = dict[str, Any]
"""What a measurement found: `value` in the unit of its kind, and whatever else is worth keeping."""

UNITS = {
    "process": "jobs/s",
    "share": "jobs/s",
    "enqueue": "jobs/s",
    "bulk": "jobs/s",
    "latency": "ms",
    "latency_between": "ms",
    "memory": "MB",
    "calls": "calls/job",
    "fsync": "fsync/s",
    "insert": "rows/s",
    "move": "rows/s",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything. The peers get less where their rate would make a run last minutes."""

    process: int
    process_huey: int
    process_litequeue: int
    process_persistqueue: int
    enqueue: int
    together: int
    bulk: int
    samples: int
    idle_s: float
    depths: dict[str, int]
    depth_n: int
    memory: int
    calls: int
    rows: int


FULL = Sizes(
    process=100_000,
    process_huey=20_000,
    # Each dequeue of litequeue sorts all that waits: 20,000 would take it minutes. Fewer flatter it.
    process_litequeue=2_000,
    process_persistqueue=20_000,
    enqueue=10_000,
    together=100_000,
    bulk=200_000,
    samples=200,
    idle_s=4.0,
    depths={"100k": 100_000, "1M": 1_000_000},
    depth_n=50_000,
    memory=1_000_000,
    calls=20_000,
    rows=50_000,
)
SMOKE = Sizes(
    process=300,
    process_huey=40,
    process_litequeue=40,
    process_persistqueue=40,
    enqueue=40,
    together=200,
    bulk=2_000,
    samples=3,
    idle_s=0.1,
    depths={"100k": 1_000, "1M": 2_000},
    depth_n=300,
    memory=2_000,
    calls=1_000,
    rows=300,
)

OURS = "psyqueue"
PEERS = {"psyqueue": "psyqueue", "huey": "huey", "litequeue": "litequeue", "persist-queue": "persistqueue"}
"""Peer to the module that has to be there for it. "bare" is SQLite and the disk by themselves, always there."""
CASES = ("limit", "W1", "W2", "W2c", "W2b", "W3", "W4", "W6", "memory", "calls")


def lines(sizes: Sizes) -> list[Spec]:
    """Every measurement of a whole session; the rounds of a case go through its lines in this order."""
    return [*_limits(sizes), *_process(sizes), *_enqueue(sizes), *_latency(sizes), *_depth(sizes), *_others(sizes)]


def _limits(sizes: Sizes) -> list[Spec]:
    found = [Spec(case="limit", kind="fsync", peer="bare", n=sizes.rows, variant="fsync")]
    for durability in DURABILITIES:
        common = Spec(case="limit", kind="insert", peer="bare", n=sizes.rows, durability=durability)
        found += [
            replace(common, callers=1, n=sizes.rows // 10, variant="insert 1"),
            replace(common, callers=100, variant="insert 100"),
            replace(common, kind="move", callers=100, variant="move 100"),
        ]
    return found


def _process(sizes: Sizes) -> list[Spec]:
    found = []
    peers = {
        "huey": sizes.process_huey,
        "litequeue": sizes.process_litequeue,
        "persist-queue": sizes.process_persistqueue,
    }
    for durability in DURABILITIES:
        ours = Spec(case="W1", kind="process", peer=OURS, durability=durability, n=sizes.process)
        found += [replace(ours, concurrency=c, variant=f"c{c}") for c in (10, 100)]
        found += [Spec(case="W1", kind="process", peer=p, durability=durability, n=n) for p, n in peers.items()]
    return found


def _enqueue(sizes: Sizes) -> list[Spec]:
    found = []
    for durability in DURABILITIES:
        one = Spec(case="W2", kind="enqueue", peer=OURS, durability=durability, n=sizes.enqueue)
        found += [replace(one, peer=peer) for peer in PEERS]
        found.append(replace(one, case="W2c", n=sizes.together, callers=100))
        found.append(replace(one, case="W2b", kind="bulk", n=sizes.bulk))
    return found


def _latency(sizes: Sizes) -> list[Spec]:
    one = Spec(case="W3", kind="latency", peer=OURS, n=sizes.samples, variant="own process")
    other = replace(one, kind="latency_between", variant="other process", idle_s=sizes.idle_s)
    found = []
    for spec in (one, other):
        found += [spec, replace(spec, durability="normal"), replace(spec, peer="huey")]
    return found


def _depth(sizes: Sizes) -> list[Spec]:
    one = Spec(case="W4", kind="process", peer=OURS, n=sizes.depth_n)
    return [replace(one, waiting=waiting, variant=name) for name, waiting in sizes.depths.items()]


def _others(sizes: Sizes) -> list[Spec]:
    share = Spec(case="W6", kind="share", peer=OURS, n=sizes.process)
    return [
        *(replace(share, processes=count, variant=f"{count} processes") for count in (1, 2, 4)),
        Spec(case="memory", kind="memory", peer=OURS, n=sizes.memory),
        Spec(case="calls", kind="calls", peer=OURS, n=sizes.calls),
    ]

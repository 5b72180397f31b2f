"""What one measurement is told. The lists of measurements that make up a case are in `stores/`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

Durability: TypeAlias = Literal["full", "normal", "none", "everysec", "durable"]
UNNAMED = ("none", "durable")
"""Durabilities of stores that have one for all or nearly all of their lines."""
Size: TypeAlias = Literal["full", "large", "smoke"]
BULK_SIZE = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One measurement in a fresh process. `kind` names the function of the peer's module that makes it.

    `n`: what is counted (jobs, samples, rows). `waiting`: how many jobs lie in the queue at the start, by default
    `n`. `variant` tells lines of one case apart. `threads`: workers of a peer that has threads. `idle_s`: for how
    long a worker at rest is watched. `payload_bytes`: of each job's JSON, by default one small integer.
    `wait_ms_max`: handlers wait 0, 1, … up to so many milliseconds in turn. `batch`: how many jobs a peer takes at
    once, 0: by its default. `rounds`: of churn, with `n` jobs in all. `old`: another session holds a transaction
    open meanwhile. `limit_s`: no further round after so long. `loop`: the event loop of an asyncio queue. `folder`:
    for its files. `server`: the binary of the store; `url`, `server_pid`: where it runs, known inside of the
    measurement.
    """

    store: str
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
    payload_bytes: int = 0
    wait_ms_max: int = 0
    batch: int = 0
    rounds: int = 1
    old: bool = False
    limit_s: float = 0.0
    loop: Literal["asyncio", "uvloop"] = "asyncio"
    folder: str = ""
    server: str = ""
    url: str = ""
    server_pid: int = 0

    @property
    def line(self) -> str:
        """The name of its line in the results and goals of its store."""
        durability = "" if self.durability in UNNAMED else self.durability
        return " ".join(part for part in (self.case, self.peer, durability, self.variant) if part)

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
    "churn": "of the first round",
    "latency": "ms",
    "latency_between": "ms",
    "memory": "MB",
    "calls": "calls/job",
    "footprint": "bytes/job",
    "echo": "calls/s",
    "fsync": "fsync/s",
    "insert": "rows/s",
    "move": "rows/s",
    "select": "calls/s",
}

OURS = "psyqueue"
BARE = "bare"
"""The store by itself, without a queue: always there."""
ALWAYS = (OURS, BARE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another queue. `packages` are those whose versions are noted.

    `home`: "here", where `module` has to be importable; "own", an environment in the cache with its `requirements`;
    "node", node with the packages of `node/package.json` in the cache, `node` being a folder of `peers`; "tool", a
    program of its name. `threads`: the counts tried at the start of a session for a queue whose workers are threads;
    the fastest is used.
    """

    name: str
    packages: tuple[str, ...]
    home: Literal["here", "own", "node", "tool"] = "here"
    module: str = ""
    node: str = ""
    requirements: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()

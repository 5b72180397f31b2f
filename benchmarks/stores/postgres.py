"""The lines of PostgreSQL. All of them are durable: a commit is on the disk before it is answered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from benchmarks.spec import BARE, OURS, Peer, Size, Spec

GRAPHILE, BOSS, PGQUEUER, PROCRASTINATE, PGBENCH = "graphile-worker", "pg-boss", "pgqueuer", "procrastinate", "pgbench"
PEERS = (
    Peer(name=GRAPHILE, packages=(GRAPHILE, "pg"), home="node", node="postgres"),
    Peer(name=BOSS, packages=(BOSS, "pg"), home="node", node="postgres"),
    Peer(name=PGQUEUER, packages=(PGQUEUER,), module="pgqueuer"),
    Peer(name=PROCRASTINATE, packages=(PROCRASTINATE, "psycopg"), module="procrastinate"),
    Peer(name=PGBENCH, packages=(PGBENCH,), home="tool"),
)
QUEUES = (GRAPHILE, BOSS, PGQUEUER, PROCRASTINATE)
LOCAL_QUEUE = 500
"""Jobs that graphile-worker keeps at hand when it is tuned: 1,000 were no faster, fewer were slower."""
Line = partial(Spec, store="postgres", durability="durable")
TRIAL = Line(case="tune", kind="process", peer=OURS, n=1_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything. `quick`, `slow`: of the others, by their rate; node's needs many (its JIT).

    `churn`: jobs, in so many `rounds`, each peer for `churn_s` at most.
    """

    process: int
    quick: int
    slow: int
    slowest: int
    enqueue: int
    together: int
    bulk: int
    samples: int
    idle_s: float
    depths: dict[str, int]
    depth_n: int
    waits: int
    memory: int
    calls: int
    rows: int
    churn: int
    rounds: int
    churn_s: float


_FULL = Sizes(
    process=40_000,
    quick=10_000,
    slow=4_000,
    slowest=1_500,
    enqueue=2_000,
    together=40_000,
    bulk=100_000,
    samples=200,
    idle_s=3.0,
    depths={"100k": 100_000, "1M": 1_000_000},
    depth_n=40_000,
    waits=20_000,
    memory=200_000,
    calls=20_000,
    rows=20_000,
    churn=200_000,
    rounds=20,
    churn_s=60.0,
)
_LARGE = replace(
    _FULL,
    process=200_000,
    quick=40_000,
    slow=20_000,
    slowest=5_000,
    enqueue=10_000,
    together=200_000,
    bulk=400_000,
    samples=500,
    waits=100_000,
    memory=1_000_000,
    rows=100_000,
    churn_s=300.0,
)
_SMOKE = Sizes(
    process=300,
    quick=120,
    slow=100,
    slowest=60,
    enqueue=20,
    together=200,
    bulk=1_000,
    samples=3,
    idle_s=0.1,
    depths={"100k": 1_000, "1M": 2_000},
    depth_n=300,
    waits=200,
    memory=2_000,
    calls=1_000,
    rows=200,
    churn=400,
    rounds=2,
    churn_s=60.0,
)
SIZES = {"full": _FULL, "large": _LARGE, "smoke": _SMOKE}


def lines(size: Size) -> list[Spec]:
    sizes = SIZES[size]
    return [*_limits(sizes), *_process(sizes), *_enqueue(sizes), *_latency(sizes), *_others(sizes), *_churn(sizes)]


def _limits(sizes: Sizes) -> list[Spec]:
    one = Line(case="limit", kind="select", peer=PGBENCH, n=sizes.rows)
    few = replace(one, kind="insert", n=sizes.rows // 5)
    bare = replace(few, peer=BARE)
    return [
        *(replace(one, callers=count, variant=f"select {count}") for count in (1, 10)),
        *(replace(few, callers=count, variant=f"insert {count}") for count in (1, 10)),
        replace(bare, kind="select", n=sizes.rows, variant="select 1"),
        replace(bare, variant="insert 1"),
        *(replace(bare, n=sizes.rows, callers=count, variant=f"insert {count}") for count in (100, 1_000)),
        *(replace(bare, kind="move", n=sizes.rows, callers=count, variant=f"move {count}") for count in (10, 100)),
    ]


def _process(sizes: Sizes) -> list[Spec]:
    ours = Line(case="W1", kind="process", peer=OURS, n=sizes.process)
    found = []
    for c in (10, 100):
        one = replace(ours, concurrency=c, variant=f"c{c}")
        found += [one, replace(one, peer=GRAPHILE, batch=LOCAL_QUEUE, variant=f"tuned c{c}")]
    return [
        *found,
        replace(ours, peer=GRAPHILE, n=sizes.slow, variant="c10"),
        replace(ours, peer=PGQUEUER, n=sizes.slow),
        replace(ours, peer=PGQUEUER, n=sizes.quick, batch=100, variant="batch 100"),
        replace(ours, peer=PGQUEUER, n=sizes.quick, batch=1_000, variant="batch 1000"),
        replace(ours, peer=BOSS, n=sizes.quick, batch=100, variant="batch 100"),
        replace(ours, peer=BOSS, n=sizes.quick, batch=1_000, variant="batch 1000"),
        replace(ours, peer=BOSS, n=sizes.slowest // 10, variant="c10"),
        replace(ours, peer=PROCRASTINATE, n=sizes.slowest, variant="c10"),
        replace(ours, peer=PROCRASTINATE, n=sizes.slowest, concurrency=100, variant="c100"),
    ]


def _enqueue(sizes: Sizes) -> list[Spec]:
    one = Line(case="W2", kind="enqueue", peer=OURS, n=sizes.enqueue)
    many = replace(one, case="W2c", callers=100, n=sizes.together)
    bulk = replace(one, case="W2b", kind="bulk", n=sizes.bulk)
    return [
        one,
        *(replace(one, peer=peer) for peer in QUEUES),
        many,
        *(replace(many, peer=peer, n=sizes.quick) for peer in QUEUES),
        bulk,
        *(replace(bulk, peer=peer, n=sizes.process) for peer in (GRAPHILE, BOSS, PGQUEUER)),
        replace(bulk, peer=PROCRASTINATE, n=sizes.quick),
    ]


def _latency(sizes: Sizes) -> list[Spec]:
    one = Line(case="W3", kind="latency_between", peer=OURS, n=sizes.samples, idle_s=sizes.idle_s)
    return [one, *(replace(one, peer=peer, batch=100 if peer == BOSS else 0) for peer in QUEUES)]


def _others(sizes: Sizes) -> list[Spec]:
    depth = Line(case="W4", kind="process", peer=OURS, n=sizes.depth_n)
    waits = Line(case="waits", kind="process", peer=OURS, n=sizes.waits, concurrency=100, wait_ms_max=10)
    return [
        *(replace(depth, waiting=waiting, variant=name) for name, waiting in sizes.depths.items()),
        waits,
        replace(waits, peer=GRAPHILE, batch=LOCAL_QUEUE, variant="tuned"),
        replace(waits, peer=PROCRASTINATE, n=sizes.slowest),
        Line(case="memory", kind="memory", peer=OURS, n=sizes.memory),
        Line(case="calls", kind="calls", peer=OURS, n=sizes.calls),
    ]


def _churn(sizes: Sizes) -> list[Spec]:
    one = Line(case="W5", kind="churn", peer=OURS, n=sizes.churn, rounds=sizes.rounds, old=True, limit_s=sizes.churn_s)
    return [
        replace(one, old=False, variant="without"),
        one,
        replace(one, peer=GRAPHILE, batch=LOCAL_QUEUE, variant="tuned"),
        replace(one, peer=PGQUEUER, batch=100, variant="batch 100"),
        replace(one, peer=BOSS, batch=100, variant="batch 100"),
        replace(one, peer=PROCRASTINATE, n=sizes.churn // 10),
    ]

"""The lines of Redis, without persistence unless a line says "everysec"."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.spec import BARE, OURS, Peer, Size, Spec

THREADS = (1, 4, 10, 100)
PEERS = (
    Peer(name="bullmq", packages=("bullmq", "ioredis"), home="node", node="redis"),
    Peer(name="taskiq", packages=("taskiq", "taskiq-redis"), module="taskiq_redis"),
    Peer(name="saq", packages=("saq",), module="saq"),
    Peer(name="streaq", packages=("streaq", "coredis"), module="streaq"),
    Peer(
        name="arq",
        packages=("arq",),
        home="own",
        requirements=("arq==0.28.0", "hiredis>=3", "uvloop>=0.22"),
    ),
    Peer(name="dramatiq", packages=("dramatiq",), module="dramatiq", threads=THREADS),
    Peer(name="celery", packages=("celery", "kombu"), module="celery", threads=THREADS),
    Peer(name="rq", packages=("rq",), module="rq"),
    Peer(name="huey", packages=("huey",), module="huey", threads=THREADS),
)
LOOPED = ("taskiq", "saq", "streaq", "arq")
"""asyncio queues of Python: on uvloop, with the concurrency of the line."""
THREADED = ("dramatiq", "celery", "rq", "huey")
"""With as many threads as are fastest, whatever the concurrency of ours."""
QUICK = ("taskiq", "dramatiq", "huey")
"""Those that make some thousands a second; the others make some hundreds."""
IN_BULK = ("bullmq", "streaq", "rq")
"""One call for many jobs."""
Line = partial(Spec, store="redis", durability="none")
TRIAL = Line(case="tune", kind="process", peer="huey", n=4_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything. Python's queues get less: their rate does not depend on it, node's does (its JIT).

    `process`, `enqueue`: of ours and BullMQ; `quick`, `slow`: of the others, see QUICK.
    """

    process: int
    enqueue: int
    quick: int
    slow: int
    together: int
    bulk: int
    bulk_slow: int
    samples: int
    idle_s: float
    depths: dict[str, int]
    depth_n: int
    memory: int
    calls: int
    footprint: int
    rows: int


_FULL = Sizes(
    process=100_000,
    enqueue=20_000,
    quick=20_000,
    slow=5_000,
    together=100_000,
    bulk=200_000,
    bulk_slow=20_000,
    samples=500,
    idle_s=4.0,
    depths={"100k": 100_000, "1M": 1_000_000},
    depth_n=50_000,
    memory=1_000_000,
    calls=20_000,
    footprint=20_000,
    rows=200_000,
)
_SMOKE = Sizes(
    process=300,
    enqueue=100,
    quick=100,
    slow=100,
    together=200,
    bulk=2_000,
    bulk_slow=100,
    samples=3,
    idle_s=0.1,
    depths={"100k": 1_000, "1M": 2_000},
    depth_n=300,
    memory=2_000,
    calls=1_000,
    footprint=1_000,
    rows=300,
)
SIZES = {"full": _FULL, "large": _FULL, "smoke": _SMOKE}


def lines(size: Size) -> list[Spec]:
    sizes = SIZES[size]
    found = [*_limits(sizes), *_process(sizes), *_enqueue(sizes), *_bulk(sizes), *_latency(sizes), *_others(sizes)]
    return [replace(spec, loop="uvloop") if spec.peer in LOOPED else spec for spec in found]


def _limits(sizes: Sizes) -> list[Spec]:
    common = Line(case="limit", kind="move", peer=BARE, n=sizes.rows)
    return [
        replace(common, kind="echo", n=sizes.rows // 10, variant="echo 1"),
        replace(common, kind="insert", callers=100, variant="insert 100"),
        replace(common, callers=10, variant="move 10"),
        replace(common, callers=100, variant="move 100"),
    ]


def _process(sizes: Sizes) -> list[Spec]:
    ours = Line(case="W1", kind="process", peer=OURS, n=sizes.process)
    found = []
    for c in (10, 100):
        one = replace(ours, concurrency=c, variant=f"c{c}")
        found += [
            one,
            replace(one, loop="uvloop", variant=f"c{c} uvloop"),
            replace(one, peer="bullmq"),
            *_python(one, LOOPED, sizes),
        ]
    written = replace(ours, durability="everysec", variant="c10")
    return [*found, *_python(ours, THREADED, sizes), written, replace(written, peer="bullmq")]


def _each(spec: Spec, peers: Iterable[str]) -> list[Spec]:
    return [replace(spec, peer=peer) for peer in peers]


def _python(spec: Spec, peers: Iterable[str], sizes: Sizes) -> list[Spec]:
    return [replace(spec, peer=peer, n=sizes.quick if peer in QUICK else sizes.slow) for peer in peers]


def _enqueue(sizes: Sizes) -> list[Spec]:
    one = Line(case="W2", kind="enqueue", peer=OURS, n=sizes.enqueue)
    many = replace(one, case="W2c", n=sizes.together, callers=100)
    return [
        *_each(one, (OURS, "bullmq")),
        *_python(one, (*LOOPED, *THREADED), sizes),
        *_each(many, (OURS, "bullmq")),
        *_python(many, LOOPED, sizes),
    ]


def _bulk(sizes: Sizes) -> list[Spec]:
    one = Line(case="W2b", kind="bulk", peer=OURS, n=sizes.bulk)
    return [one, *(replace(one, peer=p, n=sizes.bulk if p == "bullmq" else sizes.bulk_slow) for p in IN_BULK)]


def _latency(sizes: Sizes) -> list[Spec]:
    one = Line(case="W3", kind="latency_between", peer=OURS, n=sizes.samples, idle_s=sizes.idle_s)
    return _each(one, (OURS, *(peer.name for peer in PEERS)))


def _others(sizes: Sizes) -> list[Spec]:
    depth = Line(case="W4", kind="process", peer=OURS, n=sizes.depth_n)
    waits = Line(case="waits", kind="process", peer=OURS, n=sizes.process, concurrency=100, wait_ms_max=10)
    footprint = Line(case="footprint", kind="footprint", peer=OURS, n=sizes.footprint, payload_bytes=200)
    return [
        *(replace(depth, waiting=waiting, variant=name) for name, waiting in sizes.depths.items()),
        *_each(waits, (OURS, "bullmq")),
        *_python(waits, LOOPED, sizes),
        *_each(footprint, (OURS, *(peer.name for peer in PEERS))),
        Line(case="memory", kind="memory", peer=OURS, n=sizes.memory),
        Line(case="calls", kind="calls", peer=OURS, n=sizes.calls),
    ]

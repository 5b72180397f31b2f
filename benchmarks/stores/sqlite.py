"""The lines of SQLite, with both durabilities where they matter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from benchmarks.spec import BARE, OURS, Durability, Peer, Size, Spec

DURABILITIES: tuple[Durability, ...] = ("full", "normal")
PEERS = (
    Peer(name="huey", module="huey", packages=("huey",), threads=(1, 2, 4, 10)),
    Peer(name="litequeue", module="litequeue", packages=("litequeue",)),
    Peer(name="persist-queue", module="persistqueue", packages=("persist-queue",)),
)
Line = partial(Spec, store="sqlite")
TRIAL = Line(case="tune", kind="process", peer="huey", n=3_000)


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


_FULL = Sizes(
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
_SMOKE = Sizes(
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
SIZES = {"full": _FULL, "large": _FULL, "smoke": _SMOKE}


def lines(size: Size) -> list[Spec]:
    sizes = SIZES[size]
    return [*_limits(sizes), *_process(sizes), *_enqueue(sizes), *_latency(sizes), *_depth(sizes), *_others(sizes)]


def _limits(sizes: Sizes) -> list[Spec]:
    found = [Line(case="limit", kind="fsync", peer=BARE, n=sizes.rows, variant="fsync")]
    for durability in DURABILITIES:
        common = Line(case="limit", kind="insert", peer=BARE, n=sizes.rows, durability=durability)
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
        ours = Line(case="W1", kind="process", peer=OURS, durability=durability, n=sizes.process)
        found += [replace(ours, concurrency=c, variant=f"c{c}") for c in (10, 100)]
        found += [Line(case="W1", kind="process", peer=p, durability=durability, n=n) for p, n in peers.items()]
    return found


def _enqueue(sizes: Sizes) -> list[Spec]:
    found = []
    for durability in DURABILITIES:
        one = Line(case="W2", kind="enqueue", peer=OURS, durability=durability, n=sizes.enqueue)
        found += [one, *(replace(one, peer=peer.name) for peer in PEERS)]
        found.append(replace(one, case="W2c", n=sizes.together, callers=100))
        found.append(replace(one, case="W2b", kind="bulk", n=sizes.bulk))
    return found


def _latency(sizes: Sizes) -> list[Spec]:
    one = Line(case="W3", kind="latency", peer=OURS, n=sizes.samples, variant="own process")
    other = replace(one, kind="latency_between", variant="other process", idle_s=sizes.idle_s)
    found = []
    for spec in (one, other):
        found += [spec, replace(spec, durability="normal"), replace(spec, peer="huey")]
    return found


def _depth(sizes: Sizes) -> list[Spec]:
    one = Line(case="W4", kind="process", peer=OURS, n=sizes.depth_n)
    return [replace(one, waiting=waiting, variant=name) for name, waiting in sizes.depths.items()]


def _others(sizes: Sizes) -> list[Spec]:
    share = Line(case="W6", kind="share", peer=OURS, n=sizes.process)
    return [
        *(replace(share, processes=count, variant=f"{count} processes") for count in (1, 2, 4)),
        Line(case="memory", kind="memory", peer=OURS, n=sizes.memory),
        Line(case="calls", kind="calls", peer=OURS, n=sizes.calls),
    ]

"""What a move would do, and what stands in its way. Nothing is changed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from typing import Any

from msgspec import Struct

from psyqueue.backend import (
    PARTS,
    Info,
    JobView,
    Limits,
    Moved,
    MovedFire,
    MovedJob,
    MovedKey,
    MovedLock,
    MovedNeed,
    MovedRecord,
    MovedState,
    MovedStream,
    Part,
    Schedule,
)
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.moving.house import House
from psyqueue.moving.selection import Selection
from psyqueue.words import counted

SHARED_MAX = 10_000
CLOCK_SKEW_MS = 2_000
_ORDER = {"safe": 3, "bounded_loss": 2, "unknown": 1, "lost": 0}
THINGS: tuple[Part, ...] = tuple(part for part in PARTS if part not in ("numbers", "jobs", "needs"))
"""The parts besides jobs."""


class Row(Struct, frozen=True):
    """A line of the table: jobs of one queue and status."""

    queue: str
    status: str
    source: int
    destination: int


class Plan(Struct, frozen=True):
    """`obstacles` keep it from being done; `warnings` are to be read before."""

    rows: list[Row]
    things: dict[Part, int]
    """Other things than jobs, by part."""
    obstacles: list[str]
    warnings: list[str]
    shared: dict[Part, list[str]]
    jobs: int = 0
    """How many jobs would move."""


class Barrier(Struct, frozen=True):
    """What stands in the way, and the keys of other things than jobs that both stores have, by part."""

    obstacles: list[str]
    shared: dict[Part, list[str]]


async def count_jobs(source: House, selection: Selection) -> Counter[tuple[str, str]]:
    """By queue and status; without the ended jobs that are only taken because others need them."""
    infos = [info for info in await source.queues() if selection.takes_queue(info.queue)]
    kinds = [(info.queue, status, n) for info in infos for status, n in info.counts.items()]
    return Counter({(queue, status): n for queue, status, n in kinds if n and selection.takes_status(status)})


async def make_plan(
    source: House, target: House | None, selection: Selection, *, is_merge: bool = False, is_live: bool = False
) -> Plan:
    """`target` None: it is not there yet, and would be made. `is_live`: of a move without a pause."""
    barrier = await find_barrier(source, target, selection, is_merge=is_merge)
    jobs = await count_jobs(source, selection)
    active = sum(n for (_, status), n in jobs.items() if status == "active")
    warnings = [] if is_live else await _at_work(source, active)
    if target is not None:
        warnings += _weaker(await source.backend.info(), await target.backend.info())
    warnings += [f"{part}: {len(keys)} stay as the destination has them" for part, keys in barrier.shared.items()]
    jobs.update(await _needed(source, selection))
    there = Counter() if target is None else await target.counts()
    groups = sorted({*jobs, *there})
    rows = [Row(queue, status, jobs[queue, status], there[queue, status]) for queue, status in groups]
    things: dict[Part, int] = {part: count async for part, count in _things(source, selection) if count}
    return Plan(rows, things, barrier.obstacles, warnings, barrier.shared, jobs.total())


async def find_barrier(source: House, target: House | None, selection: Selection, *, is_merge: bool) -> Barrier:
    """Looks at needs if single queues move, at each job if it is a merge, else at no job at all."""
    obstacles: list[str] = []
    shared: dict[Part, list[str]] = {}
    if not selection.is_whole and (crossing := await _crossing(source, selection)):
        obstacles.append(f"{crossing} needs bind jobs that move to jobs that stay: name their queues, too")
    if target is not None:
        obstacles += await _in_the_way(target, is_merge=is_merge)
        if is_merge:
            shared = await _shared(source, target, selection)
            obstacles += _conflicts(await _ids_of_both(source, target, selection), shared)
    return Barrier(obstacles, shared)


async def _things(source: House, selection: Selection) -> AsyncIterator[tuple[Part, int]]:
    for part in THINGS:
        if part in selection.parts:
            yield part, sum([sum(map(selection.takes, page)) async for page in source.pages(part)])


async def _needed(source: House, selection: Selection) -> Counter[tuple[str, str]]:
    """Ended jobs that are only taken because others need them."""
    counts = await source.counts()
    if all(selection.takes_status(status) for _, status in counts):
        return Counter()
    ids = {need.parent_id async for page in source.pages("needs") for need in page if isinstance(need, MovedNeed)}
    views = [view for view in await _views(source, ids) if not selection.takes_status(view.status)]
    return Counter((view.job.queue, view.status) for view in views if selection.takes_queue(view.job.queue))


async def _ids_of_both(source: House, target: House, selection: Selection) -> list[str]:
    """The first of the ids that jobs of both stores have."""
    found: list[str] = []
    async for page in source.pages("jobs"):
        ids = [item.job.id for item in page if isinstance(item, MovedJob) and selection.takes(item)]
        found += [view.job.id for view in await _views(target, ids)]
        if len(found) >= ITEMS_MAX:
            break
    return found


async def _views(house: House, ids: Iterable[str]) -> list[JobView]:
    """Of those that are there."""
    listed = list(ids)
    views: list[JobView | None] = []
    for first in range(0, len(listed), ITEMS_MAX):
        views += await house.backend.get(listed[first : first + ITEMS_MAX])
    return [view for view in views if view is not None]


async def _crossing(source: House, selection: Selection) -> int:
    """How many needs bind a job that moves to one that stays."""
    count = 0
    async for page in source.pages("needs"):
        needs = [item for item in page if isinstance(item, MovedNeed)]
        views = await _views(source, {job_id for need in needs for job_id in (need.job_id, need.parent_id)})
        stays = {view.job.id for view in views if not selection.takes_queue(view.job.queue)}
        count += sum((need.job_id in stays) != (need.parent_id in stays) for need in needs)
    return count


async def _in_the_way(target: House, *, is_merge: bool) -> list[str]:
    info = await target.backend.info()
    if info.moved_to or info.mode == "draining":
        return [f"{target.address} is {info.mode}, its own jobs go to {info.moved_to or 'nobody knows where'}"]
    if is_merge:
        return []
    if jobs := (await target.counts()).total():
        return [
            f"{target.address} holds {counted(jobs, 'job')} already. Choose an empty store, or add to it with --merge"
        ]
    for part in THINGS:
        async for page in target.pages(part):
            if page:
                return [f"{target.address} is not empty (it has {part}). Choose an empty store, or --merge"]
    return []


def _conflicts(ids_of_both: list[str], shared: dict[Part, list[str]]) -> list[str]:
    words = []
    if ids_of_both:
        ids = ", ".join(ids_of_both[:3])
        words.append(f"{len(ids_of_both)} ids are in both stores ({ids}, …): none of the two jobs may be lost")
    if streams := shared.get("streams"):
        words.append(f"records of the same streams are in both stores ({', '.join(streams[:3])})")
    if sum(map(len, shared.values())) > SHARED_MAX:
        words.append(f"more than {SHARED_MAX:,} keys are in both stores: these two cannot be told apart")
    return words


async def _shared(source: House, target: House, selection: Selection) -> dict[Part, list[str]]:
    """Keys of things that both have, by part."""
    shared: defaultdict[Part, list[str]] = defaultdict(list)
    for part in THINGS:
        if part == "records" or part not in selection.parts:
            continue  # records go with their streams
        there = {key_of(item) async for page in target.pages(part) for item in page}
        async for page in source.pages(part):
            shared[part] += [key_of(item) for item in page if selection.takes(item) and key_of(item) in there]
    return {part: keys for part, keys in shared.items() if keys}


def key_of(item: Moved) -> str:
    """What stands for a thing within its part."""
    match item:
        case Limits():
            return f"{item.queue}\n{item.lane}"
        case Schedule():
            return item.id
        case MovedFire():
            return f"{item.schedule_id}\n{item.nominal_ms}"
        case MovedState():
            return item.item.key
        case MovedStream() | MovedRecord():
            return item.stream
        case MovedLock():
            return item.name
        case MovedKey():
            return item.key
        case _:
            raise AssertionError(f"{type(item).__name__} has no key of its own")


async def _at_work(source: House, active: int) -> list[str]:
    words = []
    if active:
        words.append(
            f"{counted(active, 'job is', 'jobs are')} running: the end is waited for (--wait), or they are --take-over"
        )
    if workers := await source.sessions():
        names = ", ".join(sorted({each.session.worker for each in workers})[:3])
        words.append(
            f"{counted(len(workers), 'worker is', 'workers are')} at work ({names}): "
            "nothing more is given out here, and who asks is told the new address"
        )
    return words


def _weaker(here: Info, there: Info) -> list[str]:
    words = []
    kinds: Any = ("process_crash", "server_crash", "power_loss", "failover")
    for kind in kinds:
        before, after = getattr(here, kind), getattr(there, kind)
        if _ORDER[after] < _ORDER[before]:
            words.append(f"jobs there survive less: {kind.replace('_', ' ')} is {after}, it was {before}")
    skew_ms = there.now_ms - here.now_ms
    if abs(skew_ms) > CLOCK_SKEW_MS:
        words.append(f"the clock there is {skew_ms / 1_000:+.1f} s off: what is due at an instant comes by so much")
    return words

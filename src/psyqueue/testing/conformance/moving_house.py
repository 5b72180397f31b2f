"""Moving house: what one store exports another one of any kind takes in, and nothing is different afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from psyqueue.backend import (
    PARTS,
    Change,
    Dependency,
    Effects,
    Filter,
    Gate,
    Idempotency,
    Moved,
    MovedJob,
    Numbers,
    Part,
    Record,
    Schedule,
    Unique,
)
from psyqueue.backend.bounds import CALL_BYTES_MAX, moved_bytes
from psyqueue.errors import (
    KeyConflict,
    RateLimitError,
)
from psyqueue.job import STATUSES
from psyqueue.testing.conformance.handle import (
    DAY_MS,
    PAGE_MAX,
    Store,
    add,
    dead,
    job,
    put,
    take,
)
from psyqueue.testing.conformance.modes import switch


async def exported(store: Store, part: Part, limit: int = PAGE_MAX) -> list[Any]:
    """The items of all pages."""
    items: list[Moved] = []
    cursor: str | None = None
    while True:
        page = await store.backend.export_part(part, cursor, limit)
        assert len(page.items) <= limit
        assert sum(map(moved_bytes, page.items)) <= CALL_BYTES_MAX
        items += page.items
        cursor = page.cursor
        if cursor is None:
            return items


async def take_in(store: Store, *items: Moved) -> int:
    return await store.backend.import_part(store.op(), items)


async def drop(store: Store, *items: Moved) -> int:
    return await store.backend.drop_part(store.op(), items)


async def move(source: Store, target: Store) -> None:
    """All parts, as a mover does it, small pages."""
    await switch(source, "frozen")
    for part in PARTS:
        cursor: str | None = None
        while True:
            page = await source.backend.export_part(part, cursor, 7)
            await take_in(target, *page.items)
            cursor = page.cursor
            if cursor is None:
                break
    await switch(source, "moved", "elsewhere")
    await switch(target, "open")


async def picture(store: Store) -> dict[Part, list[Moved]]:
    """Everything, in an order that does not depend on the store."""
    return {part: sorted(await exported(store, part), key=repr) for part in PARTS}


async def furnish(store: Store) -> None:
    """Something of everything that a store can hold; no job is active in the end."""
    await store.limit(active_max=50, retain_ended=None)
    await store.limit("other", "gold", weight=3, pending_max=40, starts_per_minute=600, starts_burst=60)
    await store.enqueue(
        job("done", "past"), job("broken", "past"), job("failed", "past", unique=Unique("u-failed")),
        job("gone", "past", unique=Unique("u-gone", while_=(*STATUSES,))),
    )  # fmt: skip
    for delivery in await store.dequeue("past", count=4):
        if delivery.id in ("done", "gone"):
            await store.ack(delivery, b'{"ok":true}')
        elif delivery.id == "broken":
            await store.settle_one(dead(delivery, reason="fatal"))
        else:
            await store.retry(delivery, 60_000)
    await store.enqueue(
        job("first", priority=3, payload="é\\u0000".encode(), lane="gold"), job("second", cold=b'{"meta":{"a":1}}'),
        job("later", delay_ms=DAY_MS, expires_in_ms=2 * DAY_MS), job("unique", unique=Unique("u")),
        job("remembered", idempotency=Idempotency("once")), job("held"), job("withdrawn"),
        job("g1", gate=Gate("g", 2)), job("g2", gate=Gate("g", 2)), job("g3", gate=Gate("g", 2)),
        job("parent"), job("child", needs=(Dependency("parent"), Dependency("done"))),
        job("gold", "other", lane="gold"), job("lost"),
    )  # fmt: skip
    await store.amend(Change(kind="hold"), "held")
    await store.cancel("withdrawn", reason="no more")
    await store.backend.amend(store.op(), Filter(ids=("lost",)), Change(kind="priority", priority=99), None, 1)
    assert [each.id for each in await store.dequeue()] == ["lost"]
    await store.lose()
    schedule = await store.backend.put_schedule(store.op(), Schedule(id="nightly", spec=b'{"cron":"0 3 * * *"}'))
    await store.backend.fire(store.op(), schedule, 5_000, (job("fired", "other", schedule_id="nightly"),), 9_000)
    await store.write(put("plain", b'{"a":1}'), put("short", ttl_ms=DAY_MS), add("n", 41), take("b", 2, capacity=5))
    await store.backend.write_state(store.op(), Effects(records=(Record("log", b"1"), Record("log", b"2", DAY_MS))))
    await store.backend.lock(store.op(), "leader", "a", 60_000)
    await store.backend.lock(store.op(), "free", "a", 60_000)
    await store.backend.lock(store.op(), "free", "a", 0)


async def test_everything_arrives_as_it_was(store: Store, elsewhere: Store) -> None:
    await furnish(store)
    before = await picture(store)
    assert {part for part, items in before.items() if not items} == set(), "furnish() has something of everything"
    # The two clocks of tests start at the same instant: what is left of times that run can be compared.
    await elsewhere.advance(await store.now_ms() - await elsewhere.now_ms())
    await move(store, elsewhere)
    assert await picture(elsewhere) == before
    views = {each: await elsewhere.view(each) for each in await store.walk(Filter())}
    assert {each: replace(view, ready_number=None) for each, view in views.items()} == {
        each: replace(await store.view(each), ready_number=None, blocked_by=view.blocked_by)
        for each, view in views.items()
    }
    infos = [await each.backend.queues("", None, PAGE_MAX) for each in (store, elsewhere)]
    assert infos[0] == infos[1]


@pytest.mark.parametrize("part", PARTS)
async def test_small_pages_give_the_same_each_once(store: Store, part: Part) -> None:
    await furnish(store)
    await switch(store, "frozen")
    every = await exported(store, part)
    assert await exported(store, part, limit=1) == every
    assert await exported(store, part, limit=3) == every


async def test_a_page_is_bounded_in_bytes(store: Store, elsewhere: Store) -> None:
    for number in range(20):
        await store.add(f"{number:02}", payload=b'"' + b"x" * ((1 << 20) - 2) + b'"')
    assert len(await exported(store, "jobs")) == 20
    await move(store, elsewhere)
    assert await elsewhere.count("pending") == 20


async def test_order_is_kept(store: Store, elsewhere: Store) -> None:
    await store.enqueue(*(job(f"{n}", priority=n % 3) for n in range(9)))
    await store.enqueue(*(job(f"lane-{n}", lane="gold") for n in range(3)))
    for delivery in await store.dequeue(count=2):
        await store.retry(delivery)  # behind all others, though made before them
    await store.dequeue(count=2, session="t")
    await store.close_session("t")  # back in front
    wanted = [found.job.job.id for found in await pending_in_order(store)]
    await move(store, elsewhere)
    assert [found.job.job.id for found in await pending_in_order(elsewhere)] == wanted
    assert len(await elsewhere.dequeue_ids()) == 12


class _Placed:
    """A pending job, to be sorted as the store hands them out within a lane."""

    def __init__(self, moved: MovedJob) -> None:
        self.job = moved
        self.place = (moved.job.lane, -moved.job.priority, moved.ready_number)


async def pending_in_order(store: Store) -> list[_Placed]:
    jobs = [_Placed(each) for each in await exported(store, "jobs") if each.status == "pending"]
    return sorted(jobs, key=lambda each: each.place)


async def test_jobs_are_handed_out_in_the_old_order(store: Store, elsewhere: Store) -> None:
    """Also behind numbers that the store gave before, and whatever the order in which they come in."""
    await store.enqueue(*(job(f"{n}") for n in range(6)))
    await store.retry(await store.dequeue_one())
    for part in ("numbers", "jobs"):
        items = await exported(store, part)
        await take_in(elsewhere, *reversed(items))
    await switch(elsewhere, "open")
    assert await elsewhere.dequeue_ids() == ["1", "2", "3", "4", "5", "0"]
    await elsewhere.add("new")
    assert await elsewhere.dequeue_ids() == ["new"]


async def test_numbers_are_raised_and_never_lowered(elsewhere: Store) -> None:
    """A store may draw both from one sequence."""
    assert await take_in(elsewhere, Numbers(50, 40)) == 1
    assert await take_in(elsewhere, Numbers(7, 60)) == 1
    (found,) = await exported(elsewhere, "numbers")
    assert found in (Numbers(50, 60), Numbers(60, 60))
    assert await take_in(elsewhere, Numbers(7, 40)) == 0
    assert await exported(elsewhere, "numbers") == [found]


# ── what follows the move ─────────────────────────────────────────────────────────────────────────────────────────────
async def test_gates_and_needs_go_on(store: Store, elsewhere: Store) -> None:
    await furnish(store)
    await move(store, elsewhere)
    await elsewhere.advance(1)
    assert await elsewhere.statuses("g1", "g2", "g3", "child") == ["pending", "pending", "waiting", "waiting"]
    for delivery in await elsewhere.dequeue(count=PAGE_MAX):
        await elsewhere.ack(delivery)
    assert await elsewhere.statuses("g3", "child") == ["pending", "pending"]
    await elsewhere.amend(Change(kind="unhold"), "held")
    assert await elsewhere.status("held") == "pending"


async def test_keys_go_on(store: Store, elsewhere: Store) -> None:
    await furnish(store)
    await move(store, elsewhere)
    with pytest.raises(KeyConflict):
        await elsewhere.add("another", unique=Unique("u", on_conflict="reject"))
    with pytest.raises(KeyConflict):
        await elsewhere.add("another", unique=Unique("u-gone", on_conflict="reject"))
    assert (await elsewhere.add("another", idempotency=Idempotency("once"))).job_id == "remembered"
    assert not (await elsewhere.add("done", "past")).created
    await elsewhere.cancel("unique")
    assert (await elsewhere.add("another", unique=Unique("u", on_conflict="reject"))).created


async def test_shared_state_goes_on(store: Store, elsewhere: Store) -> None:
    await furnish(store)
    await move(store, elsewhere)
    assert await elsewhere.write(put("plain", expected=1), add("n")) == (2, 42)
    assert await elsewhere.write(take("b", 3, capacity=5)) == (0,)
    with pytest.raises(RateLimitError):
        await elsewhere.write(take("b", capacity=5))
    await elsewhere.backend.write_state(elsewhere.op(), Effects(records=(Record("log", b"3"),)))
    assert [each.seq for each in await elsewhere.backend.read_records("log", 0, 9)] == [1, 2, 3]
    taken = await elsewhere.backend.lock(elsewhere.op(), "leader", "b", 1_000)
    assert (taken.fence, taken.holder) == (None, "a")
    assert (await elsewhere.backend.lock(elsewhere.op(), "free", "b", 1_000)).fence == 2
    await elsewhere.advance(DAY_MS)
    assert await elsewhere.read("short") is None


async def test_schedules_do_not_fire_twice(store: Store, elsewhere: Store) -> None:
    await furnish(store)
    await move(store, elsewhere)
    (schedule,) = (await elsewhere.backend.list_schedules(None, 9))[0]
    assert (schedule.next_at_ms, schedule.last_nominal_ms) == (9_000, 5_000)
    assert not await elsewhere.backend.fire(elsewhere.op(), schedule, 5_000, (job("again"),), 9_000)
    assert await elsewhere.backend.fire(elsewhere.op(), schedule, 9_000, (job("next"),), None)


@pytest.mark.parametrize(
    "changes",
    [
        {"priority": 1}, {"max_retries": 1}, {"max_lost": 1}, {"lane": "gold"}, {"schedule_id": "nightly"},
        {"unique": Unique("u")}, {"idempotency": Idempotency("i")}, {"gate": Gate("g")}, {"cold": b'{"a":1}'},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
async def test_a_job_may_be_enqueued_with_one_thing_alone(
    store: Store, elsewhere: Store, changes: dict[str, Any]
) -> None:
    await store.enqueue(job("a"))
    (plain,) = await exported(store, "jobs")
    await arrives(elsewhere, replace(plain, job=replace(plain.job, **changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"fence": 1}, {"generation": 1, "errors": (b"{}",)}, {"attempt": 1, "fence": 1, "started_at_ms": 7},
        {"lost": 1}, {"held": True}, {"reason": "so"}, {"expires_at_ms": 1 << 41}, {"created_at_ms": 7},
        {"status": "completed", "ready_number": None, "completed_at_ms": 7, "result": b"1"},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
async def test_one_thing_alone_may_have_happened_to_a_job(
    store: Store, elsewhere: Store, changes: dict[str, Any]
) -> None:
    await store.enqueue(job("a"))
    (plain,) = await exported(store, "jobs")
    await arrives(elsewhere, replace(plain, **changes))


async def arrives(elsewhere: Store, moved: MovedJob) -> None:
    await take_in(elsewhere, moved)
    (found,) = await exported(elsewhere, "jobs")
    assert replace(found, number=moved.number, ready_number=moved.ready_number) == moved


async def test_jobs_are_handed_out_by_their_numbers_in_whatever_order_they_came(store: Store, elsewhere: Store) -> None:
    await store.enqueue(job("a"))
    (plain,) = await exported(store, "jobs")

    def numbered(*numbers: int) -> list[MovedJob]:
        new = [replace(plain.job, id=f"n{number:02}") for number in numbers]
        return [replace(plain, job=job, number=n, ready_number=n) for job, n in zip(new, numbers, strict=True)]

    assert await take_in(elsewhere, Numbers(100, 100), *numbered(20)) == 2
    assert await take_in(elsewhere, *numbered(30, 40)) == 2
    assert await take_in(elsewhere, *numbered(35, 10)) == 2
    assert await take_in(elsewhere, *numbered(50, 50)) == 1
    assert await take_in(elsewhere, *numbered(70, 60)) == 2
    assert await take_in(elsewhere, *numbered(20, 80)) == 1
    await switch(elsewhere, "open")
    assert await elsewhere.dequeue_ids(count=9) == ["n10", "n20", "n30", "n35", "n40", "n50", "n60", "n70", "n80"]


async def test_attempts_losses_and_errors_go_on(store: Store, elsewhere: Store) -> None:
    await furnish(store)
    await move(store, elsewhere)
    before = await elsewhere.view("failed")
    assert (before.attempt, len(before.errors), before.status) == (1, 1, "scheduled")
    assert (await elsewhere.view("lost")).lost == 1
    await elsewhere.advance(60_000)
    (delivery,) = await elsewhere.dequeue("past", count=9)
    assert (delivery.id, delivery.attempt) == ("failed", 2)
    assert delivery.fence > before.fence


async def test_a_move_can_go_on_to_a_third_place_and_back(store: Store, elsewhere: Store) -> None:
    await furnish(store)
    before = await picture(store)
    await switch(store, "frozen")
    for part in PARTS:
        await take_in(elsewhere, *(await exported(store, part)))
    for part in reversed(PARTS):
        items = await exported(store, part)
        dropped = await drop(store, *items)
        assert dropped == (0 if part in ("numbers", "needs") else len(items)), part
    assert {part: items for part, items in (await picture(store)).items() if items} == {"numbers": before["numbers"]}
    assert await store.broken() == []
    for part in PARTS:
        await take_in(store, *(await exported(elsewhere, part)))
    assert {part: len(items) for part, items in (await picture(store)).items()} == {
        part: len(items) for part, items in before.items()
    }


# ── once ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_taken_in_twice_is_taken_in_once(store: Store, elsewhere: Store) -> None:
    await furnish(store)
    await switch(store, "frozen")
    news = []
    for turn in range(2):
        for part in PARTS:
            items = await exported(store, part)
            new = await take_in(elsewhere, *items)
            news.append((turn, part, new == (len(items) if turn == 0 else 0)))
    assert [each for each in news if not each[2]] == []
    assert await elsewhere.count("pending") == await store.count("pending")


async def test_the_same_op_gives_the_same_reply(store: Store, elsewhere: Store) -> None:
    await store.enqueue(job("a"), job("b"))
    items = await exported(store, "jobs")
    op = elsewhere.op()
    assert await elsewhere.backend.import_part(op, items) == 2
    assert await elsewhere.backend.import_part(op, items) == 2
    op = elsewhere.op()
    assert await elsewhere.backend.drop_part(op, items[:1]) == 1
    assert await elsewhere.backend.drop_part(op, items[:1]) == 1
    assert await elsewhere.statuses("a", "b") == [None, "pending"]

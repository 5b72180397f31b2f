"""Limits and lanes: pauses, running at once, starts per minute, room for new jobs, shares."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from psyqueue.backend import SETTINGS, UNTIL_RESUMED, Dependency, Effects, Limits
from psyqueue.backend.compose import limits_of
from psyqueue.errors import QueueFull
from psyqueue.testing.conformance.handle import DAY_MS, PAGE_MAX, Store, ack, job, put, release, retry

_OTHERS: dict[str, Any] = {
    "paused_until_ms": UNTIL_RESUMED,
    "weight": 3,
    "active_max": 4,
    "starts_per_minute": 5,
    "starts_burst": 6,
    "pending_max": 7,
    "retain_ended": None,
    "retain_dead": (8, 9),
}
WHERE = pytest.mark.parametrize("lane", [None, "", "t"], ids=["queue", "default lane", "lane"])


async def drain(store: Store, count: int = 1) -> list[str]:
    """Dequeue and ack `count` at a time until nothing comes."""
    done: list[str] = []
    while True:
        deliveries = await store.dequeue(count=count)
        if not deliveries:
            return done
        await store.settle(*(ack(each) for each in deliveries))
        done += [each.id for each in deliveries]


# ── setting them ──────────────────────────────────────────────────────────────────────────────────────────────────────
@WHERE
@pytest.mark.parametrize("name", SETTINGS)
async def test_what_is_not_named_stays(store: Store, lane: str | None, name: str) -> None:
    """Two who change different settings at once both have their way."""
    before = Limits(queue="q", lane=lane, **_OTHERS)
    await store.backend.put_limits(store.op(), (before,))
    await store.backend.put_limits(store.op(), (Limits(queue="q", lane=lane),), only=(name,))
    expected = replace(before, **{name: getattr(Limits(queue="q"), name)})
    assert await limits_of(store.backend, "q", lane) == expected


@WHERE
async def test_what_is_named_alone_stands_on_the_defaults(store: Store, lane: str | None) -> None:
    """Also if the caller gave more."""
    given = Limits(queue="q", lane=lane, **_OTHERS)
    await store.backend.put_limits(store.op(), (given,), only=("active_max", "retain_dead"))
    expected = Limits(queue="q", lane=lane, active_max=_OTHERS["active_max"], retain_dead=_OTHERS["retain_dead"])
    assert await limits_of(store.backend, "q", lane) == expected


# ── pause ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
@WHERE
async def test_what_is_paused_is_not_dequeued(store: Store, lane: str | None) -> None:
    await store.fill(2, lane=lane or "")
    running = await store.dequeue_one()
    await store.limit(lane=lane, paused_until_ms=UNTIL_RESUMED)
    assert await store.dequeue() == ()
    assert (await store.ack(running)).verdict == "ok"
    assert (await store.add("new", lane=lane or "")).status == "pending"
    assert await store.dequeue() == ()
    place = "queue" if lane is None else "lane"
    assert f"paused:{place}" in (await store.view("new")).blocked_by
    await store.limit(lane=lane)
    assert await store.dequeue_ids() == ["q-0001", "new"]


@WHERE
async def test_a_pause_with_an_end_ends_by_itself(store: Store, lane: str | None) -> None:
    await store.add("a", lane=lane or "")
    await store.limit(lane=lane, paused_until_ms=await store.now_ms() + 1_000)
    await store.advance(999)
    assert await store.dequeue() == ()
    await store.advance(1)
    assert await store.dequeue_ids() == ["a"]


async def test_a_paused_lane_or_queue_does_not_stop_the_others(store: Store) -> None:
    await store.enqueue(job("a", lane="t"), job("b", lane="u"), job("c"), job("d", "other", lane="t"))
    await store.limit(lane="t", paused_until_ms=UNTIL_RESUMED)
    assert sorted(await store.dequeue_ids("q", "other")) == ["b", "c", "d"]
    assert await store.status("a") == "pending"


async def test_a_paused_queue_passes_the_turn_to_the_next(store: Store) -> None:
    await store.enqueue(job("a"), job("b", "other"))
    await store.limit(paused_until_ms=UNTIL_RESUMED)
    assert await store.dequeue_ids("q", "other") == ["b"]


# ── running at once ───────────────────────────────────────────────────────────────────────────────────────────────────
@WHERE
async def test_no_more_than_active_max_run_at_once(store: Store, lane: str | None) -> None:
    await store.fill(5, lane=lane or "")
    await store.limit(lane=lane, active_max=2)
    a, b = await store.dequeue(count=5)
    assert await store.dequeue(count=5) == ()
    assert f"limit:{'queue' if lane is None else 'lane'}" in (await store.view("q-0002")).blocked_by
    reply = await store.settle(ack(a), fetch=store.fetch(count=5))
    assert [each.id for each in reply.deliveries] == ["q-0002"]
    await store.settle(retry(b, 10_000))
    assert await store.dequeue_ids() == ["q-0003"]


async def test_places_of_lost_jobs_are_free_again(store: Store) -> None:
    await store.fill(3)
    await store.limit(active_max=1)
    await store.dequeue_one()
    await store.lose()
    assert await store.dequeue_ids(count=3, session="t") == ["q-0000"]


async def test_the_limit_of_a_lane_and_of_its_queue_hold_together(store: Store) -> None:
    await store.enqueue(*(job(f"{lane}{number}", lane=lane) for lane in "tu" for number in range(4)))
    await store.limit(active_max=3)
    await store.limit(lane="t", active_max=1)
    ids = await store.dequeue_ids()
    assert sorted(ids) == ["t0", "u0", "u1"]


async def test_active_max_zero_stops_a_queue(store: Store) -> None:
    await store.add("a")
    await store.limit(active_max=0)
    assert await store.dequeue() == ()


# ── starts per minute ─────────────────────────────────────────────────────────────────────────────────────────────────
@WHERE
async def test_starts_are_bounded_by_a_token_bucket(store: Store, lane: str | None) -> None:
    await store.fill(10, lane=lane or "")
    await store.limit(lane=lane, starts_per_minute=60, starts_burst=2)
    assert len(await store.dequeue(count=5)) == 2
    assert await store.dequeue(count=5) == ()
    assert f"rate:{'queue' if lane is None else 'lane'}" in (await store.view("q-0005")).blocked_by
    await store.advance(999)
    assert await store.dequeue() == ()
    await store.advance(1)
    assert len(await store.dequeue(count=5)) == 1
    await store.advance(60_000)
    assert len(await store.dequeue(count=5)) == 2


async def test_the_highest_rate_holds_after_the_longest_rest(store: Store) -> None:
    """Years at a billion a minute are more than 64 bits hold."""
    await store.limit(starts_per_minute=1_000_000_000, starts_burst=2)
    await store.fill(8)
    assert len(await store.dequeue(count=1)) == 1
    for _ in range(2):
        await store.advance(3_000 * DAY_MS)
        assert len(await store.dequeue(count=5)) == 2


async def test_a_rate_holds_over_any_window(store: Store) -> None:
    """In w milliseconds no more than burst + rate·w start."""
    await store.fill(200)
    await store.limit(starts_per_minute=600, starts_burst=5)
    starts: list[int] = []
    for number in range(300):
        starts += [number * 37] * len(await store.dequeue(count=10))
        await store.advance(37)
    for left in range(len(starts)):
        for right in range(left, len(starts)):
            assert right - left + 1 <= 5 + (starts[right] - starts[left]) / 100
    assert len(starts) >= 300 * 37 // 100


async def test_a_clock_that_goes_back_gives_no_starts(store: Store) -> None:
    await store.fill(5)
    await store.limit(starts_per_minute=60, starts_burst=1)
    await store.dequeue_one()
    await store.advance(-3_600_000)
    assert await store.dequeue() == ()
    await store.advance(1_000)
    assert len(await store.dequeue(count=5)) == 1


# ── room for new jobs ─────────────────────────────────────────────────────────────────────────────────────────────────
@WHERE
async def test_a_full_queue_or_lane_refuses_new_jobs(store: Store, lane: str | None) -> None:
    name = lane or ""
    await store.limit(lane=lane, pending_max=3)
    await store.enqueue(job("p", lane=name), job("s", lane=name, delay_ms=60_000))
    await store.enqueue(job("w", lane=name, needs=(Dependency("p"),)))
    with pytest.raises(QueueFull):
        await store.add("x", lane=name)
    await store.dequeue_one()
    assert (await store.add("y", lane=name)).created


async def test_a_batch_that_does_not_fit_is_refused_whole(store: Store) -> None:
    await store.limit(pending_max=2)
    with pytest.raises(QueueFull):
        await store.enqueue(job("a"), job("b"), job("c"), effects=Effects(writes=(put("k"),)))
    assert await store.statuses("a", "b", "c") == [None] * 3
    assert await store.read("k") is None
    await store.enqueue(job("a"), job("b"))


async def test_a_full_lane_does_not_close_the_queue(store: Store) -> None:
    await store.limit(lane="t", pending_max=1)
    await store.add("a", lane="t")
    assert (await store.add("b", lane="u")).created
    assert (await store.add("c")).created
    with pytest.raises(QueueFull):
        await store.add("d", lane="t")


async def test_what_is_there_already_needs_no_room(store: Store) -> None:
    await store.add("a")
    await store.limit(pending_max=1)
    assert not (await store.add("a")).created


async def test_jobs_that_come_back_need_no_room(store: Store) -> None:
    await store.fill(2)
    a, b = await store.dequeue(count=2)
    await store.limit(pending_max=1)
    await store.add("x")
    await store.settle(retry(a), release(b))
    assert await store.statuses(a.id, b.id, "x") == ["scheduled", "pending", "pending"]


# ── shares ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_lanes_of_equal_weight_take_turns(store: Store) -> None:
    await store.enqueue(*(job(f"t{number}", lane="t") for number in range(6)))
    await store.enqueue(*(job(f"u{number}", lane="u") for number in range(3)), job("d0"))
    order = await store.dequeue_ids()
    assert {order[0][0], order[1][0], order[2][0]} == {"t", "u", "d"}
    assert [each for each in order if each[0] == "t"] == [f"t{number}" for number in range(6)]
    assert order.index("u2") <= 7


@pytest.mark.parametrize("count", [1, 7, 100])
async def test_lanes_share_by_weight(store: Store, count: int) -> None:
    await store.limit(lane="big", weight=3)
    await store.limit(lane="small", weight=1)
    await store.enqueue(*(job(f"b{number:03}", lane="big") for number in range(90)))
    await store.enqueue(*(job(f"s{number:03}", lane="small") for number in range(90)))
    order: list[str] = []
    while len(order) < 100:
        deliveries = await store.dequeue(count=min(count, 100 - len(order)))
        await store.settle(*(ack(each) for each in deliveries))
        order += [each.id for each in deliveries]
    for window in range(4, 100):
        share = sum(each[0] == "b" for each in order[:window])
        assert abs(share - window * 3 / 4) <= 1, order[:window]


async def test_shares_hold_up_to_the_highest_weight(store: Store) -> None:
    await store.limit(lane="a", weight=10_000)
    await store.limit(lane="b", weight=2_500)
    for lane in "ab":
        await store.enqueue(*(job(f"{lane}{number}", lane=lane) for number in range(50)))
    started = await store.dequeue_ids(count=50)
    assert [each[0] for each in started].count("b") == 10


async def test_a_lane_with_one_job_waits_one_round_behind_a_crowd(store: Store) -> None:
    await store.enqueue(*(job(f"x{number:03}", lane="crowd") for number in range(400)))
    await store.settle(*(ack(each) for each in await store.dequeue(count=100)))
    await store.add("lone", lane="lone")
    assert "lone" in await store.dequeue_ids(count=2)


async def test_a_lane_saves_up_nothing_while_it_is_empty(store: Store) -> None:
    await store.add("t-first", lane="t")
    await store.run()
    await store.enqueue(*(job(f"u{number:03}", lane="u") for number in range(100)))
    await store.settle(*(ack(each) for each in await store.dequeue(count=50)))
    await store.enqueue(*(job(f"t{number:03}", lane="t") for number in range(50)))
    order = await store.dequeue_ids(count=20)
    assert abs(sum(each[0] == "t" for each in order) - 10) <= 1, order


async def test_priority_is_strict_within_a_lane_and_silent_between_lanes(store: Store) -> None:
    await store.enqueue(job("t1", lane="t", priority=9), job("t2", lane="t", priority=99), job("u1", lane="u"))
    order = await store.dequeue_ids()
    assert order.index("t2") < order.index("t1")
    assert order.index("u1") < 2


async def test_lanes_of_different_queues_do_not_know_each_other(store: Store) -> None:
    await store.enqueue(*(job(f"q{number}", lane="t") for number in range(5)))
    await drain(store)
    await store.enqueue(job("r1", "r", lane="t"), job("r2", "r", lane="u"))
    assert len(await store.dequeue_ids("r")) == 2


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_limits_are_replaced_whole(store: Store) -> None:
    await store.limit(active_max=1, pending_max=5)
    await store.limit(weight=2)
    info = await store.queue()
    assert info is not None
    assert info.limits == Limits(queue="q", weight=2)


async def test_limits_of_several_places_are_put_in_one_step(store: Store) -> None:
    settings: list[Limits] = [Limits(queue=name, active_max=number) for number, name in enumerate("abc")]
    await store.backend.put_limits(store.op(), settings, Effects(jobs=(job("j"),), writes=(put("k"),)))
    infos, _ = await store.backend.queues("", None, PAGE_MAX)
    found: dict[str, Any] = {info.queue: info.limits.active_max for info in infos if info.queue != "q"}
    assert found == {"a": 0, "b": 1, "c": 2}
    assert await store.status("j") == "pending"
    assert await store.read("k") is not None


async def lanes_of(store: Store, queue: str = "q", prefix: str = "", page: int = 2) -> list[Limits]:
    """All settings of lanes, in pages."""
    found: list[Limits] = []
    cursor: str | None = None
    while True:
        items, cursor = await store.backend.lane_limits(queue, prefix, cursor, page)
        assert len(items) <= page
        found += items
        if cursor is None:
            return found


async def test_limits_of_lanes_are_read_back_as_they_were_put(store: Store) -> None:
    every: dict[str, Any] = {"weight": 3, "active_max": 0, "starts_per_minute": 60, "starts_burst": 5, "pending_max": 7}
    put_ones = [
        Limits(queue="q", active_max=9),
        Limits(queue="q", lane="", paused_until_ms=UNTIL_RESUMED),
        Limits(queue="q", lane="t", paused_until_ms=await store.now_ms() + 1_000, **every),
        Limits(queue="q", lane="u", retain_dead=None),
    ]
    await store.backend.put_limits(store.op(), put_ones)
    assert await lanes_of(store) == put_ones[1:]
    await store.limit(lane="t", weight=2)
    assert (await lanes_of(store))[1] == Limits(queue="q", lane="t", weight=2)
    await store.add("a", lane="v")
    assert [limits.lane for limits in await lanes_of(store)] == ["", "t", "u"], "only those that were given some"
    assert await lanes_of(store, "other") == []


@WHERE
@pytest.mark.parametrize("only", [(), ("active_max", "starts_per_minute")], ids=["all", "some"])
async def test_what_is_all_back_at_the_defaults_is_forgotten(
    store: Store, lane: str | None, only: tuple[str, ...]
) -> None:
    """A store whose tenants come and go would keep a trace of each."""
    given = Limits(queue="r", lane=lane, active_max=1, starts_per_minute=1)
    await store.backend.put_limits(store.op(), (given, Limits(queue="q", active_max=1)))
    await store.add("a", queue="r", lane=lane or "")
    assert await store.dequeue_ids("r") == ["a"]
    lifted = Limits(queue="r", lane=lane)
    await store.backend.put_limits(store.op(), (lifted,), only=only)
    assert await lanes_of(store, "r") == []
    assert await limits_of(store.backend, "r", lane) == lifted
    exported = await store.backend.export_part("limits", None, PAGE_MAX)
    assert exported.items == (Limits(queue="q", active_max=1),)
    # With it goes what its rate had used up.
    await store.backend.put_limits(store.op(), (given,), only=("starts_per_minute",))
    await store.add("b", queue="r", lane=lane or "")
    assert await store.dequeue_ids("r") == ["b"]


@WHERE
async def test_limits_that_are_lifted_where_there_were_none_change_nothing(store: Store, lane: str | None) -> None:
    """A step that changed nothing records nothing: an older one of its channel may still come again."""
    first = store.op()
    lifted = (Limits(queue="r", lane=lane),)
    await store.backend.enqueue(first, (job("a"),))
    await store.backend.put_limits(store.op(), lifted)
    assert [each.created for each in await store.backend.enqueue(first, (job("a"),))] == [True]


@WHERE
async def test_a_queue_without_jobs_is_known_as_long_as_it_has_limits(store: Store, lane: str | None) -> None:
    other = None if lane is not None else "u"

    async def known() -> list[str]:
        return [info.queue for info in (await store.backend.queues("r", None, PAGE_MAX))[0]]

    await store.backend.put_limits(store.op(), [Limits(queue="r", lane=each, weight=2) for each in (lane, other)])
    assert await known() == ["r"]
    await store.backend.put_limits(store.op(), (Limits(queue="r", lane=lane),))
    assert await known() == ["r"]
    await store.backend.put_limits(store.op(), (Limits(queue="r", lane=other),))
    assert await known() == []
    await store.add("a", queue="r")
    assert await known() == ["r"]


async def test_limits_of_lanes_are_listed_by_lane_by_prefix_and_in_pages(store: Store) -> None:
    lanes = ["", "a", "aa", "ab", "b", "a%", "a_x", "A", "ä", "1:q", "a:b"]
    others = ("other", "qa", "")
    await store.backend.put_limits(store.op(), [Limits(queue="q", lane=lane, weight=2) for lane in lanes])
    await store.backend.put_limits(store.op(), [Limits(queue=f"{name}q", lane="a") for name in others if name])
    for prefix in ("", "a", "aa", "a%", "a_", "a:", "zz"):
        wanted = sorted(lane for lane in lanes if lane.startswith(prefix))
        for page in (1, 2, 500):
            assert [limits.lane for limits in await lanes_of(store, prefix=prefix, page=page)] == wanted


async def test_limits_of_lanes_are_read_in_every_mode_and_gone_when_dropped(store: Store) -> None:
    await store.limit(lane="t", weight=2)
    await store.limit(lane="u", weight=3)
    epoch = (await store.backend.info()).epoch
    await store.backend.set_mode(store.op(), "frozen", epoch + 1)
    assert [limits.weight for limits in await lanes_of(store)] == [2, 3]
    assert await store.backend.drop_part(store.op(), [Limits(queue="q", lane="t", weight=2)]) == 1
    assert [limits.lane for limits in await lanes_of(store)] == ["u"]
    await store.backend.import_part(store.op(), [Limits(queue="q", lane="s", weight=4)])
    assert [limits.lane for limits in await lanes_of(store)] == ["s", "u"]


async def test_a_start_that_nobody_waits_for_is_not_announced(store: Store) -> None:
    await store.limit(starts_per_minute=60)
    await store.fill(2)
    replies = []
    for _ in range(2):
        replies.append(await store.settle(fetch=store.fetch()))
        await store.advance(1_000)
    assert [(len(each.deliveries), each.next_due_in_ms) for each in replies] == [(1, 1_000), (1, None)]

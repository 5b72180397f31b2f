"""Reading: jobs by id, listings by filter and page, queues, why a job is not running, and the check itself."""

from __future__ import annotations

from typing import Any

import pytest

from psyqueue.backend import UNTIL_RESUMED, Change, Dependency, Filter, Gate, Limits
from psyqueue.errors import InvalidOption
from psyqueue.job import STATUSES, Status
from psyqueue.testing.conformance.handle import PAGE_MAX, Store, ack, dead, job


async def one_of_each_status(store: Store) -> dict[Status, str]:
    """Seven jobs of queue `q`, one in each status; their ids."""
    ids: dict[Status, str] = {status: f"is-{status}" for status in STATUSES}
    await store.enqueue(job(ids["completed"]), job(ids["dead"]), job(ids["active"]))
    completed, died, _ = await store.dequeue(count=3)
    await store.settle(ack(completed), dead(died, "fatal"))
    await store.enqueue(job(ids["pending"]), job(ids["cancelled"]), job(ids["scheduled"], delay_ms=60_000))
    await store.enqueue(job(ids["waiting"], needs=(Dependency(ids["scheduled"]),)))
    await store.cancel(ids["cancelled"], reason="asked")
    return ids


# ── get ───────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_get_answers_in_the_order_asked(store: Store) -> None:
    await store.enqueue(job("a"), job("b"))
    found = await store.backend.get(("b", "nobody", "a", "b"))
    assert [view.job.id if view else None for view in found] == ["b", None, "a", "b"]
    assert await store.backend.get(()) == ()


async def test_each_status_shows_what_belongs_to_it(store: Store) -> None:
    ids = await one_of_each_status(store)
    for status, job_id in ids.items():
        found = await store.view(job_id)
        assert found.status == status
        assert (found.ready_number is None) <= (status != "pending")
        assert (found.session_id is not None) == (found.worker is not None) == (status == "active")
        assert (found.completed_at_ms is not None) == (status in {"completed", "dead", "cancelled"})
        assert (found.result is not None) == (status == "completed")
    reasons = [(await store.view(job_id)).reason for job_id in ids.values()]
    assert sorted(filter(None, reasons)) == ["asked", "fatal"]


# ── filters ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_an_empty_filter_matches_every_job(store: Store) -> None:
    ids = await one_of_each_status(store)
    assert sorted(await store.walk(Filter())) == sorted(ids.values())


async def test_filter_by_status(store: Store) -> None:
    ids = await one_of_each_status(store)
    status: Status
    for status in STATUSES:
        assert await store.walk(Filter(statuses=(status,))) == [ids[status]]
        others: tuple[Status, ...] = tuple(each for each in STATUSES if each != status)
        assert sorted(await store.walk(Filter(statuses=others))) == sorted(ids[each] for each in others)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"ids": ("a", "c", "nobody")}, "ac"),
        ({"queues": ("q",)}, "ab"),
        ({"queues": ("q", "r")}, "abc"),
        ({"names": ("mail",)}, "ad"),
        ({"lanes": ("t",)}, "bc"),
        ({"lanes": ("",)}, "ad"),
        ({"text": "needle"}, "bd"),
        ({"text": "mai"}, "ad"),
        ({"text": "%"}, ""),
        ({"text": "_"}, ""),
        ({"text": "NEEDLE"}, ""),
        ({"queues": ("q",), "names": ("mail",)}, "a"),
        ({"queues": ("q",), "lanes": ("t",), "text": "needle"}, "b"),
        ({"ids": ("a",), "queues": ("r",)}, ""),
        ({"queues": ("nowhere",)}, ""),
    ],
    ids=repr,
)
async def test_all_given_conditions_hold(store: Store, where: dict[str, Any], expected: str) -> None:
    await store.enqueue(
        job("a", "q", name="mail"),
        job("b", "q", lane="t", payload=b'{"x":"a needle here"}'),
        job("c", "r", lane="t"),
        job("d", "s", name="mail", cold=b'{"meta":"needle"}'),
    )
    assert sorted(await store.walk(Filter(**where))) == list(expected)


async def test_text_is_looked_for_in_ids_too(store: Store) -> None:
    await store.enqueue(job("order-17"), job("order-18"))
    assert await store.walk(Filter(text="r-17")) == ["order-17"]


async def test_text_beyond_ascii_is_found(store: Store) -> None:
    await store.enqueue(job("a", payload='"grüße 🚚"'.encode()), job("b"))
    assert await store.walk(Filter(text="grüße 🚚")) == ["a"]


async def test_filter_by_time_of_creation_is_from_inclusive_to_exclusive(store: Store) -> None:
    start_ms = await store.now_ms()
    for each in "abc":
        await store.add(each)
        await store.advance(10)
    assert await store.walk(Filter(created_from_ms=start_ms + 10)) == ["b", "c"]
    assert await store.walk(Filter(created_to_ms=start_ms + 10)) == ["a"]
    assert await store.walk(Filter(created_from_ms=start_ms + 10, created_to_ms=start_ms + 20)) == ["b"]


async def test_filter_by_time_of_the_end(store: Store) -> None:
    await store.enqueue(job("a"), job("b"), job("live"))
    await store.run()
    await store.advance(10)
    await store.run()
    assert await store.walk(Filter(ended_before_ms=await store.now_ms())) == ["a"]
    assert await store.walk(Filter(ended_before_ms=await store.now_ms() + 1)) == ["a", "b"]


async def test_filter_by_reason(store: Store) -> None:
    await store.enqueue(job("a"), job("b"), job("c"))
    a, b, _ = await store.dequeue(count=3)
    await store.settle(dead(a, "fatal"), dead(b, "other"))
    assert await store.walk(Filter(reason="fatal")) == ["a"]


# ── pages ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 500])
async def test_pages_hold_every_job_once_by_queue_then_status(store: Store, limit: int) -> None:
    ids = await one_of_each_status(store)
    await store.enqueue(*(job(f"z{number}", "zz") for number in range(3)), job("b0", "a"))
    walked = await store.walk(Filter(), limit)
    assert walked[:8] == ["b0", *(ids[status] for status in STATUSES)]
    assert sorted(walked[8:]) == ["z0", "z1", "z2"]
    assert await store.walk(Filter(), 500) == walked


async def test_jobs_that_stay_are_listed_once_while_others_come_and_go(store: Store) -> None:
    stay = [f"stay-{number:02}" for number in range(12)]
    for number, each in enumerate(stay):
        await store.enqueue(job(f"go-{number:02}"), job(each, delay_ms=10**9))
    seen: list[str] = []
    cursor: str | None = None
    for turn in range(1_000):
        page = await store.backend.list_jobs(Filter(queues=("q",)), cursor, 3)
        seen += [found.job.id for found in page.jobs]
        cursor = page.cursor
        if cursor is None:
            break
        await store.dequeue(count=1)
        await store.add(f"new-{turn}", delay_ms=10**9)
        if turn % 2:
            await store.cancel(f"new-{turn - 1}")
    assert [each for each in seen if each.startswith("stay")] == stay or sorted(
        each for each in seen if each.startswith("stay")
    ) == stay


async def test_a_filter_that_matches_little_ends_all_the_same(store: Store) -> None:
    for start in range(0, 1_500, 500):
        await store.enqueue(*(job(f"{number:04}") for number in range(start, start + 500)))
    await store.add("x-rare", name="rare")
    assert await store.walk(Filter(names=("rare",)), 10) == ["x-rare"]
    assert await store.walk(Filter(text="x-rar"), 10) == ["x-rare"]
    assert await store.walk(Filter(names=("none",)), 10) == []


@pytest.mark.parametrize("cursor", ["garbage", "[]", '["q"]', '{"a":1}', "[1,2,3]", '["q",1,{}]', "12x"])
@pytest.mark.parametrize("ids", [(), ("a",)])
async def test_a_cursor_that_no_listing_gave_out_is_refused(store: Store, cursor: str, ids: tuple[str, ...]) -> None:
    await store.add("a")
    with pytest.raises(InvalidOption):
        await store.backend.list_jobs(Filter(ids=ids), cursor, 10)


# ── queues ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_queues_count_their_jobs_by_status_exactly(store: Store) -> None:
    await one_of_each_status(store)
    await store.add("more")
    info = await store.queue()
    assert info is not None
    counts = {status: info.counts.get(status, 0) for status in STATUSES}
    assert counts == {status: 2 if status == "pending" else 1 for status in STATUSES}
    assert info.limits == Limits(queue="q")


async def test_the_oldest_pending_job_of_a_queue_is_known(store: Store) -> None:
    await store.limit("empty", active_max=5)
    start_ms = await store.now_ms()
    await store.add("a")
    await store.advance(1_000)
    await store.add("b")
    info, empty = await store.queue(), await store.queue("empty")
    assert info is not None
    assert empty is not None
    assert (info.oldest_pending_at_ms, empty.oldest_pending_at_ms) == (start_ms, None)
    await store.run()
    info = await store.queue()
    assert info is not None
    assert info.oldest_pending_at_ms == start_ms + 1_000


async def test_lanes_in_use_are_counted(store: Store) -> None:
    await store.enqueue(job("a"), job("b", lane="t"), job("c", lane="t"), job("d", lane="u", delay_ms=9_999))
    info = await store.queue()
    assert info is not None
    assert info.lanes == 2
    await store.cancel("d")
    info = await store.queue()
    assert info is not None
    assert info.lanes == 1


async def test_a_queue_is_known_while_it_has_jobs_or_limits(store: Store) -> None:
    await store.add("a", "jobs")
    await store.limit("limits", active_max=5)
    infos, cursor = await store.backend.queues("", None, 10)
    assert ([info.queue for info in infos], cursor) == (["jobs", "limits"], None)
    await store.cancel("a")
    await store.amend(Change(kind="delete"), "a")
    infos, _ = await store.backend.queues("", None, 10)
    assert [info.queue for info in infos] == ["limits"]


async def test_queues_are_listed_by_name_by_prefix_and_in_pages(store: Store) -> None:
    names = ["a", "aa", "ab", "b", "a%", "a_x", "A", "ä"]
    await store.enqueue(*(job(f"{number}", name) for number, name in enumerate(names)))
    for prefix in ("", "a", "aa", "a%", "a_", "zz"):
        seen: list[str] = []
        cursor: str | None = None
        while True:
            infos, cursor = await store.backend.queues(prefix, cursor, 2)
            assert len(infos) <= 2
            seen += [info.queue for info in infos]
            if cursor is None:
                break
        assert seen == sorted(name for name in names if name.startswith(prefix))


# ── why ───────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_job_that_could_run_now_is_blocked_by_nothing(store: Store) -> None:
    await store.add("a")
    assert (await store.view("a")).blocked_by == ()
    await store.dequeue_one()
    assert (await store.view("a")).blocked_by == ()


async def test_every_reason_that_holds_is_told(store: Store) -> None:
    await store.enqueue(job("p", "other"), job("r", "other"), job("g", "other", gate=Gate("g")))
    await store.enqueue(job("a", gate=Gate("g"), needs=(Dependency("p"), Dependency("r"))))
    codes = set((await store.view("a")).blocked_by)
    assert {"needs:p", "needs:r"} <= codes
    await store.amend(Change(kind="hold"), "a")
    assert "held" in (await store.view("a")).blocked_by
    await store.add("b", lane="t")
    await store.limit(paused_until_ms=UNTIL_RESUMED, active_max=0)
    await store.limit(lane="t", paused_until_ms=UNTIL_RESUMED, active_max=0)
    codes = set((await store.view("b")).blocked_by)
    assert {"paused:queue", "paused:lane", "limit:queue", "limit:lane"} <= codes


async def test_a_frozen_namespace_is_a_reason(store: Store) -> None:
    await store.add("a")
    epoch = (await store.backend.info()).epoch
    await store.backend.set_mode(store.op(), "frozen", epoch + 1)
    assert "mode:frozen" in (await store.view("a")).blocked_by


# ── check ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_fresh_store_is_whole(store: Store) -> None:
    assert await store.backend.check(None, PAGE_MAX) == ((), None)


async def test_check_goes_through_all_jobs_in_pages(store: Store) -> None:
    await one_of_each_status(store)
    cursor: str | None = None
    for _ in range(20):
        problems, cursor = await store.backend.check(cursor, 2)
        assert problems == ()
        if cursor is None:
            return
    raise AssertionError("check never came to its end")

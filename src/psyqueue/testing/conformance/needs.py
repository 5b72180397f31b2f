"""Needs: jobs that wait for others, enabled or cancelled in the step in which the last of those ends."""

from __future__ import annotations

import pytest

from psyqueue.backend import Change, Dependency, Enqueued, Filter, NewJob
from psyqueue.errors import UnknownDependency
from psyqueue.job import Status
from psyqueue.testing.conformance.handle import PAGE_MAX, Store, ack, cancelled, dead, job

ANY_END: tuple[Status, ...] = ("completed", "dead", "cancelled")


def child(job_id: str, *parents: str, on: tuple[Status, ...] = ("completed",), queue: str = "child") -> NewJob:
    return job(job_id, queue, needs=tuple(Dependency(parent, on) for parent in parents))


async def end(store: Store, job_id: str, status: Status) -> None:
    """Dequeue the one pending job of its queue and end it so."""
    delivery = await store.dequeue_one()
    assert delivery.id == job_id
    make = {"completed": ack, "dead": dead, "cancelled": cancelled}[status]
    assert (await store.settle_one(make(delivery))).status == status  # type: ignore[operator]


async def test_a_job_with_an_unmet_need_waits(store: Store) -> None:
    await store.add("p")
    assert await store.enqueue(child("c", "p")) == (Enqueued("c", created=True, status="waiting"),)
    assert await store.dequeue("child") == ()
    found = await store.view("c")
    assert (found.ready_number, found.blocked_by) == (None, ("needs:p",))


async def test_the_end_of_its_parent_enables_a_job_in_the_same_step(store: Store) -> None:
    await store.enqueue(job("p"), child("c", "p"))
    parent = await store.dequeue_one()
    reply = await store.settle(ack(parent), fetch=store.fetch("child"))
    (delivery,) = reply.deliveries
    assert (delivery.id, delivery.needs) == ("c", ("p",))


@pytest.mark.parametrize("ending", ANY_END)
@pytest.mark.parametrize(
    "on", [("completed",), ("dead",), ("cancelled",), ("completed", "cancelled"), ANY_END], ids="+".join
)
async def test_a_need_is_met_by_the_ends_it_names_and_by_no_other(
    store: Store, ending: Status, on: tuple[Status, ...]
) -> None:
    await store.add("p")
    await store.enqueue(child("early", "p", on=on))
    await end(store, "p", ending)
    (late,) = await store.enqueue(child("late", "p", on=on))
    expected: Status = "pending" if ending in on else "cancelled"
    assert (await store.statuses("early", "late"), late.status) == ([expected, expected], expected)
    if expected == "cancelled":
        for each in ("early", "late"):
            found = await store.view(each)
            assert (found.reason, found.completed_at_ms is None) == ("dependency", False)


async def test_a_fan_in_waits_for_the_last_of_its_parents(store: Store) -> None:
    parents = await store.fill(4)
    await store.enqueue(child("c", *parents))
    for parent in parents:
        assert await store.status("c") == "waiting"
        assert parent in {code.removeprefix("needs:") for code in (await store.view("c")).blocked_by}
        await end(store, parent, "completed")
    delivery = await store.dequeue_one("child")
    assert sorted(delivery.needs) == parents


async def test_parents_that_end_in_one_step_enable_the_child_once(store: Store) -> None:
    parents = await store.fill(3)
    await store.enqueue(child("c", *parents))
    await store.settle(*(ack(each) for each in await store.dequeue(count=3)))
    assert await store.dequeue_ids("child") == ["c"]
    assert await store.dequeue_ids("child") == []


async def test_a_fan_out_is_enabled_in_the_order_of_enqueue(store: Store) -> None:
    await store.enqueue(job("p"), *(child(f"{number}", "p") for number in (3, 1, 2)))
    await end(store, "p", "completed")
    assert await store.dequeue_ids("child") == ["3", "1", "2"]


async def test_one_parent_that_fails_cancels_the_child_at_once(store: Store) -> None:
    await store.enqueue(job("a"), job("b"), child("c", "a", "b"))
    await end(store, "a", "dead")
    assert (await store.view("c")).reason == "dependency"
    await end(store, "b", "completed")
    assert await store.status("c") == "cancelled"


async def test_a_cancel_runs_down_the_chain(store: Store) -> None:
    await store.enqueue(
        job("p"),
        child("c", "p"),
        child("g", "c"),
        child("rescue", "c", on=("cancelled",)),
        child("last", "g", on=ANY_END),
    )
    await end(store, "p", "dead")
    assert await store.statuses("c", "g", "rescue", "last") == ["cancelled", "cancelled", "pending", "pending"]


async def test_a_retry_of_the_parent_is_no_end(store: Store) -> None:
    await store.enqueue(job("p"), child("c", "p"), child("on-dead", "p", on=("dead",)))
    await store.retry(await store.dequeue_one())
    await store.lose()
    assert await store.statuses("c", "on-dead") == ["waiting", "waiting"]


@pytest.mark.parametrize("way", ["cancel", "finish", "expire", "reap", "exhaust"])
async def test_every_way_to_end_counts(store: Store, way: str) -> None:
    await store.add("p", max_retries=0, expires_in_ms=1_000 if way == "expire" else None)
    await store.enqueue(*(child(status, "p", on=(status,)) for status in ANY_END))
    if way in {"cancel", "finish"}:
        await store.amend(Change(kind="cancel" if way == "cancel" else "finish"), "p")
    elif way == "expire":
        await store.advance(1_001)
        await store.backend.promote(("q",), PAGE_MAX)
    elif way == "reap":
        await store.dequeue_one()
        await store.lose()
    else:
        await store.retry(await store.dequeue_one())
    ended = {"cancel": "cancelled", "finish": "completed"}.get(way, "dead")
    assert await store.status("p") == ended
    for status in ANY_END:
        assert await store.status(status) == ("pending" if status == ended else "cancelled")


async def test_an_unknown_parent_is_refused(store: Store) -> None:
    with pytest.raises(UnknownDependency) as caught:
        await store.enqueue(child("c", "nobody"))
    assert caught.value.parent_id == "nobody"
    with pytest.raises(UnknownDependency):
        await store.enqueue(child("c", "c"))
    with pytest.raises(UnknownDependency):
        await store.enqueue(child("c", "later"), job("later"))
    assert await store.statuses("c", "later") == [None, None]


async def test_a_parent_may_stand_earlier_in_the_same_call(store: Store) -> None:
    await store.enqueue(job("p"), child("c", "p"))
    assert await store.statuses("p", "c") == ["pending", "waiting"]


async def test_a_met_need_with_run_at_ahead_schedules_the_job(store: Store) -> None:
    await store.enqueue(job("p"), job("c", "child", delay_ms=60_000, needs=(Dependency("p"),)))
    assert await store.status("c") == "waiting"
    await end(store, "p", "completed")
    assert await store.status("c") == "scheduled"
    await store.advance(60_000)
    assert await store.dequeue_ids("child") == ["c"]


async def test_a_due_time_does_not_enable_a_job_whose_need_is_unmet(store: Store) -> None:
    await store.enqueue(job("p"), job("c", "child", delay_ms=10, needs=(Dependency("p"),)))
    await store.advance(1_000)
    await store.backend.promote(("child",), PAGE_MAX)
    assert await store.dequeue("child") == ()
    await end(store, "p", "completed")
    assert await store.dequeue_ids("child") == ["c"]


async def test_a_cancelled_child_stays_cancelled_when_its_parent_ends(store: Store) -> None:
    await store.enqueue(job("p"), child("c", "p"))
    await store.cancel("c")
    await end(store, "p", "completed")
    assert await store.status("c") == "cancelled"


async def test_a_parent_is_not_deleted_while_a_live_child_waits_for_it(store: Store) -> None:
    await store.enqueue(job("p"), job("r", "other"), child("c", "p", "r"))
    await end(store, "p", "completed")
    amended = await store.amend(Change(kind="delete"), "p")
    assert (amended.changed, amended.skipped) == ((), (("p", "completed"),))
    await store.cancel("c")
    assert (await store.amend(Change(kind="delete"), "p")).changed == ("p",)


async def test_more_children_than_one_step_moves_are_all_moved_in_the_end(store: Store) -> None:
    await store.add("p")
    for start in range(0, 1_200, 400):
        await store.enqueue(*(child(f"c-{number:04}", "p") for number in range(start, start + 400)))
    await end(store, "p", "completed")
    for _ in range(10):
        if not (await store.backend.promote(("other",), PAGE_MAX)).more:
            break
    assert await store.count("pending", "child") == 1_200
    assert len(await store.walk(Filter(queues=("child",), statuses=("waiting",)))) == 0


async def test_left_over_children_are_moved_by_the_next_fetch_too(store: Store) -> None:
    await store.add("p")
    for start in range(0, 1_000, 500):
        await store.enqueue(*(child(f"c-{number:04}", "p") for number in range(start, start + 500)))
    await end(store, "p", "completed")
    seen: list[str] = []
    for _ in range(5):
        deliveries = await store.dequeue("child", count=PAGE_MAX)
        seen += [each.id for each in deliveries]
    assert seen == [f"c-{number:04}" for number in range(1_000)]


async def test_a_long_chain_of_cancels_ends(store: Store) -> None:
    await store.add("c-000")
    await store.enqueue(*(child(f"c-{number:03}", f"c-{number - 1:03}") for number in range(1, 500)))
    await store.enqueue(*(child(f"c-{number:03}", f"c-{number - 1:03}") for number in range(500, 800)))
    await end(store, "c-000", "dead")
    for _ in range(10):
        if not (await store.backend.promote(("other",), PAGE_MAX)).more:
            break
    assert await store.count("cancelled", "child") == 799


async def test_a_job_may_bear_the_name_of_a_queue(store: Store) -> None:
    await store.open_session()
    await store.add("p")
    await store.enqueue(child("mail", "p"))
    await store.add("of the queue", "mail")
    assert await store.dequeue_ids("mail") == ["of the queue"]
    await end(store, "p", "completed")
    assert await store.dequeue_ids("child") == ["mail"]

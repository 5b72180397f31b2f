"""Settle: the end of a delivery, checked by token, status and session; and what each outcome makes of the job."""

from __future__ import annotations

from typing import Any

import pytest

from psyqueue.backend import Ack, AnyOutcome, Dead, Keep, Release, Retry, Settled, Snooze
from psyqueue.backend import Cancelled as CancelledOutcome
from psyqueue.errors import SessionLost
from psyqueue.job import ERRORS_KEPT
from psyqueue.testing.conformance.handle import (
    ERROR,
    Store,
    ack,
    cancelled,
    dead,
    keep,
    release,
    retry,
    snooze,
)


def every_outcome(job_id: str, token: str) -> tuple[AnyOutcome, ...]:
    return (
        Ack(job_id=job_id, completion_token=token, result=b"9"),
        Retry(job_id=job_id, completion_token=token, error=ERROR, delay_ms=0),
        Dead(job_id=job_id, completion_token=token, error=ERROR, reason="x"),
        Snooze(job_id=job_id, completion_token=token, delay_ms=5),
        Release(job_id=job_id, completion_token=token),
        CancelledOutcome(job_id=job_id, completion_token=token),
        Keep(job_id=job_id, completion_token=token),
    )


async def test_ack_completes_and_keeps_the_result(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    await store.advance(2_000)
    assert await store.ack(delivery, b'{"r":1}') == Settled("a", "ok", "completed")
    found = await store.view("a")
    assert (found.status, found.result, found.completed_at_ms) == ("completed", b'{"r":1}', await store.now_ms())
    assert (found.session_id, found.worker, found.attempt, found.errors) == (None, None, 1, ())
    assert await store.dequeue() == ()


async def test_a_second_ack_is_told_that_it_is_settled_already(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    await store.ack(delivery, b"1")
    before = await store.view("a")
    assert await store.ack(delivery, b"2") == Settled("a", "already", "completed")
    assert await store.view("a") == before


async def test_the_same_token_settles_once_whatever_it_says_the_second_time(store: Store) -> None:
    await store.fill(7)
    firsts = (ack, retry, dead, release, cancelled)
    for first in firsts:
        delivery = await store.dequeue_one()
        assert (await store.settle_one(first(delivery))).verdict == "ok"
        before = await store.view(delivery.id)
        for second in every_outcome(delivery.id, delivery.completion_token):
            again = await store.settle_one(second)
            assert (again.verdict, again.status) == ("already", before.status)
        assert await store.view(delivery.id) == before


async def test_the_same_outcome_twice_in_one_call_counts_once(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    reply = await store.settle(ack(delivery), ack(delivery), dead(delivery))
    assert [(each.verdict, each.status) for each in reply.settled] == [
        ("ok", "completed"),
        ("already", "completed"),
        ("already", "completed"),
    ]


async def test_a_wrong_token_changes_nothing(store: Store) -> None:
    await store.fill(2)
    delivery, neighbour = await store.dequeue(count=2)
    before = await store.view(delivery.id)
    for token in ("", "x", delivery.completion_token + "x", neighbour.completion_token):
        for outcome in every_outcome(delivery.id, token):
            assert await store.settle_one(outcome) == Settled(delivery.id, "lost", "active")
    assert await store.view(delivery.id) == before
    assert (await store.ack(delivery)).verdict == "ok"


async def test_a_token_beside_its_owner_in_one_call_counts_for_its_owner_only(store: Store) -> None:
    await store.fill(3)
    first, second = await store.dequeue(count=2)
    others = [Ack(job_id=each, completion_token=first.completion_token) for each in (second.id, "q-0002")]
    settled = (await store.settle(others[0], ack(first), others[1])).settled
    assert [each.verdict for each in settled] == ["lost", "ok", "lost"]
    assert [each.status for each in settled] == ["active", "completed", "pending"]
    assert (await store.ack(second)).verdict == "ok"


async def test_a_job_that_was_never_delivered_cannot_be_settled(store: Store) -> None:
    await store.add("a")
    await store.add("b", delay_ms=1_000)
    for job_id, status in (("a", "pending"), ("b", "scheduled"), ("nobody", None)):
        for outcome in every_outcome(job_id, ""):
            settled = await store.settle_one(outcome)
            assert (settled.verdict, settled.status) == ("lost", status)


async def test_a_token_counts_only_through_the_session_that_holds_the_job(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    await store.open_session("thief")
    before = await store.view("a")
    for outcome in every_outcome("a", delivery.completion_token):
        assert (await store.settle_one(outcome, session="thief")).verdict == "lost"
    assert await store.view("a") == before


async def test_an_old_token_is_lost_once_the_job_was_delivered_again(store: Store) -> None:
    await store.add("a")
    for first in (retry, release):
        old = await store.dequeue_one()
        await store.settle_one(first(old))
        new = await store.dequeue_one()
        before = await store.view("a")
        for outcome in every_outcome("a", old.completion_token):
            assert await store.settle_one(outcome) == Settled("a", "lost", "active")
        assert await store.view("a") == before
        await store.settle_one(release(new))


async def test_a_late_ack_of_a_reaped_job_changes_nothing(store: Store) -> None:
    """The reference completes a job that is in the ready list again, and then runs it again."""
    await store.add("a")
    old = await store.dequeue_one()
    await store.lose()
    with pytest.raises(SessionLost):
        await store.ack(old)
    await store.open_session("t")
    for outcome in every_outcome("a", old.completion_token):
        assert (await store.settle_one(outcome, session="t")).verdict == "lost"
    new = await store.dequeue_one(session="t")
    assert (await store.ack(old, session="t")).verdict == "lost"
    assert (await store.ack(new, session="t")).verdict == "ok"
    assert await store.dequeue(session="t") == ()


async def test_a_closed_or_unknown_session_settles_nothing(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    await store.close_session()
    for session in ("s", "nobody"):
        with pytest.raises(SessionLost):
            await store.backend.settle(store.op(), session, (ack(delivery),), None)
        with pytest.raises(SessionLost):
            await store.backend.settle(store.op(), session, (), store.fetch())
    assert await store.status("a") == "pending"


async def test_retry_schedules_the_job_after_its_delay(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    assert await store.retry(delivery, 5_000, b'{"e":1}') == Settled("a", "ok", "scheduled")
    found = await store.view("a")
    assert (found.run_at_ms, found.attempt, found.errors) == (await store.now_ms() + 5_000, 1, (b'{"e":1}',))
    assert (found.session_id, found.worker, found.ready_number) == (None, None, None)
    await store.advance(4_999)
    assert await store.dequeue() == ()
    await store.advance(1)
    again = await store.dequeue_one()
    assert (again.attempt, again.fence > delivery.fence) == (2, True)


async def test_a_retry_without_delay_can_run_in_the_same_call(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    reply = await store.settle(retry(delivery), fetch=store.fetch())
    assert reply.settled == (Settled("a", "ok", "scheduled"),)
    assert [(each.id, each.attempt) for each in reply.deliveries] == [("a", 2)]


@pytest.mark.parametrize("max_retries", [0, 1, 3])
async def test_a_job_starts_at_most_max_retries_plus_one_times(store: Store, max_retries: int) -> None:
    await store.add("a", max_retries=max_retries)
    for attempt in range(1, max_retries + 2):
        delivery = await store.dequeue_one()
        assert delivery.attempt == attempt
        await store.retry(delivery)
    found = await store.view("a")
    assert (found.status, found.reason, found.attempt) == ("dead", "exhausted", max_retries + 1)
    assert (len(found.errors), found.completed_at_ms) == (max_retries + 1, await store.now_ms())
    assert await store.dequeue() == ()


async def test_dead_ends_the_job_with_its_reason(store: Store) -> None:
    await store.add("a")
    assert await store.kill(await store.dequeue_one(), "fatal") == Settled("a", "ok", "dead")
    found = await store.view("a")
    assert (found.reason, found.errors, found.result) == ("fatal", (ERROR,), None)
    assert found.completed_at_ms == await store.now_ms()


async def test_snooze_gives_the_attempt_back(store: Store) -> None:
    await store.add("a", max_retries=0)
    for _ in range(3):
        delivery = await store.dequeue_one()
        assert delivery.attempt == 1
        assert await store.settle_one(snooze(delivery, 1_000, "later")) == Settled("a", "ok", "scheduled")
        found = await store.view("a")
        assert (found.attempt, found.reason, found.errors) == (0, "later", ())
        assert found.run_at_ms == await store.now_ms() + 1_000
        assert await store.dequeue() == ()
        await store.advance(1_000)


async def test_release_gives_the_attempt_back_but_not_the_fence(store: Store) -> None:
    await store.add("a", max_retries=0)
    first = await store.dequeue_one()
    assert await store.settle_one(release(first)) == Settled("a", "ok", "pending")
    found = await store.view("a")
    assert (found.attempt, found.fence, found.session_id, found.errors) == (0, first.fence, None, ())
    second = await store.dequeue_one()
    assert (second.attempt, second.fence > first.fence) == (1, True)


async def test_cancelled_ends_the_job(store: Store) -> None:
    await store.add("a")
    settled = await store.settle_one(cancelled(await store.dequeue_one(), "asked"))
    assert settled == Settled("a", "ok", "cancelled")
    found = await store.view("a")
    assert (found.reason, found.completed_at_ms) == ("asked", await store.now_ms())


async def test_keep_leaves_the_job_active_under_the_same_token(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    for _ in range(2):
        assert await store.settle_one(keep(delivery)) == Settled("a", "ok", "active")
    assert (await store.ack(delivery)).verdict == "ok"
    assert (await store.settle_one(keep(delivery))).verdict == "already"


async def test_one_bad_outcome_never_spoils_the_others(store: Store) -> None:
    await store.fill(4)
    a, b, c, d = await store.dequeue(count=4)
    await store.ack(b)
    wrong = Ack(job_id=c.id, completion_token="wrong")  # noqa: S106 - no secret
    reply = await store.settle(ack(a), ack(b), wrong, retry(d, 10))
    assert [each.verdict for each in reply.settled] == ["ok", "already", "lost", "ok"]
    assert [each.job_id for each in reply.settled] == [a.id, b.id, c.id, d.id]
    assert await store.statuses(a.id, b.id, c.id, d.id) == ["completed", "completed", "active", "scheduled"]


async def test_only_the_last_errors_are_kept_oldest_first(store: Store) -> None:
    await store.add("a", max_retries=100)
    for number in range(ERRORS_KEPT + 3):
        await store.retry(await store.dequeue_one(), error=b"%d" % number)
    errors = (await store.view("a")).errors
    assert errors == tuple(b"%d" % number for number in range(3, ERRORS_KEPT + 3))


async def test_errors_stay_when_the_job_succeeds_in_the_end(store: Store) -> None:
    await store.add("a")
    await store.retry(await store.dequeue_one(), error=b"1")
    await store.ack(await store.dequeue_one(), b"2")
    found = await store.view("a")
    assert (found.errors, found.result, found.attempt) == ((b"1",), b"2", 2)


async def test_whoever_holds_a_job_is_told_that_its_cancel_was_asked_for(store: Store) -> None:
    await store.fill(3)
    a, b, _ = await store.dequeue(count=3)
    changed = await store.cancel(a.id, b.id)
    assert set(changed.changed) == {a.id, b.id}
    reply = await store.settle()
    assert set(reply.cancel_requested) == {a.id, b.id}
    reply = await store.settle(cancelled(a))
    assert reply.cancel_requested == (b.id,)


@pytest.mark.parametrize("make", [retry, release, lambda delivery: snooze(delivery, 5)])
async def test_a_job_whose_cancel_was_asked_for_does_not_come_back(store: Store, make: Any) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    await store.cancel("a", reason="enough")
    assert await store.settle_one(make(delivery)) == Settled("a", "ok", "cancelled")
    await store.advance(1_000)
    assert await store.dequeue() == ()


async def test_an_ack_beats_a_cancel_that_was_asked_for(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    await store.cancel("a")
    assert await store.ack(delivery) == Settled("a", "ok", "completed")


async def test_a_late_ack_counts_as_long_as_nobody_reaped(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    await store.advance(10 * 60_000)
    assert (await store.ack(delivery)).verdict == "ok"


async def test_500_deliveries_are_settled_with_one_call(store: Store) -> None:
    await store.fill(500)
    deliveries = await store.dequeue(count=500)
    reply = await store.settle(*(ack(each) for each in deliveries))
    assert {each.verdict for each in reply.settled} == {"ok"}
    assert await store.count("completed") == 500

"""Effects of outcomes: what becomes true in the same step as the end of a delivery, or not at all."""

from __future__ import annotations

from psyqueue.backend import (
    Ack,
    Dependency,
    Effects,
    Enqueued,
    Idempotency,
    NewJob,
    Record,
    Settled,
    StateWrite,
    Unique,
)
from psyqueue.testing.conformance.handle import (
    Store,
    ack,
    add,
    cancelled,
    dead,
    delete,
    job,
    keep,
    put,
    release,
    retry,
    snooze,
    take,
)


def effects(*writes: StateWrite, jobs: tuple[NewJob, ...] = (), records: tuple[Record, ...] = ()) -> Effects:
    return Effects(jobs, writes, records)


async def test_effects_of_an_ack_become_true_with_it(store: Store) -> None:
    await store.add("a")
    more = effects(put("k"), add("n", 2), jobs=(job("b"), job("c", delay_ms=5)), records=(Record("r", b"1"),))
    settled = await store.ack(await store.dequeue_one(), effects=more)
    assert settled == Settled(
        "a", "ok", "completed", (Enqueued("b", created=True, status="pending"), Enqueued("c", True, "scheduled"))
    )
    assert await store.statuses("b", "c") == ["pending", "scheduled"]
    assert [item.value for item in await store.backend.read_state(("k", "n")) if item] == [b"1", b"2"]
    assert [stored.body for stored in await store.backend.read_records("r", 0, 9)] == [b"1"]


async def test_every_kind_of_outcome_carries_effects(store: Store) -> None:
    made = [keep, retry, dead, snooze, release, cancelled, ack]
    await store.fill(len(made))
    deliveries = await store.dequeue(count=len(made))
    outcomes = []
    for make, delivery in zip(made, deliveries, strict=True):
        outcome = make(delivery, 50) if make is snooze else make(delivery)  # type: ignore[operator]
        fields = {name: getattr(outcome, name) for name in outcome.__struct_fields__}
        outcomes.append(type(outcome)(**{**fields, "effects": effects(add("n"), jobs=(job(f"f-{delivery.id}"),))}))
    reply = await store.settle(*outcomes)
    assert [each.verdict for each in reply.settled] == ["ok"] * len(made)
    assert [each.effects[0].created for each in reply.settled] == [True] * len(made)
    assert (await store.write(add("n", 0))) == (len(made),)


async def test_an_outcome_that_does_not_count_has_no_effects(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    more = effects(add("n"), jobs=(job("b"),), records=(Record("r", b"1"),))
    wrong = Ack(job_id="a", completion_token="wrong", effects=more)  # noqa: S106 - no secret
    assert await store.settle_one(wrong) == Settled("a", "lost", "active")
    await store.ack(delivery)
    assert await store.ack(delivery, effects=more) == Settled("a", "already", "completed")
    assert await store.status("b") is None
    assert await store.read("n") is None
    assert await store.backend.read_records("r", 0, 9) == ()


async def test_a_failed_precondition_is_a_conflict_of_that_outcome_alone(store: Store) -> None:
    await store.fill(3)
    a, b, c = await store.dequeue(count=3)
    await store.write(put("k"))
    before = await store.view(b.id)
    refused = effects(add("n"), put("k", b"2", expected=9), jobs=(job("x"),), records=(Record("r", b"1"),))
    reply = await store.settle(
        ack(a, effects=effects(add("n"))), ack(b, effects=refused), ack(c, effects=effects(add("n")))
    )
    assert reply.settled == (
        Settled(a.id, "ok", "completed"),
        Settled(b.id, "conflict", "active"),
        Settled(c.id, "ok", "completed"),
    )
    assert await store.view(b.id) == before
    assert await store.status("x") is None
    assert await store.write(add("n", 0)) == (2,)
    assert (await store.ack(b)).verdict == "ok"


async def test_each_kind_of_precondition_can_conflict(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    await store.write(put("k"), take("t", 1, capacity=1))
    for more in (
        effects(put("k", expected=0)),
        effects(put("new", expected=1)),
        effects(delete("k", expected=2)),
        effects(take("t", 1, capacity=1)),
        effects(jobs=(job("x", needs=(Dependency("nobody"),)),)),
    ):
        assert await store.settle_one(keep(delivery, more)) == Settled("a", "conflict", "active")
    assert await store.read("new") is None
    assert await store.status("x") is None


async def test_writes_of_one_outcome_are_seen_by_the_next(store: Store) -> None:
    await store.fill(2)
    a, b = await store.dequeue(count=2)
    reply = await store.settle(
        ack(a, effects=effects(put("k", expected=0))), ack(b, effects=effects(put("k", expected=0)))
    )
    assert [each.verdict for each in reply.settled] == ["ok", "conflict"]


async def test_writes_of_one_outcome_apply_in_their_order(store: Store) -> None:
    await store.add("a")
    more = effects(put("k", b"1", expected=0), put("k", b"2", expected=1), delete("k", expected=2), put("k", b"3", 0))
    assert (await store.ack(await store.dequeue_one(), effects=more)).verdict == "ok"
    item = await store.read("k")
    assert item is not None
    assert item.value == b"3"


async def test_follow_ups_that_exist_are_reported_and_never_fail_the_outcome(store: Store) -> None:
    await store.enqueue(job("a"), job("u", unique=Unique("u")), job("i", idempotency=Idempotency("i")))
    follow_ups = (
        job("u", digest=b"other"),
        job("x", unique=Unique("u", on_conflict="reject")),
        job("y", idempotency=Idempotency("i"), digest=b"other"),
    )
    settled = await store.ack(await store.dequeue_one(), effects=effects(jobs=follow_ups))
    assert (settled.verdict, settled.status) == ("ok", "completed")
    assert [(each.job_id, each.created) for each in settled.effects] == [("u", False), ("u", False), ("i", False)]


async def test_follow_ups_are_not_stopped_by_limits(store: Store) -> None:
    await store.limit(pending_max=1)
    await store.add("a")
    settled = await store.ack(await store.dequeue_one(), effects=effects(jobs=(job("b"), job("c"), job("d"))))
    assert [each.created for each in settled.effects] == [True] * 3
    assert await store.count("pending") == 3


async def test_a_follow_up_may_need_the_job_that_is_just_ending(store: Store) -> None:
    """Effects are part of the step that ends their delivery; whichever comes first, the child runs."""
    await store.add("a")
    follow_up = job("b", needs=(Dependency("a"),))
    settled = await store.ack(await store.dequeue_one(), effects=effects(jobs=(follow_up,)))
    assert settled.verdict == "ok"
    assert await store.run() == "b"


async def test_a_follow_up_gets_the_unique_key_that_its_maker_lets_go(store: Store) -> None:
    """A job that puts in its own successor under its own unique key: asked for by every self-repeating job.

    Effects come before the end of the delivery, so the key is still held and the successor is `existing`.
    """
    await store.add("a", unique=Unique("u"))
    settled = await store.ack(await store.dequeue_one(), effects=effects(jobs=(job("b", unique=Unique("u")),)))
    assert settled.verdict == "ok"
    (reply,) = settled.effects
    held_by = "b" if reply.created else "a"
    assert reply.job_id == held_by
    assert await store.status("b") == ("pending" if reply.created else None)


async def test_records_of_a_step_are_numbered_in_the_order_of_its_outcomes(store: Store) -> None:
    await store.fill(3)
    deliveries = await store.dequeue(count=3)
    await store.settle(
        *(ack(each, effects=effects(records=(Record("r", each.id.encode()),))) for each in reversed(deliveries))
    )
    stored = await store.backend.read_records("r", 0, 9)
    assert [(each.seq, each.body) for each in stored] == [(1, b"q-0002"), (2, b"q-0001"), (3, b"q-0000")]

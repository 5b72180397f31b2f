"""Enqueue: what goes in, whole or not at all, once, and unchanged."""

from __future__ import annotations

import pytest

from psyqueue.backend import (
    Dependency,
    Effects,
    Enqueued,
    Filter,
    Gate,
    Idempotency,
    Record,
    Unique,
)
from psyqueue.errors import IdConflict, StateConflict, UnknownDependency
from psyqueue.job import LIVE
from psyqueue.testing.conformance.handle import Store, add, job, put, take

ODD_NAMES = (
    "job",
    "job:x",
    "lock",
    "scheduled",
    "a:b",
    "*",
    "%",
    "_",
    "a{b}c",
    "}{",
    "'; DROP TABLE jobs; --",
    '"',
    "\\",
    " ",
    "ünï·cødé 🚚",
    "x" * 200,
)
ODD_PAYLOADS = (
    b"null",
    b"[]",
    b"{}",
    b'""',
    b'"\\u0000"',
    b'"\\ud800"',
    b"-0.0",
    b"9007199254740993",
    b"1" + b"0" * 400,
    b'{"a":1,"a":2}',
    b' { "spaced" : [ ] } ',
    '"ünï·cødé 🚚"'.encode(),
    b"[" * 900 + b"]" * 900,
    b'"' + b"x" * (1 << 20) + b'"',
)


async def test_a_new_job_is_pending(store: Store) -> None:
    assert await store.enqueue(job("a")) == (Enqueued("a", created=True, status="pending"),)
    found = await store.view("a")
    assert found.status == "pending"
    assert (found.attempt, found.lost, found.generation, found.fence) == (0, 0, 0, 0)
    assert (found.session_id, found.worker, found.held, found.cancel_requested) == (None, None, False, False)
    assert (found.started_at_ms, found.completed_at_ms, found.expires_at_ms) == (None, None, None)
    assert (found.result, found.errors, found.reason) == (None, (), "")
    assert found.ready_number is not None
    assert found.created_at_ms == await store.now_ms()


async def test_every_field_of_a_job_comes_back(store: Store) -> None:
    await store.add("parent")
    sent = job(
        "a",
        "other",
        name="mail",
        payload=b'{"to":"x"}',
        cold=b'{"timeout":3}',
        digest=b"\x00\xff",
        priority=-7,
        max_retries=9,
        max_lost=4,
        lane="tenant",
        schedule_id="nightly",
        unique=Unique("u", ("waiting", "scheduled", "pending"), "reject"),
        idempotency=Idempotency("i", 5_000),
        gate=Gate("g", 3),
        needs=(Dependency("parent", ("completed", "dead")),),
    )
    await store.enqueue(sent)
    found = (await store.view("a")).job
    for field in type(sent).__struct_fields__:
        if field != "run_at_ms":
            assert getattr(found, field) == getattr(sent, field), field


async def test_times_of_a_job_come_back_as_instants(store: Store) -> None:
    now_ms = await store.now_ms()
    await store.add("a", delay_ms=5_000, expires_in_ms=60_000)
    found = await store.view("a")
    assert (found.job.delay_ms, found.job.expires_in_ms) == (0, None)
    assert found.run_at_ms == found.job.run_at_ms == now_ms + 5_000
    assert found.expires_at_ms == now_ms + 60_000


@pytest.mark.parametrize("payload", ODD_PAYLOADS, ids=lambda payload: repr(payload[:20]))
async def test_bytes_come_out_as_they_went_in(store: Store, payload: bytes) -> None:
    await store.add("a", payload=payload, cold=b'{ "x":1 }')
    found = (await store.view("a")).job
    assert (found.payload, found.cold) == (payload, b'{ "x":1 }')
    delivery = await store.dequeue_one()
    assert (delivery.payload, delivery.cold) == (payload, b'{ "x":1 }')
    await store.ack(delivery, result=payload)
    assert (await store.view("a")).result == payload


async def test_names_are_never_interpreted(store: Store) -> None:
    """Queues, lanes, names and ids that mean something to some store keep to themselves."""
    for number, name in enumerate(ODD_NAMES):
        await store.add(f"{number}", name, name=name, lane=name)
        await store.add(name, "ids")
    for number, name in enumerate(ODD_NAMES):
        delivery = await store.dequeue_one(name)
        assert (delivery.id, delivery.queue, delivery.name, delivery.lane) == (f"{number}", name, name, name)
        assert await store.dequeue(name) == ()
    assert await store.dequeue_ids("ids") == list(ODD_NAMES)
    infos, _ = await store.backend.queues("", None, 500)
    assert sorted(info.queue for info in infos) == sorted({*ODD_NAMES, "ids"})


async def test_names_of_queues_are_told_apart_by_case_and_by_every_character(store: Store) -> None:
    names = ("q", "Q", "q ", "q\u00e9", "qe\u0301")
    for number, name in enumerate(names):
        await store.add(f"{number}", name)
    for number, name in enumerate(names):
        assert await store.dequeue_ids(name) == [f"{number}"]


async def test_replies_come_in_the_order_of_jobs_then_of_follow_ups(store: Store) -> None:
    replies = await store.enqueue(job("b"), job("a"), effects=Effects(jobs=(job("d"), job("c"))))
    assert [reply.job_id for reply in replies] == ["b", "a", "d", "c"]
    assert all(reply.created for reply in replies)


async def test_an_empty_enqueue_is_nothing(store: Store) -> None:
    assert await store.enqueue() == ()


async def test_the_same_id_with_the_same_digest_is_the_same_job(store: Store) -> None:
    await store.add("a", payload=b"1")
    before = await store.view("a")
    assert await store.add("a", payload=b"2", priority=5, delay_ms=9) == Enqueued("a", created=False, status="pending")
    assert await store.view("a") == before
    assert await store.count("pending") == 1


async def test_the_same_id_with_another_digest_is_a_conflict(store: Store) -> None:
    await store.add("a", digest=b"1")
    with pytest.raises(IdConflict) as caught:
        await store.add("a", digest=b"2")
    assert caught.value.existing_job_id == "a"


async def test_the_same_id_twice_in_a_batch_is_one_job(store: Store) -> None:
    first, second = await store.enqueue(job("a"), job("a"))
    assert (first.created, second.created, second.status) == (True, False, "pending")
    with pytest.raises(IdConflict):
        await store.enqueue(job("b", digest=b"1"), job("b", digest=b"2"))
    assert await store.status("b") is None


async def test_an_id_stays_taken_after_its_job_ended(store: Store) -> None:
    await store.add("a")
    await store.run()
    assert await store.add("a") == Enqueued("a", created=False, status="completed")
    assert await store.dequeue() == ()


async def test_a_job_that_runs_is_found_by_its_id(store: Store) -> None:
    await store.add("a")
    await store.dequeue_one()
    assert (await store.add("a")).status == "active"


async def test_a_batch_with_one_bad_job_leaves_no_trace(store: Store) -> None:
    await store.add("old", digest=b"1")
    effects = Effects(jobs=(job("c"),), writes=(put("k"),), records=(Record("r", b"1"),))
    for bad in (job("old", digest=b"2"), job("x", needs=(Dependency("nobody"),))):
        with pytest.raises((IdConflict, UnknownDependency)):
            await store.enqueue(
                job("a", unique=Unique("u"), idempotency=Idempotency("i")), bad, job("b"), effects=effects
            )
    assert await store.statuses("a", "b", "c", "x") == [None] * 4
    assert await store.read("k") is None
    assert await store.backend.read_records("r", 0, 10) == ()
    assert (await store.add("d", unique=Unique("u"), idempotency=Idempotency("i"))).created


async def test_effects_that_cannot_be_refuse_the_whole_enqueue(store: Store) -> None:
    with pytest.raises(StateConflict):
        await store.enqueue(job("a"), effects=Effects(jobs=(job("b"),), writes=(put("k"), put("k", expected=7))))
    assert await store.statuses("a", "b") == [None, None]
    assert await store.read("k") is None


async def test_effects_of_an_enqueue_become_true_with_it(store: Store) -> None:
    writes = (put("k", b'"v"'), add("n", 3), take("t", 1, capacity=2))
    effects = Effects(jobs=(job("b"),), writes=writes, records=(Record("r", b"1"), Record("r", b"2")))
    await store.enqueue(job("a"), effects=effects)
    assert await store.statuses("a", "b") == ["pending", "pending"]
    items = await store.backend.read_state(("k", "n", "t"))
    assert [item.value if item else None for item in items] == [b'"v"', b"3", b"1"]
    assert [stored.body for stored in await store.backend.read_records("r", 0, 10)] == [b"1", b"2"]


async def test_a_follow_up_that_is_there_already_is_reported_not_refused(store: Store) -> None:
    await store.enqueue(job("a", digest=b"1"), job("u1", unique=Unique("u")), job("i1", idempotency=Idempotency("i")))
    follow_ups = (
        job("a", digest=b"2"),
        job("u2", unique=Unique("u", on_conflict="reject")),
        job("i2", idempotency=Idempotency("i"), digest=b"2"),
    )
    replies = await store.enqueue(job("b"), effects=Effects(jobs=follow_ups))
    assert replies == (
        Enqueued("b", created=True, status="pending"),
        Enqueued("a", created=False, status="pending"),
        Enqueued("u1", created=False, status="pending"),
        Enqueued("i1", created=False, status="pending"),
    )
    assert await store.statuses("u2", "i2") == [None, None]


async def test_a_follow_up_may_need_a_job_of_the_same_call(store: Store) -> None:
    await store.enqueue(job("a"), effects=Effects(jobs=(job("b", needs=(Dependency("a"),)),)))
    assert await store.statuses("a", "b") == ["pending", "waiting"]


async def test_a_follow_up_with_an_unknown_parent_refuses_the_call(store: Store) -> None:
    with pytest.raises(UnknownDependency):
        await store.enqueue(job("a"), effects=Effects(jobs=(job("b", needs=(Dependency("nobody"),)),)))
    assert await store.status("a") is None


async def test_500_jobs_go_in_with_one_call(store: Store) -> None:
    replies = await store.enqueue(*(job(f"{number:03}") for number in range(500)))
    assert all(reply.created for reply in replies)
    assert await store.count("pending") == 500
    assert len(await store.walk(Filter(statuses=tuple(LIVE)))) == 500


async def test_a_job_without_a_name_of_its_own_keeps_the_defaults(store: Store) -> None:
    await store.add("a")
    sent = (await store.view("a")).job
    assert (sent.priority, sent.max_retries, sent.max_lost, sent.lane) == (0, 3, 2, "")
    assert (sent.unique, sent.idempotency, sent.gate, sent.needs, sent.schedule_id) == (None, None, None, (), None)

"""Dequeue: which jobs, in what order, how many."""

from __future__ import annotations

from psyqueue.backend import Effects
from psyqueue.testing.conformance.handle import Store, ack, job, release, snooze


async def test_jobs_come_out_in_the_order_in_which_they_went_in(store: Store) -> None:
    ids = [f"job-{number * 7919 % 40:02}" for number in range(40)]
    for each in ids[:20]:
        await store.add(each)
    await store.enqueue(*(job(each) for each in ids[20:]))
    singles = [await store.run() for _ in range(10)]
    assert singles + await store.dequeue_ids(count=30) == ids


async def test_a_steady_stream_never_starves_the_oldest(store: Store) -> None:
    await store.add("oldest")
    await store.add("newer")
    assert await store.run() == "oldest"
    await store.add("newest")
    assert await store.run() == "newer"


async def test_a_higher_priority_goes_first_and_equals_keep_their_order(store: Store) -> None:
    priorities = (0, 5, -3, 5, 0, 1_000_000, 999_999, -1_000_000, 901, 900, 901)
    await store.enqueue(*(job(f"{number:02}", priority=each) for number, each in enumerate(priorities)))
    ranked = sorted(range(len(priorities)), key=lambda number: (-priorities[number], number))
    assert await store.dequeue_ids() == [f"{number:02}" for number in ranked]


async def test_order_is_kept_within_one_millisecond_at_any_priority(store: Store) -> None:
    """Priority and place must not share the digits of one float."""
    ids = [f"{number:03}" for number in range(100)]
    for each in ids:
        await store.add(each, priority=1_000_000)
    assert await store.dequeue_ids() == ids


async def test_queues_are_served_in_the_order_asked_for(store: Store) -> None:
    await store.enqueue(job("b1", "b", priority=9), job("a1", "a"), job("a2", "a"), job("b2", "b"))
    assert await store.dequeue_ids("a", "b", count=3) == ["a1", "a2", "b1"]
    assert await store.dequeue_ids("a", "b") == ["b2"]


async def test_only_the_queues_asked_for_are_served(store: Store) -> None:
    await store.add("x", "other")
    assert await store.dequeue("q") == ()
    assert await store.status("x") == "pending"


async def test_no_more_than_the_count_is_dequeued(store: Store) -> None:
    await store.fill(5)
    assert len(await store.dequeue(count=3)) == 3
    assert (await store.count("pending"), await store.count("active")) == (2, 3)
    assert await store.dequeue(count=0) == ()


async def test_a_job_is_dequeued_once(store: Store) -> None:
    ids = await store.fill(20)
    await store.open_session("t")
    seen: list[str] = []
    for number in range(7):
        seen += await store.dequeue_ids(count=3, session="st"[number % 2])
    assert seen == ids


async def test_an_empty_queue_gives_nothing(store: Store) -> None:
    reply = await store.settle(fetch=store.fetch("nowhere"))
    assert (reply.deliveries, reply.more, reply.next_due_in_ms) == ((), False, None)


async def test_a_delivery_carries_the_job(store: Store) -> None:
    created_at_ms = await store.now_ms()
    await store.add("a", name="mail", priority=4, lane="t", max_retries=8, cold=b'{"c":1}', schedule_id="n")
    await store.advance(1_000)
    got = await store.dequeue_one()
    assert (got.id, got.queue, got.name, got.payload, got.cold) == ("a", "q", "mail", b'{"n":1}', b'{"c":1}')
    assert (got.attempt, got.lost, got.generation, got.max_retries) == (1, 0, 0, 8)
    assert (got.priority, got.lane, got.schedule_id, got.needs) == (4, "t", "n", ())
    assert (got.created_at_ms, got.started_at_ms) == (created_at_ms, created_at_ms + 1_000)
    assert got.fence >= 1
    found = await store.view("a")
    assert (found.status, found.attempt, found.fence, found.session_id) == ("active", 1, got.fence, "s")
    assert (found.worker, found.started_at_ms, found.run_at_ms) == ("worker of s", got.started_at_ms, got.run_at_ms)


async def test_completion_tokens_never_repeat_and_fences_grow(store: Store) -> None:
    await store.fill(10, max_retries=99)
    tokens: set[str] = set()
    fences: dict[str, int] = {}
    for _ in range(4):
        deliveries = await store.dequeue(count=10)
        assert len(deliveries) == 10
        for each in deliveries:
            assert each.fence > fences.get(each.id, 0)
            fences[each.id] = each.fence
            tokens.add(each.completion_token)
        outcomes = [release(each) if number % 2 else snooze(each, 0) for number, each in enumerate(deliveries)]
        await store.settle(*outcomes)
    assert len(tokens) == 40


async def test_bytes_max_bounds_what_is_dequeued_but_never_the_first_job(store: Store) -> None:
    await store.enqueue(*(job(f"{number}", payload=b"x" * 1_000, cold=b"") for number in range(5)))
    reply = await store.settle(fetch=store.fetch(count=5, bytes_max=2_500))
    assert ([each.id for each in reply.deliveries], reply.more) == (["0", "1"], True)
    reply = await store.settle(fetch=store.fetch(count=5, bytes_max=1))
    assert ([each.id for each in reply.deliveries], reply.more) == (["2"], True)
    reply = await store.settle(fetch=store.fetch(count=5, bytes_max=2_000))
    assert [each.id for each in reply.deliveries] == ["3", "4"]


async def test_bytes_max_counts_payload_and_cold_over_all_queues(store: Store) -> None:
    await store.add("a", "a", payload=b"x" * 500, cold=b"y" * 500)
    await store.add("b", "b", payload=b"x" * 500, cold=b"y" * 500)
    reply = await store.settle(fetch=store.fetch("a", "b", count=5, bytes_max=1_999))
    assert ([each.id for each in reply.deliveries], reply.more) == (["a"], True)


async def test_a_released_job_goes_back_to_its_old_place(store: Store) -> None:
    await store.fill(3)
    first = await store.dequeue_one()
    before = await store.view("q-0001")
    await store.settle_one(release(first))
    assert await store.dequeue_ids(count=1) == ["q-0000"]
    assert await store.view("q-0001") == before


async def test_released_jobs_keep_their_order_among_themselves(store: Store) -> None:
    ids = await store.fill(6)
    deliveries = await store.dequeue(count=4)
    await store.settle(*(release(each) for each in reversed(deliveries)))
    assert await store.dequeue_ids() == ids


async def test_a_retried_job_goes_behind_those_that_were_pending_before_it(store: Store) -> None:
    await store.fill(2)
    await store.retry(await store.dequeue_one())
    await store.add("late")
    assert await store.dequeue_ids() == ["q-0001", "late", "q-0000"]


async def test_jobs_are_ordered_by_when_they_became_pending_not_by_when_they_were_due(store: Store) -> None:
    await store.add("scheduled", delay_ms=1_000)
    await store.advance(5_000)
    await store.add("fresh")
    assert await store.dequeue_ids() == ["fresh", "scheduled"]


async def test_a_job_put_in_by_an_ack_is_fetched_by_the_same_call(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    follow_up = ack(delivery, effects=Effects(jobs=(job("b"),)))
    reply = await store.settle(follow_up, fetch=store.fetch())
    assert (reply.settled[0].verdict, [each.id for each in reply.deliveries]) == ("ok", ["b"])


async def test_names_of_a_queue_may_repeat_in_a_fetch(store: Store) -> None:
    await store.fill(5)
    assert await store.dequeue_ids("q", "q", count=3) == ["q-0000", "q-0001", "q-0002"]
    assert await store.dequeue_ids("q", "other", "q") == ["q-0003", "q-0004"]


async def test_queues_with_lanes_and_without_are_served_in_the_order_asked_for(store: Store) -> None:
    await store.enqueue(job("b1", "b"), job("a1", "a", lane="x"), job("b2", "b"), job("c1", "c"), job("a2", "a"))
    assert sorted(await store.dequeue_ids("a", count=2)) == ["a1", "a2"]
    await store.enqueue(job("a3", "a", lane="x"))
    assert await store.dequeue_ids("b", "a", "c") == ["b1", "b2", "a3", "c1"]


async def test_more_is_false_when_everything_was_given(store: Store) -> None:
    await store.fill(2)
    reply = await store.settle(fetch=store.fetch(count=5))
    assert (len(reply.deliveries), reply.more) == (2, False)

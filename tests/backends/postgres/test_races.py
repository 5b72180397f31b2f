"""Steps of two clients at once, in an order that the test decides: one does not commit before the other waits.

Only PostgreSQL runs steps beside each other, so the suite cannot ask the others for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from backends.postgres.stores import beside, connected, opened
from psyqueue.backend import Change, Dependency, Effects, Gate, Idempotency, Unique
from psyqueue.backends._postgres.encoding import Outcomes
from psyqueue.backends._postgres.schema import this_release
from psyqueue.errors import IdConflict, NamespaceFrozen, QueueFull, SessionLost
from psyqueue.testing.conformance.handle import LEASE_MS, PAGE_MAX, Store, ack, add, job, retry
from support.servers import Server


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_a_child_that_comes_while_its_parent_ends(postgres_server: Server, namespace: str, ending: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await store.add("parent")
        delivery = await store.dequeue_one()
        transaction = connection.transaction()
        await transaction.start()
        await store.backend.bind(connection).settle("s", (ack(delivery),))
        child = store.add("child", needs=(Dependency("parent"),))
        reply = await beside(url, namespace, child, getattr(transaction, ending))
        assert reply.status == ("pending" if ending == "commit" else "waiting")
        if ending == "rollback":
            await store.ack(delivery)
        assert await store.status("child") == "pending"


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_a_gate_that_is_let_go_while_the_store_drains(
    postgres_server: Server, namespace: str, ending: str
) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await store.add("last", gate=Gate("g"))
        delivery = await store.dequeue_one()
        epoch = (await store.backend.info()).epoch
        await store.backend.set_mode(store.op(), "draining", epoch + 1)
        transaction = connection.transaction()
        await transaction.start()
        await store.backend.bind(connection).settle("s", (ack(delivery),))
        late = asyncio.gather(store.add("late", gate=Gate("g")), return_exceptions=True)
        (reply,) = await beside(url, namespace, late, getattr(transaction, ending))
        if ending == "commit":
            assert isinstance(reply, NamespaceFrozen)
        assert await store.status("late") == (None if ending == "commit" else "waiting")


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_a_parent_that_ends_while_its_child_comes(postgres_server: Server, namespace: str, ending: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await store.add("parent")
        delivery = await store.dequeue_one()
        transaction = connection.transaction()
        await transaction.start()
        await store.backend.bind(connection).enqueue((job("child", needs=(Dependency("parent"),)),))
        settled = await beside(url, namespace, store.ack(delivery), getattr(transaction, ending))
        assert settled.verdict == "ok"
        assert await store.status("child") == ("pending" if ending == "commit" else None)


async def test_a_parent_is_not_pruned_while_its_child_comes(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        ids = await store.fill(2)
        for delivery in await store.dequeue(count=2):
            await store.ack(delivery)
        await store.limit(retain_ended=(0, 0))
        await store.advance(1)
        async with connection.transaction():
            await store.backend.bind(connection).enqueue((job("child", needs=(Dependency(ids[0]),)),))
            assert (await store.backend.prune(PAGE_MAX)).ids == (ids[1],)
        assert await store.statuses(ids[0], "child") == ["completed", "pending"]


async def test_parents_that_end_at_once_enable_their_child_once(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await store.enqueue(job("one"), job("two"))
        await store.add("child", needs=(Dependency("one"), Dependency("two")))
        one, two = await store.dequeue(count=2)
        transaction = connection.transaction()
        await transaction.start()
        await store.backend.bind(connection).settle("s", (ack(one),))
        assert (await beside(url, namespace, store.ack(two), transaction.commit)).verdict == "ok"
        assert await store.dequeue_ids() == ["child"]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_a_child_that_comes_while_one_call_ends_both_its_parents(
    postgres_server: Server, namespace: str, ending: str
) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await store.enqueue(job("one"), job("two"))
        both = [ack(each) for each in await store.dequeue(count=2)]
        transaction = connection.transaction()
        await transaction.start()
        await store.backend.bind(connection).settle("s", both)
        child = store.add("child", needs=(Dependency("one"), Dependency("two")))
        reply = await beside(url, namespace, child, getattr(transaction, ending))
        assert reply.status == ("pending" if ending == "commit" else "waiting")
        if ending == "rollback":
            await store.settle(*both)
        assert await store.dequeue_ids() == ["child"]


async def test_one_call_that_ends_both_parents_while_their_child_comes(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await store.enqueue(job("one"), job("two"))
        both = [ack(each) for each in await store.dequeue(count=2)]
        transaction = connection.transaction()
        await transaction.start()
        child = job("child", needs=(Dependency("one"), Dependency("two")))
        await store.backend.bind(connection).enqueue((child,))
        settled = (await beside(url, namespace, store.settle(*both), transaction.commit)).settled
        assert [each.verdict for each in settled] == ["ok", "ok"]
        assert await store.dequeue_ids() == ["child"]


async def test_a_place_of_a_gate_is_given_once(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await store.backend.bind(connection).enqueue((job("one", gate=Gate("g")),))
        two = store.add("two", gate=Gate("g"))
        assert (await beside(url, namespace, two, transaction.commit)).status == "waiting"
        assert await store.dequeue_ids() == ["one"]


async def test_who_waits_for_a_gate_sees_that_its_line_is_gone(postgres_server: Server, namespace: str) -> None:
    """Of two places one came free, and the only job in line takes it while another one comes, for the second place."""
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await store.enqueue(*(job(each, gate=Gate("g", 2)) for each in ("one", "two", "three")))
        one, two = await store.dequeue(count=2)
        transaction = connection.transaction()
        await transaction.start()
        await store.backend.bind(connection).settle("s", (ack(one), ack(two)))
        four = store.add("four", gate=Gate("g", 2))
        assert (await beside(url, namespace, four, transaction.commit)).status == "pending"
        assert await store.dequeue_ids() == ["three", "four"]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
@pytest.mark.parametrize("key", ["unique", "idempotency", "id"])
async def test_whoever_comes_second_waits_for_the_first(
    postgres_server: Server, namespace: str, key: str, ending: str
) -> None:
    url = postgres_server.url
    ways: dict[str, dict[str, Any]] = {
        "unique": {"unique": Unique("k")},
        "idempotency": {"idempotency": Idempotency("k")},
    }
    fields = ways.get(key, {})
    async with opened(url, namespace) as store, connected(url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await store.backend.bind(connection).enqueue((job("one", **fields),))
        second = store.add("one" if key == "id" else "two", **fields)
        reply = await beside(url, namespace, second, getattr(transaction, ending))
        assert reply.created == (ending == "rollback")
        assert await store.count("pending") == 1


async def test_an_id_that_is_taken_in_this_moment_is_compared(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await store.backend.bind(connection).enqueue((job("one", digest=b"a"),))
        with pytest.raises(IdConflict):
            await beside(url, namespace, store.add("one", digest=b"b"), transaction.commit)


async def test_a_full_queue_counts_what_comes_in_beside(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await store.limit(pending_max=1)
        transaction = connection.transaction()
        await transaction.start()
        await store.backend.bind(connection).enqueue((job("one"),))
        with pytest.raises(QueueFull):
            await beside(url, namespace, store.add("two"), transaction.commit)


async def test_a_repeated_call_waits_for_the_first_and_brings_its_reply(
    postgres_server: Server, namespace: str
) -> None:
    """The first one hangs in the middle, since somebody holds the job's id; its copy must not do it again."""
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await store.backend.bind(connection).enqueue((job("one"),))
        op, effects = store.op(), Effects(writes=(add("n"),))
        calls = asyncio.gather(*(store.backend.enqueue(op, (job("one"),), effects) for _ in range(5)))
        first, *others = await beside(url, namespace, calls, transaction.rollback)
        assert all(each == first for each in others)
        found = await store.read("n")
        assert found is not None
        assert found.value == b"1"


async def test_a_session_ends_after_its_step(postgres_server: Server, namespace: str) -> None:
    """A fetch and the close of its session: the jobs that it got come back."""
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await store.add("a")
        delivery = await store.dequeue_one()
        transaction = connection.transaction()
        await transaction.start()
        await store.backend.bind(connection).settle("s", (retry(delivery),))
        assert (await beside(url, namespace, store.close_session(), transaction.commit)).ids == ()
        assert await store.status("a") == "scheduled"
        with pytest.raises(SessionLost):
            await store.dequeue()


async def test_a_reaper_passes_over_a_session_in_the_middle_of_a_step(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await store.fill(2)
        one, _ = await store.dequeue(count=2)
        await store.backend.reap(PAGE_MAX)
        await store.advance(LEASE_MS + 1)
        transaction = connection.transaction()
        await transaction.start()
        await store.backend.bind(connection).settle("s", (ack(one),))
        assert (await store.backend.reap(PAGE_MAX)).ids == ()
        await transaction.commit()
        assert (await store.backend.reap(PAGE_MAX)).ids == ("q-0001",)
        assert await store.statuses("q-0000", "q-0001") == ["completed", "pending"]


async def test_a_fetch_and_a_reaper_that_come_at_once(postgres_server: Server, namespace: str) -> None:
    """Whoever is first: the job is held by a session that is open, or pending."""
    url = postgres_server.url
    fetch = this_release().functions.call("settle", namespace)
    wish = (None, 0, 0, "s", *Outcomes(()).arguments, ("q",), 1, "seed", 1 << 20, None, False)
    async with opened(url, namespace) as store, connected(url) as connection:
        await store.fill(2)
        await store.open_session()
        await store.backend.reap(PAGE_MAX)
        await store.advance(LEASE_MS + 1)
        transaction = connection.transaction()
        await transaction.start()
        assert len(await connection.fetch(fetch, *wish)) == 2
        assert (await store.backend.reap(PAGE_MAX)).ids == ()
        await transaction.commit()
        assert await store.statuses("q-0000", "q-0001") == ["active", "pending"]

        transaction = connection.transaction()
        await transaction.start()
        await connection.fetch(this_release().functions.call("reap", namespace), PAGE_MAX)
        with pytest.raises(SessionLost):
            await beside(url, namespace, store.dequeue(), transaction.commit)
        assert await store.statuses("q-0000", "q-0001") == ["pending", "pending"]


async def test_schemas_made_at_once_are_made_once(postgres_server: Server, namespace: str) -> None:
    async def work(number: int) -> str:
        async with opened(postgres_server.url, namespace, client=f"c{number}") as store:
            return (await store.add(f"job-{number}")).job_id

    made = await asyncio.gather(*(work(number) for number in range(6)))
    assert len(set(made)) == 6


async def test_a_crowd_does_everything_once(postgres_server: Server, namespace: str) -> None:
    """Workers of four clients, jobs with gates, needs, keys and a limit on what runs: each job once, no count wrong."""
    url, jobs_count, active_max = postgres_server.url, 240, 7
    runs: Counter[str] = Counter()
    most = 0
    running: set[str] = set()

    async def producer(store: Store, number: int) -> None:
        for each in range(jobs_count // 4):
            name = f"{number}-{each}"
            fields: dict[str, Any] = (
                {"gate": Gate(f"g{each % 3}", 2)},
                {"needs": (Dependency(f"{number}-{each - 1}", ("completed", "dead")),)} if each else {},
                {"unique": Unique(f"u{name}")},
                {},
            )[each % 4]
            await store.add(name, **fields)

    async def worker(store: Store, session: str) -> None:
        nonlocal most
        outcomes: tuple[object, ...] = ()
        while sum(runs.values()) < jobs_count or outcomes:
            reply = await store.settle(*outcomes, session=session, fetch=store.fetch(count=3))  # type: ignore[arg-type]
            assert all(each.verdict == "ok" for each in reply.settled), reply
            for each in reply.settled:
                running.discard(each.job_id)
            running.update(each.id for each in reply.deliveries)
            most = max(most, len(running))
            runs.update(each.id for each in reply.deliveries)
            outcomes = tuple(ack(each) for each in reply.deliveries)

    async with (
        opened(url, namespace, "a") as a,
        opened(url, namespace, "b") as b,
        opened(url, namespace, "c") as c,
        opened(url, namespace, "d") as d,
    ):
        await a.limit(active_max=active_max)
        stores = (a, b, c, d)
        producers = [Store(store.backend, client=f"p{number}") for number, store in enumerate(stores)]
        async with asyncio.timeout(120):
            await asyncio.gather(
                *(producer(store, number) for number, store in enumerate(producers)),
                *(worker(store, f"s{number}") for number, store in enumerate(stores)),
            )
        assert set(runs.values()) == {1}
        assert len(runs) == jobs_count
        assert await a.count("completed") == jobs_count
        assert most <= active_max + len(stores) * 3  # ours lags behind the store's by the replies on their way


async def test_a_replay_waits_for_who_found_its_unique_key_free(postgres_server: Server, namespace: str) -> None:
    """An enqueue locks its key, looks, and writes. Nothing else could stop it in between."""
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await store.add("dead", unique=Unique("k"))
        await store.kill(await store.dequeue_one())
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("select pg_advisory_xact_lock(hashtextextended($1, 1))", f"{namespace} u k")
        replay = store.amend(Change(kind="replay"), "dead")
        assert (await beside(url, namespace, replay, transaction.commit)).changed == ("dead",)

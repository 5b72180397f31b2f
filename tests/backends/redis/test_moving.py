"""Moving house into Redis: where imported jobs lie, and that nobody can tell them from enqueued ones."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
import redis
from msgspec.structs import replace

from psyqueue.backend import PARTS, BackendAdapter, Effects, Limits, MovedJob, NewJob, Numbers, Record
from psyqueue.backends._memory import MemoryBackend
from psyqueue.testing.conformance.handle import Store, job
from psyqueue.testing.conformance.modes import switch
from psyqueue.testing.conformance.moving_house import drop, exported, take_in
from support.redis_store import redis_factory


class Place:
    """A frozen store on a server, and its keys without their base."""

    def __init__(self, backend: BackendAdapter, client: Any, base: str) -> None:
        self.store, self.client, self.base = Store(backend, client="mover"), client, base

    def kinds(self) -> dict[str, str]:
        """Of all places of jobs: key → type."""
        found = {key.decode().removeprefix(self.base): self.client.type(key).decode() for key in self.names()}
        return {key: kind for key, kind in found.items() if key.partition(":")[0] in ("p", "z", "pn", "e", "d")}

    def names(self) -> list[bytes]:
        return list(self.client.scan_iter(f"{self.base}*", count=1_000))

    def row(self, job_id: str) -> tuple[dict[bytes, bytes], bytes]:
        return self.client.hgetall(f"{self.base}j:{job_id}"), self.client.get(f"{self.base}b:{job_id}")

    def entries(self, queue: str = "q") -> list[str]:
        return [each.decode() for each in self.client.lrange(f"{self.base}p:{queue}", 0, -1)]

    async def dequeue_all(self) -> list[str]:
        await switch(self.store, "open")
        return await self.store.dequeue_ids(count=500)


@pytest_asyncio.fixture
async def place(each_redis: Any, namespace: str) -> AsyncIterator[Place]:
    factory = redis_factory(each_redis.url, namespace)
    backend = await factory.fresh()
    prefix = backend.options.key_prefix  # type: ignore[attr-defined]
    with contextlib.closing(redis.Redis.from_url(each_redis.url)) as client:
        found = Place(backend, client, f"{prefix}{{{prefix.rstrip(':')}}}:")
        await switch(found.store, "frozen")
        yield found
        assert await found.store.broken() == []
    await backend.disconnect()


@pytest_asyncio.fixture
async def source() -> AsyncIterator[Store]:
    """A store whose numbers of creation and of readiness are two sequences."""
    backend = MemoryBackend(test_clock=True)
    await backend.connect()
    yield Store(backend)
    await backend.disconnect()


async def copy(source: Store, place: Place, page: int = 500) -> None:
    """All parts, in pages of so many."""
    await switch(source, "frozen")
    for part in PARTS:
        items = await exported(source, part)
        for first in range(0, len(items), page):
            await take_in(place.store, *items[first : first + page])


def plain_jobs(count: int) -> Sequence[NewJob]:
    return [job(f"j{number:03}", payload=b'{"n":1}') for number in range(count)]


async def retry_first(source: Store) -> None:
    """It was made before all others, and is ready after them."""
    await source.retry(await source.dequeue_one())
    assert len((await source.backend.promote(("q",), 500)).ids) == 1


async def test_imported_jobs_are_the_same_bytes_as_enqueued_ones(place):
    await switch(place.store, "open")
    await place.store.enqueue(*plain_jobs(3))
    enqueued, entries, kinds = [place.row(f"j{n:03}") for n in range(3)], place.entries(), place.kinds()
    await switch(place.store, "frozen")
    items = await exported(place.store, "jobs")
    assert await drop(place.store, *items) == 3
    assert place.kinds() == {}
    assert await take_in(place.store, *items) == 3
    assert [place.row(f"j{n:03}") for n in range(3)] == enqueued
    assert (place.entries(), place.kinds()) == (entries, kinds) == (entries, {"p:q": "list"})


async def test_imported_jobs_are_acked_by_their_tickets(place, source):
    await source.enqueue(job("later", "other", delay_ms=60_000))  # a number of creation, and none of readiness
    await source.enqueue(*plain_jobs(3))
    await copy(source, place)
    await switch(place.store, "open")
    deliveries = await place.store.dequeue(count=3)
    tickets = place.client.hvals(f"{place.base}a:s")
    assert len(tickets) == 3
    assert b"" not in tickets, "an empty one stands for a job that is more than plain"
    assert [(await place.store.ack(each)).verdict for each in deliveries] == ["ok"] * 3
    assert [entry[16:17] for entry in place.client.zrange(f"{place.base}e:q", 0, -1)] == [b"c"] * 3


async def test_plain_jobs_of_all_pages_end_in_the_list(place, source):
    await source.enqueue(*plain_jobs(20))
    await retry_first(source)
    await copy(source, place, page=6)
    assert [entry.partition(":")[2] for entry in place.entries()] == [f"j{n:03}" for n in range(1, 20)]
    assert place.kinds() == {"p:q": "list", "z:q": "zset", "pn:q": "zset"}
    assert await place.dequeue_all() == [*(f"j{n:03}" for n in range(1, 20)), "j000"]


async def test_one_that_became_ready_in_between_stands_in_the_list_too(place, source):
    await source.enqueue(*plain_jobs(3))
    await retry_first(source)
    await source.add("last")
    await copy(source, place)
    assert [entry.partition(":")[2] for entry in place.entries()] == ["j001", "j002", "j000", "last"]
    assert "z:q" not in place.kinds()


async def test_pages_that_come_the_wrong_way_round_are_handed_out_in_order(place, source):
    await source.enqueue(*plain_jobs(9))
    await switch(source, "frozen")
    await take_in(place.store, *(await exported(source, "numbers")))
    items = await exported(source, "jobs")
    for first in (6, 0, 3):
        await take_in(place.store, *reversed(items[first : first + 3]))
    assert len(place.entries()) == 3
    assert await place.dequeue_all() == [f"j{n:03}" for n in range(9)]


@pytest.mark.parametrize("dropped", ["j001", "j002"])
async def test_a_job_that_went_and_came_back_starts_once(place, dropped):
    """Its old entry is still in the list."""
    await switch(place.store, "open")
    await place.store.enqueue(*plain_jobs(3))
    await switch(place.store, "frozen")
    items = [each for each in await exported(place.store, "jobs") if each.job.id == dropped]
    await drop(place.store, *items)
    await take_in(place.store, *items)
    assert await place.dequeue_all() == ["j000", "j001", "j002"]


async def test_a_new_job_comes_behind_imported_ones_also_without_their_numbers(place, source):
    await source.enqueue(*plain_jobs(3))
    await take_in(place.store, *(await exported(source, "jobs")))
    await switch(place.store, "open")
    await place.store.add("new")
    assert await place.store.dequeue_ids() == ["j000", "j001", "j002", "new"]


async def test_a_record_below_the_last_of_its_stream_is_taken_in(place):
    await switch(place.store, "open")
    records = [Record("log", b"%d" % number) for number in range(5)]
    await place.store.backend.write_state(place.store.op(), Effects(records=tuple(records)))
    await switch(place.store, "frozen")
    items = await exported(place.store, "records")
    await drop(place.store, items[1], items[2], items[4])
    assert await take_in(place.store, items[2], items[1], items[4]) == 3
    assert await exported(place.store, "records") == items
    await drop(place.store, items[4])  # the server still remembers its number
    assert await take_in(place.store, items[4]) == 1
    assert await exported(place.store, "records") == items


async def test_a_queue_is_unknown_when_its_last_limit_went(place):
    await switch(place.store, "open")
    await place.store.limit("quiet", active_max=1)
    await place.store.limit("quiet", "gold", weight=2)
    await switch(place.store, "frozen")
    both = await exported(place.store, "limits")

    async def known() -> list[str]:
        return [each.queue for each in (await place.store.backend.queues("", None, 9))[0]]

    await drop(place.store, both[0])
    assert await known() == ["quiet"]
    await drop(place.store, both[1])
    assert await known() == []
    assert [key for key in place.names() if b"limit" in key] == []


async def test_large_hashes_are_exported_once_each(place):
    """More than the server keeps in one piece: its own scan goes over them in steps."""
    await switch(place.store, "open")
    lanes = [Limits(queue="q", lane=f"lane-{number:04}", weight=2 + number) for number in range(700)]
    for first in (0, 350):
        await place.store.backend.put_limits(place.store.op(), lanes[first : first + 350])
    await switch(place.store, "frozen")
    found = await exported(place.store, "limits", limit=37)
    assert sorted(found, key=lambda each: each.lane) == lanes


async def test_numbers_are_one_sequence(place, source):
    await source.enqueue(job("later", delay_ms=60_000), *plain_jobs(2))
    await copy(source, place)
    assert await exported(place.store, "numbers") == [Numbers(3, 3)]
    moved: list[MovedJob] = await exported(place.store, "jobs")
    assert {each.job.id: (each.number, each.ready_number) for each in moved} == {
        "later": (1, None),
        "j000": (1, 1),
        "j001": (2, 2),
    }
    assert {replace(each, number=0, ready_number=0) for each in moved} == {
        replace(each, number=0, ready_number=0) for each in await exported(source, "jobs")
    }

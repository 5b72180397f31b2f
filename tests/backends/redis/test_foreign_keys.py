"""Keys under our prefix that somebody else wrote, or that are broken: typed errors, and no worker ends by them."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from typing import Any

import pytest
import redis

from psyqueue.errors import StoreUnusable
from support.store_at import place_on, store_at
from worker.rig import Rig, started, until

Harm = Callable[[redis.Redis, str], Any]


def replaced_by_text(client: redis.Redis, key: str) -> None:
    client.delete(key)
    client.set(key, "foreign")


def replaced_by_list(client: redis.Redis, key: str) -> None:
    client.delete(key)
    client.rpush(key, "foreign")


def replaced_by_hash(client: redis.Redis, key: str) -> None:
    client.delete(key)
    client.hset(key, "foreign", "1")


HEAD_BYTES = len("f2 0123456789012")
"""What the scripts put before the body of the second job."""
OF_A_JOB: dict[str, tuple[str, Harm]] = {
    "its fields are of another type": ("j:id1", replaced_by_list),
    "its fields are foreign": ("j:id1", replaced_by_hash),
    "its body is gone": ("b:id1", lambda client, key: client.delete(key)),
    "its body is of another type": ("b:id1", replaced_by_list),
    "its body is too short": ("b:id1", lambda client, key: client.set(key, b"\xff\x00")),
    "its body is cut off": ("b:id1", lambda client, key: client.set(key, client.getrange(key, 0, 19))),
    "its body says lengths that it has not": (
        "b:id1",
        lambda client, key: client.setrange(key, HEAD_BYTES, b"\xff" * 12),
    ),
    "its body holds garbage": (
        "b:id1",
        lambda client, key: client.setrange(key, HEAD_BYTES, struct.pack("<III", 2, 2, 0) + b"{}{}\xc1\xc1"),
    ),
    "its body is all foreign": ("b:id1", lambda client, key: client.set(key, b"\xff" * 60)),
}
IN_THE_LINE: dict[str, tuple[str, Harm]] = {
    "an entry of no form": ("p:q", lambda client, key: client.lpush(key, "foreign", "", "7:")),
    "an entry of no job": ("p:q", lambda client, key: client.lpush(key, "7:nobody")),
    "a member of no form": ("z:q", lambda client, key: client.zadd(key, {"foreign": 0, "": -1})),
}
OF_A_QUEUE = ("p:q", "z:q", "c:q", "d:q")


@pytest.fixture
def place(each_redis, namespace):
    return place_on(each_redis.url, f"{namespace}:")


@pytest.fixture
def harm(each_redis, namespace):
    """Does it to a key below the namespace."""

    def do(key: str, how: Harm) -> None:
        with redis.Redis.from_url(each_redis.url) as client:
            how(client, f"{namespace}:{{{namespace}}}:{key}")

    return do


def doubling(rig: Rig, queue: str = "q"):
    @rig.q.handle(f"double {queue}", queue=queue)
    async def double(n: int) -> int:
        return 2 * n

    return double


@pytest.mark.parametrize("what", OF_A_JOB)
async def test_a_broken_job_keeps_no_other_from_running(what, place, harm):
    async with started(Rig(store_at(place))) as rig:
        double = doubling(rig)
        jobs = [await double.options(id=f"id{n}").enqueue(n) for n in range(3)]
        harm(*OF_A_JOB[what])
        worker = rig.worker()
        assert [await jobs[n].result(20) for n in (0, 2)] == [0, 4]
        assert await (await double.enqueue(5)).result(20) == 10
        with contextlib.suppress(StoreUnusable):
            # Whoever started it found no handler for what it is now.
            assert (await rig.view("id1")).status in ("active", "scheduled")
        assert worker.is_running
        assert worker.failure is None


@pytest.mark.parametrize("what", IN_THE_LINE)
async def test_foreign_entries_in_the_line_are_nobodys(what, place, harm):
    async with started(Rig(store_at(place))) as rig:
        double = doubling(rig)
        jobs = [await double.enqueue(n) for n in range(3)]
        harm(*IN_THE_LINE[what])
        rig.worker()
        assert [await job.result(20) for job in jobs] == [0, 2, 4]
        assert rig.told.of("worker:error") == []


@pytest.mark.parametrize("key", OF_A_QUEUE)
async def test_a_queue_whose_key_is_foreign_is_told_and_works_again_without_it(key, place, harm):
    """The other queues go on meanwhile."""
    async with started(Rig(store_at(place))) as rig:
        double, other = doubling(rig), doubling(rig, "fine")
        job = await double.enqueue(1)
        kept: list[bytes | None] = []

        def put_away(client: redis.Redis, name: str) -> None:
            kept.append(client.dump(name))
            replaced_by_text(client, name)

        def put_back(client: redis.Redis, name: str) -> None:
            client.delete(name)
            if kept[0] is not None:
                client.restore(name, 0, kept[0])

        harm(key, put_away)
        worker = rig.worker("q", lease_ms=60_000)
        rig.worker("fine", name="w2")
        assert "WRONGTYPE" in (await rig.told.first("worker:error"))["error"]
        assert await (await other.enqueue(2)).result(20) == 4
        harm(key, put_back)
        assert await job.result(20) == 2
        assert worker.failure is None


async def test_foreign_facts_of_the_namespace_are_an_error_that_says_so(place, harm):
    harm("meta", replaced_by_text)
    with pytest.raises(StoreUnusable, match="key_prefix"):
        await store_at(place).adapter.connect()


async def test_a_foreign_memory_of_calls_is_an_error_that_says_so(place, harm):
    """And costs only the channel whose memory it was."""
    async with started(Rig(store_at(place))) as rig:
        double = doubling(rig)
        await double.enqueue(1)
        op = next(args[0] for verb, args in rig.faults.args if verb == "enqueue")
        key = f"o:{op.client}:{op.channel}"
        harm(key, replaced_by_list)
        with pytest.raises(StoreUnusable, match="key_prefix"):
            await double.enqueue(2)
        harm(key, lambda client, name: client.delete(name))
        rig.worker()
        assert await (await double.enqueue(3)).result(20) == 6
        await until(lambda: rig.told.of("worker:started"))

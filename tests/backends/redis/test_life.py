"""The life of a client: connected once, and no call that was accepted is left in doubt by a disconnect."""

from __future__ import annotations

import asyncio

import pytest

from backends.redis.test_bounds import Store, job
from psyqueue.backend import Op
from psyqueue.errors import SchemaTooNew, StoreUnusable


async def test_connects_at_the_same_time_make_one_connection(redis_server, namespace):
    store = Store(redis_server, namespace)
    before = len(store.client.client_list())
    await asyncio.gather(*(store.backend.connect() for _ in range(5)))
    assert len(store.client.client_list()) == before + 1
    await store.backend.disconnect()
    store.client.close()


async def test_calls_on_their_way_are_finished_before_a_disconnect(redis_server, namespace):
    store = Store(redis_server, namespace)
    await store.backend.connect()
    calls = [asyncio.create_task(store.backend.enqueue(Op("c", n, 1), (job(f"j{n}"),))) for n in range(50)]
    await asyncio.sleep(0)
    await store.backend.disconnect()
    assert [reply[0].job_id for reply in await asyncio.gather(*calls)] == [f"j{n}" for n in range(50)]
    store.client.close()


@pytest.mark.parametrize(
    "jobs", [(job("a"),), (job("a"), job("b")), (job("a", priority=1),)], ids=["one", "two", "rich"]
)
async def test_a_store_that_was_emptied_under_its_clients_is_made_anew(redis_server, namespace, jobs):
    """Whoever looks finds it, and no other layout is mixed with it."""
    store = Store(redis_server, namespace)
    await store.backend.connect()
    made = store.client.hget(f"{store.base}meta", "schema")
    store.client.delete(*store.client.scan_iter(f"{store.base}*", count=1_000))
    await store.backend.enqueue(Op("c", 0, 1), jobs)
    assert store.client.hget(f"{store.base}meta", "schema") == made is not None
    await store.backend.disconnect()
    store.client.close()


@pytest.mark.parametrize(
    ("schema", "error", "says"),
    [(1, StoreUnusable, "Run its jobs with that version to their end"), (99, SchemaTooNew, "Upgrade it")],
)
async def test_keys_of_another_schema_are_left_alone(redis_server, namespace, schema, error, says):
    store = Store(redis_server, namespace)
    meta = f"{namespace}:{{{namespace}}}:meta"
    store.client.hset(meta, "schema", schema)
    with pytest.raises(error, match=says):
        await store.backend.connect()
    assert store.client.hget(meta, "schema") == str(schema).encode()
    store.client.close()

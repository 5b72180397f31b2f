"""A user that may not run what the scripts need: a typed error, and no job looks as if it were gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from psyqueue.backend import Fetch, NewJob, Op, Session
from psyqueue.backends._redis import RedisBackend, RedisOptions
from psyqueue.errors import StoreUnusable

USER = "tests"
Opened = Callable[..., Any]


@pytest.fixture
async def opened(each_redis, namespace) -> AsyncIterator[Opened]:
    """A store; `without`: the commands that its user may not run."""
    with contextlib.closing(redis.Redis.from_url(each_redis.url)) as admin:
        async with contextlib.AsyncExitStack() as stack:

            async def opened(*, without: tuple[str, ...] = ()) -> RedisBackend:
                rights = ("reset", "on", ">secret", "~*", "&*", "+@all", *(f"-{command}" for command in without))
                admin.execute_command("ACL", "SETUSER", USER, *rights)
                options = RedisOptions(
                    url=each_redis.url, username=USER, password="secret", key_prefix=f"{namespace}:", test_clock=True
                )
                backend = RedisBackend(options)
                await backend.connect()
                stack.push_async_callback(backend.disconnect)
                return backend

            yield opened
            admin.execute_command("ACL", "SETUSER", USER, "+@all")
        admin.execute_command("ACL", "DELUSER", USER)


def job(job_id: str, **fields: Any) -> NewJob:
    return NewJob(id=job_id, queue="q", name="work", payload=b"1", **fields)


@pytest.mark.parametrize("command", ["get", "exists", "rpush", "zadd"])
async def test_a_command_that_is_not_allowed_is_a_typed_error(opened, command):
    store = await opened(without=(command,))
    with pytest.raises(StoreUnusable, match="ACL"):
        await store.enqueue(Op("c", 0, 1), [job("a", priority=1), job("b")])


async def test_a_lease_that_may_not_be_renewed_is_told_with_the_place(opened, each_redis):
    store = await opened(without=("zadd",))
    keeper = store.keeper()
    seeing = await opened()
    await seeing.open_session(Op("c", 0, 1), Session(id="s", worker="w", queues=("q",), lease_ms=60_000))
    await opened(without=("zadd",))
    with pytest.raises(StoreUnusable, match=f"^.STORE_UNUSABLE. 127.0.0.1:{urlsplit(each_redis.url).port}: .*ACL"):
        await asyncio.to_thread(keeper.renew, "s")
    keeper.close()


async def test_a_job_that_may_not_be_read_is_not_taken_for_one_that_is_gone(opened):
    store = await opened()
    await store.open_session(Op("c", 0, 1), Session(id="s", worker="w", queues=("q",), lease_ms=60_000))
    await store.enqueue(Op("c", 0, 2), [job("running"), job("due", delay_ms=10), job("expiring", expires_in_ms=10)])
    fetch = Fetch(queues=("q",), count=1, token_seed="seed")
    assert [each.id for each in (await store.settle(Op("c", 0, 3), "s", (), fetch)).deliveries] == ["running"]
    await store.advance_clock(10)
    blind = await opened(without=("hgetall",))
    for step in (lambda: blind.promote(("q",), 10), lambda: blind.close_session(Op("other", 0, 1), "s")):
        with pytest.raises(StoreUnusable, match="ACL"):
            await step()
    seeing = await opened()
    assert (await seeing.promote(("q",), 10)).ids == ("expiring", "due")
    assert (await seeing.close_session(Op("other", 0, 2), "s")).ids == ("running",)

"""Messages between processes: to whoever listens, in order, and again after a loss."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from backends.redis.wires import LIMIT_S, address_of, linked, until, until_reply
from psyqueue.backends._redis import topics as topics_module
from psyqueue.backends._redis.address import Address
from psyqueue.backends._redis.link import Link
from psyqueue.backends._redis.topics import BACKLOG_MAX, Topics
from psyqueue.errors import StoreUnavailable, StoreUnusable
from support.servers import Server, free_port


@contextlib.asynccontextmanager
async def opened(server: Server, base: str, **changes: object) -> AsyncIterator[Topics]:
    async with linked(server) as link:
        topics = Topics(address_of(server, **changes), link, base, "client")
        try:
            yield topics
        finally:
            await topics.close()


def listen(topics: Topics, *names: str, count: int) -> asyncio.Task[list[tuple[str, bytes]]]:
    """The first `count` that arrive."""

    async def run() -> list[tuple[str, bytes]]:
        got = []
        async with asyncio.timeout(LIMIT_S), contextlib.aclosing(topics.subscribe(names)) as stream:
            async for each in stream:
                got.append(each)
                if len(got) == count:
                    break
        return got

    return asyncio.create_task(run())


async def test_bodies_arrive_in_order_from_the_first_step_on(redis_server, namespace):
    async with opened(redis_server, namespace) as topics:
        heard = listen(topics, "a", "b", count=202)
        await asyncio.sleep(0)
        await topics.publish("a", [b"%d" % number for number in range(200)])
        await topics.publish("x", [b"no"])
        await topics.publish("b", [b"", b"\x00\xff"])
        assert await heard == [*(("a", b"%d" % number) for number in range(200)), ("b", b""), ("b", b"\x00\xff")]


async def test_listeners_of_one_process_share_a_connection_and_get_what_they_asked_for(redis_server, namespace):
    async with opened(redis_server, namespace) as topics, opened(redis_server, namespace) as sender:
        first, second = listen(topics, "a", count=1), listen(topics, "a", "größe *", count=2)
        await until(lambda: len(topics._active) == 2 and all(active.is_set() for active in topics._active.values()))
        await sender.publish("a", [b"1"])
        await sender.publish("größe *", [b"2"])
        assert await first == [("a", b"1")]
        assert await second == [("a", b"1"), ("größe *", b"2")]


async def test_bases_keep_apart(redis_server, namespace):
    async with opened(redis_server, f"{namespace}1") as topics, opened(redis_server, f"{namespace}2") as other:
        heard = listen(topics, "a", count=1)
        await asyncio.sleep(0)
        await topics.publish("a", [])
        await other.publish("a", [b"other"])
        await topics.publish("a", [b"own"])
        assert await heard == [("a", b"own")]


async def test_a_topic_that_nobody_listens_to_any_more_is_left(redis_server, namespace):
    channel = f"{namespace}t:a"
    async with opened(redis_server, namespace) as topics, linked(redis_server) as link:
        stays, goes = listen(topics, "stays", count=1), listen(topics, "a", count=1)
        await until_reply(link, lambda reply: reply[1] == 1, "PUBSUB", "NUMSUB", channel)
        await topics.publish("a", [b""])
        await goes
        await until_reply(link, lambda reply: reply[1] == 0, "PUBSUB", "NUMSUB", channel)
        again = listen(topics, "a", count=1)
        await asyncio.sleep(0)
        await topics.publish("a", [b"2"])
        assert await again == [("a", b"2")]
        await topics.publish("stays", [b""])
        await stays


async def test_a_slow_listener_misses_the_oldest(redis_server, namespace):
    async with opened(redis_server, namespace) as topics:
        stream = topics.subscribe(("a",))
        first = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        await topics.publish("a", [b"first"])
        assert await first == ("a", b"first")
        (inbox,) = topics._inboxes
        await topics.publish("a", [b"%d" % number for number in range(BACKLOG_MAX + 10)])
        quick = listen(topics, "b", count=1)
        await asyncio.sleep(0)
        await topics.publish("b", [b""])  # comes after all of them
        await quick
        assert inbox.qsize() == BACKLOG_MAX
        assert await anext(stream) == ("a", b"10")
        await stream.aclose()


async def test_a_lost_connection_is_made_again(redis_server, namespace, caplog):
    async with opened(redis_server, namespace) as topics, linked(redis_server) as link:
        heard = listen(topics, "a", count=1)
        channel = f"{namespace}t:a"
        await until_reply(link, lambda reply: reply[1] == 1, "PUBSUB", "NUMSUB", channel)
        await link.call("CLIENT", "KILL", "TYPE", "pubsub")
        await until_reply(link, lambda reply: reply[1] == 0, "PUBSUB", "NUMSUB", channel)
        await until_reply(link, lambda reply: reply[1] == 1, "PUBSUB", "NUMSUB", channel)
        await topics.publish("a", [b"again"])
        assert await heard == [("a", b"again")]
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 1


async def test_a_server_that_is_away_keeps_no_listener_from_ending(namespace):
    address = Address(host="127.0.0.1", port=free_port())
    link = Link(address)
    topics = Topics(address, link, namespace, "client")
    heard = listen(topics, "a", count=1)
    await until(lambda: topics._trouble.is_on)
    with pytest.raises(StoreUnavailable):
        await topics.publish("a", [b"1"])
    await topics.close()
    assert await heard == []


async def test_publishing_waits_for_no_listener_for_ever(redis_server, namespace, monkeypatch):
    """The server that the listener connects to says nothing; publishing goes on."""
    monkeypatch.setattr(topics_module, "_ACTIVE_MS", 20)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        async with opened(redis_server, namespace, port=silent.getsockname()[1]) as topics:
            heard = listen(topics, "a", count=1)
            await asyncio.sleep(0)
            await topics.publish("a", [b"1"])
        assert await heard == []


async def test_closing_ends_all_iterations_and_later_ones_at_once(redis_server, namespace):
    async with opened(redis_server, namespace) as topics, linked(redis_server) as link:
        heard = [listen(topics, "a", count=1) for _ in range(3)]
        await until_reply(link, lambda reply: reply[1] == 1, "PUBSUB", "NUMSUB", f"{namespace}t:a")
        await topics.close()
        assert await asyncio.gather(*heard) == [[], [], []]
        assert await listen(topics, "a", count=1) == []
        await until_reply(link, lambda reply: reply[1] == 0, "PUBSUB", "NUMSUB", f"{namespace}t:a")


async def test_a_user_without_channels_is_told_so_and_listens_in_vain(own_servers, namespace, caplog):
    server = own_servers.redis()
    async with linked(server) as link:
        await link.call("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "resetchannels")
    async with linked(server, username="app", password="pw") as link:
        topics = Topics(address_of(server, username="app", password="pw"), link, namespace, "client")
        heard = listen(topics, "a", count=1)
        await until(lambda: any("refuses a topic" in record.message for record in caplog.records))
        with pytest.raises(StoreUnusable, match="ACL"):
            await topics.publish("a", [b"1"])
        await topics.close()
        assert await heard == []

"""Waiting: nothing that is signalled is missed, nobody spins, and waiting costs next to nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from backends.redis.wires import LIMIT_S, address_of, linked, until, until_reply
from psyqueue.backends._redis import signals
from psyqueue.backends._redis.address import Address
from psyqueue.backends._redis.link import Link
from psyqueue.backends._redis.signals import Signals
from psyqueue.errors import StoreUnavailable
from support.servers import Server, free_port

LONG_MS = LIMIT_S * 1_000
CLIENT = "client-1"


class Commands:
    """The scripts that signals need, as plain commands; `ran` counts them."""

    def __init__(self, link: Link, base: str) -> None:
        self.link = link
        self.base = base
        self.ran: Counter[str] = Counter()
        self.ended: set[str] = set()

    async def run(self, script: str, *args: Any) -> Any:
        self.ran[script] += 1
        return await getattr(self, script)(*args)

    async def listen(self, client: str) -> None:
        await self.link.call("SADD", f"{self.base}listeners", client)

    async def deafen(self, client: str) -> None:
        await self.link.call("SREM", f"{self.base}listeners", client)
        await self.link.call("DEL", f"{self.base}i:{client}")

    async def signal(self, client: str, element: bytes) -> None:
        await self.link.call("RPUSH", f"{self.base}i:{client}", element)

    async def arm(self, queue: str) -> None:
        key = f"{self.base}w:{queue}"
        if not await self.link.call("EXISTS", key):
            await self.link.call("RPUSH", key, "1")

    async def watch(self, client: str, *job_ids: str) -> int:
        for job_id in job_ids:
            await self.link.call("SADD", f"{self.base}watch:{job_id}", client)
        return int(bool(self.ended & set(job_ids)))

    async def end(self, *job_ids: str) -> None:
        """What an ack does."""
        self.ended.update(job_ids)
        for job_id in job_ids:
            for client in await self.link.call("SMEMBERS", f"{self.base}watch:{job_id}"):
                await self.link.call("RPUSH", f"{self.base}i:{client.decode()}", f"j{job_id}")


class Rig:
    def __init__(self, server: Server, base: str, link: Link) -> None:
        self.base = base
        self.link = link
        self.commands = Commands(link, base)
        self.signals = Signals(lambda: Link(address_of(server)), self.commands, base, CLIENT)

    def wait(self, *queues: str, ids: tuple[str, ...] = (), timeout_ms: int = LONG_MS) -> asyncio.Task[bool]:
        return asyncio.create_task(self.signals.wait(queues, ids, timeout_ms))

    async def until_blocked_on(self, *queues: str) -> None:
        await until(lambda: self.signals._blocked_on == frozenset(queues))
        await until_reply(self.link, lambda text: b"cmd=blpop" in text, "CLIENT", "LIST", "TYPE", "normal")

    async def kill_blocked(self) -> None:
        for line in (await self.link.call("CLIENT", "LIST", "TYPE", "normal")).decode().splitlines():
            facts = dict(fact.split("=", 1) for fact in line.split())
            if facts["cmd"] == "blpop":
                await self.link.call("CLIENT", "KILL", "ID", facts["id"])


@contextlib.asynccontextmanager
async def rigged(server: Server, base: str) -> AsyncIterator[Rig]:
    async with linked(server) as link:
        rig = Rig(server, base, link)
        try:
            yield rig
        finally:
            await rig.signals.close()


@pytest.fixture
async def rig(redis_server, namespace):
    async with rigged(redis_server, namespace) as made:
        yield made


# ── waking ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_signal_wakes_all_who_wait_for_its_queue_here(rig):
    waiting, other = [rig.wait("x", "q"), rig.wait("q")], rig.wait("other")
    await rig.until_blocked_on("x", "q", "other")
    await rig.commands.arm("q")
    assert await asyncio.gather(*waiting) == [True, True]
    assert not other.done()


async def test_a_signal_that_comes_before_the_wait_is_not_lost(rig):
    await rig.commands.arm("q")
    assert await rig.wait("q")
    assert await rig.link.call("EXISTS", f"{rig.base}w:q") == 0


async def test_a_signal_goes_on_when_the_one_it_woke_does_not_look(rig):
    """Its worker may have become full meanwhile: others would sleep while a job is pending."""
    await rig.commands.arm("q")
    assert await rig.wait("q")
    await until_reply(rig.link, lambda count: count == 1, "LLEN", f"{rig.base}w:q")


async def test_a_signal_ends_with_the_look_of_the_one_it_woke(rig):
    await rig.commands.arm("q")
    assert await rig.wait("q", "other")
    rig.signals.looked(("q",))
    assert not rig.signals._owed


async def test_a_wait_without_a_signal_ends_in_vain(rig):
    assert await rig.wait("q", ids=("a",), timeout_ms=20) is False
    assert await rig.wait("q", timeout_ms=0) is False


async def test_a_newcomer_with_another_queue_is_heard_without_waking_anybody(rig):
    first = rig.wait("a")
    await rig.until_blocked_on("a")
    others = [rig.wait("b"), rig.wait("b", "c"), rig.wait("a")]
    await rig.until_blocked_on("a", "b", "c")
    assert not first.done()
    assert rig.commands.ran["signal"] == 1, "one is enough for all of them"
    await rig.commands.arm("b")
    assert await asyncio.gather(*others[:2]) == [True, True]
    assert not first.done()
    await rig.commands.arm("a")
    assert all(await asyncio.gather(first, others[2]))


@pytest.mark.parametrize("queue", ["a:b", "größe", "*", "{x}", "w:", "\u2028"])
async def test_names_of_queues_mean_nothing(rig, queue):
    waiting = rig.wait(queue)
    await rig.until_blocked_on(queue)
    await rig.commands.arm(queue)
    assert await waiting


async def test_the_end_of_a_job_wakes_all_who_wait_for_it(rig):
    waiting, other = [rig.wait(ids=("a", "b")), rig.wait(ids=("b",))], rig.wait("q", ids=("c",))
    await until(lambda: rig.commands.ran["watch"] == 3)
    await rig.until_blocked_on("q")
    await rig.commands.end("b")
    assert await asyncio.gather(*waiting) == [True, True]
    assert not other.done()


async def test_a_job_that_ended_before_is_a_reason_to_look_at_once(rig):
    rig.commands.ended.add("a")
    assert await rig.wait(ids=("a",))


async def test_a_job_that_ends_while_the_wait_begins_is_not_missed(rig):
    for number in range(20):
        waiting = rig.wait(ids=(str(number),))
        await asyncio.sleep(0)  # it has suspended: from here on nothing may be missed
        await rig.commands.end(str(number))
        assert await waiting


async def test_the_ends_of_a_whole_batch_wake_everybody(rig):
    ids = [str(number) for number in range(600)]
    waiting = [rig.wait(ids=(job_id,)) for job_id in ids]
    await until(lambda: rig.commands.ran["watch"] == 600)
    await rig.commands.end(*ids)
    assert all(await asyncio.gather(*waiting))


async def test_a_call_to_look_wakes_everybody(rig):
    """Sent to all listeners when the mode or the limits change."""
    waiting = [rig.wait("a"), rig.wait("b", ids=("c",))]
    await rig.until_blocked_on("a", "b")
    for client in await rig.link.call("SMEMBERS", f"{rig.base}listeners"):
        await rig.commands.signal(client.decode(), b"")
    assert await asyncio.gather(*waiting) == [True, True]


# ── signals for nobody ────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_signal_taken_for_nobody_is_put_back_for_others(rig):
    waiting = rig.wait("q")
    await rig.until_blocked_on("q")
    waiting.cancel()
    await asyncio.wait({waiting})
    await rig.commands.arm("q")
    await until(lambda: rig.commands.ran["arm"] == 1)
    await until_reply(rig.link, lambda found: found == 1, "EXISTS", f"{rig.base}w:q")
    assert rig.signals._blocked_on is None, "who waits for nothing asks for nothing"
    async with rigged_beside(rig) as other:
        assert await other.wait(("q",), (), LONG_MS)


@contextlib.asynccontextmanager
async def rigged_beside(rig: Rig) -> AsyncIterator[Signals]:
    """Another client of the same store."""
    other = Signals(rig.signals._link_factory, rig.commands, rig.base, "client-2")
    try:
        yield other
    finally:
        await other.close()


async def test_a_signal_taken_for_a_waiter_that_is_cancelled_is_put_back(rig):
    waiting = rig.wait("q")
    await rig.until_blocked_on("q")
    rig.signals._on_signal("q")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await until_reply(rig.link, lambda found: found == 1, "EXISTS", f"{rig.base}w:q")


async def test_a_signal_that_comes_with_the_timeout_counts(rig):
    waiting = rig.wait("q", timeout_ms=1)
    await asyncio.sleep(0)
    rig.signals._on_signal("q")
    assert await waiting


# ── cost ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_wait_costs_one_blocking_command(own_servers, namespace, monkeypatch):
    """Of somebody who looks when he is woken, however slow he is: nothing is handed on."""
    monkeypatch.setattr(signals, "HAND_ON_MS", LONG_MS)
    async with rigged(own_servers.redis(), namespace) as rig:
        for _ in range(20):
            waiting = rig.wait("q")
            await asyncio.sleep(0)
            await rig.commands.arm("q")
            assert await waiting
            rig.signals.looked(("q",))
        stats = (await rig.link.call("INFO", "commandstats")).decode()
        calls = int(stats.split("cmdstat_blpop:calls=")[1].split(",")[0])
    assert calls <= 20
    assert rig.commands.ran == {"listen": 1, "deafen": 1}


@pytest.mark.parametrize(("kind", "counted"), [("redis8", 0), ("redis6", 1)])
async def test_waits_that_end_in_vain_cost_nothing_more(own_servers, namespace, kind, counted):
    """`counted`: since 7.0 a command that blocks is counted when it ends, before that when it begins."""
    async with rigged(own_servers.redis(kind=kind), namespace) as rig:
        waiting = rig.wait("q")
        await rig.until_blocked_on("q")
        waiting.cancel()
        for _ in range(20):
            assert await rig.wait("q", timeout_ms=1) is False
        stats = (await rig.link.call("INFO", "commandstats")).decode()
    blocked = re.search(r"cmdstat_blpop:calls=(\d+)", stats)
    assert (0 if blocked is None else int(blocked[1])) == counted
    assert rig.commands.ran == {"listen": 1, "deafen": 1}


# ── trouble ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_lost_connection_wakes_everybody_and_the_next_wait_works(rig, caplog):
    waiting = [rig.wait("q"), rig.wait(ids=("a",))]
    await rig.until_blocked_on("q")
    await rig.kill_blocked()
    assert await asyncio.gather(*waiting) == [True, True]
    again = rig.wait("q")
    await rig.commands.arm("q")
    assert await again
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 1


async def test_a_restarted_server_is_listened_to_again(own_servers, namespace):
    server = own_servers.redis()
    async with rigged(server, namespace) as rig:
        waiting = rig.wait("q", ids=("a",))
        await rig.until_blocked_on("q")
        server.kill()
        assert await waiting
        server.restart()
        async with asyncio.timeout(LIMIT_S):
            while not await rig.link.call("SMEMBERS", f"{namespace}listeners"):
                await rig.wait("q", timeout_ms=100)
        again = rig.wait("q", ids=("a",))
        await rig.commands.end("a")
        assert await again


async def test_while_the_server_is_away_whoever_waits_looks_once_and_then_waits(redis_server, namespace, caplog):
    """Only the blocking connection fails: waits that ended at once would make a busy loop of their callers."""
    address = Address(host="127.0.0.1", port=free_port())
    async with linked(redis_server) as link:
        signals = Signals(lambda: Link(address), Commands(link, namespace), namespace, CLIENT)
        assert await signals.wait(("q",), (), LONG_MS)
        woken = [await signals.wait(("q",), (), 30) for _ in range(10)]
        await signals.close()
    assert woken.count(False) >= 5
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 1


async def test_commands_that_fail_are_a_reason_to_look(redis_server, namespace):
    class Failing(Commands):
        async def watch(self, client: str, *job_ids: str) -> int:
            raise StoreUnavailable("gone")

    async with linked(redis_server) as link:
        signals = Signals(lambda: Link(address_of(redis_server)), Failing(link, namespace), namespace, CLIENT)
        assert await signals.wait((), ("a",), LONG_MS)
        await signals.close()


async def test_a_defect_is_logged_and_does_not_end_the_waiting(redis_server, namespace, caplog):
    class Broken(Commands):
        async def listen(self, client: str) -> None:
            if self.ran["listen"] == 1:
                raise ValueError("defect")

    async with linked(redis_server) as link:
        commands = Broken(link, namespace)
        signals = Signals(lambda: Link(address_of(redis_server)), commands, namespace, CLIENT)
        assert await signals.wait(("q",), (), LONG_MS)
        assert "defect" in caplog.text
        await commands.arm("q")
        assert await signals.wait(("q",), (), LONG_MS)
        await signals.close()


async def test_closing_wakes_everybody_and_leaves_nothing_behind(redis_server, namespace):
    async with rigged(redis_server, namespace) as rig:
        waiting = [rig.wait("q"), rig.wait(ids=("a",))]
        await rig.until_blocked_on("q")
        await rig.commands.signal(CLIENT, b"left")
        before = asyncio.all_tasks()
        await rig.signals.close()
        await rig.signals.close()
        assert await asyncio.gather(*waiting) == [True, True]
        assert await rig.wait("q")
        assert await rig.link.call("EXISTS", f"{namespace}i:{CLIENT}", f"{namespace}listeners") == 0
        assert not [task for task in before & asyncio.all_tasks() if "psyqueue" in task.get_name()]
        await until_reply(rig.link, lambda text: b"cmd=blpop" not in text, "CLIENT", "LIST", "TYPE", "normal")


async def test_closing_is_quick_when_the_server_hangs(own_servers, namespace):
    server = own_servers.redis()
    async with rigged(server, namespace) as rig:
        waiting = rig.wait("q")
        await rig.until_blocked_on("q")
        os.kill(server.pid, signal.SIGSTOP)
        async with asyncio.timeout(5):
            await rig.signals.close()
        assert await waiting
        os.kill(server.pid, signal.SIGCONT)

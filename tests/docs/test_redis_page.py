"""What docs/backends/redis.md says of a server, tried on one."""

from __future__ import annotations

import re
from typing import Any

import pytest
import redis

from docs.pages import DOCS, coded, rows, section
from psyqueue import PsyQueue, StoreFull, StoreUnavailable, StoreUnusable
from psyqueue.backend import Change, Effects, Filter, Limits, Op, Record, Schedule, StateWrite
from support.redis_page import PAGE, documented_keys, kinds_of
from support.servers import Server

JOBS = 20_000
PAYLOAD_BYTES = 200


def queue_on(server: Server, prefix: str = "psyqueue:") -> PsyQueue:
    return PsyQueue.from_url(server.url, key_prefix=prefix)


def client_of(server: Server) -> Any:
    return redis.Redis.from_url(server.url)


# ── keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def all_kinds(q: PsyQueue, seen: Any) -> None:
    """A little of everything; `seen()` is called whenever keys are there that will go."""
    backend = q.get_exposed("backend")
    turns = iter(range(1, 1_000))

    def op() -> Op:
        return Op("page", 1, next(turns))

    @q.handle("run", queue="run", max_retries=1, backoff="fixed", backoff_base="1ms")
    async def run(fails: bool = False) -> str:
        seen()
        if fails:
            raise ValueError("on purpose")
        return "done"

    limits = Limits(queue="lanes", starts_per_minute=600, starts_burst=9)
    await backend.put_limits(op(), [limits, Limits(queue="lanes", lane="b", weight=2)])
    await q.enqueue("run", {}, queue="lanes", lane="a")
    await q.enqueue("run", {}, queue="lanes", lane="a", priority=3)
    await q.enqueue("run", {}, queue="lanes")
    await q.enqueue("run", {}, queue="plain", idempotency_key="i", unique_key="u", priority=1)
    await q.enqueue("run", {}, queue="plain", delay="1h", expires="2h")
    first = await q.enqueue("run", {}, queue="order", order_key="o")
    await q.enqueue("run", {}, queue="order", order_key="o")
    parent = await q.enqueue("run", {}, queue="run")
    await q.enqueue("run", {}, queue="children", depends_on=[parent, first])
    held = await q.enqueue("run", {}, queue="plain")
    await backend.amend(op(), Filter(ids=(held.id,)), Change(kind="hold"), None, 1)
    daily = await backend.put_schedule(op(), Schedule(id="daily", spec=b"{}", version=0, next_at_ms=1))
    await backend.fire(op(), daily, 1, (), 2)
    await backend.lock(op(), "leader", "me", 1_000)
    await backend.write_state(op(), Effects(writes=(StateWrite(kind="put", key="k", value=b"1", ttl_ms=9_000),)))
    await backend.write_state(op(), Effects(records=(Record(stream="log", body=b"x", ttl_ms=9_000),)))
    seen()
    q.start_worker("run", "lanes", concurrency=1)
    await parent.result(timeout="20s")
    bad = await run.enqueue(fails=True)
    with pytest.raises(Exception, match="on purpose"):
        await bad.result(timeout="20s")
    seen()


async def test_every_key_is_of_a_kind_that_the_page_lists(redis_server, namespace):
    client, found = client_of(redis_server), dict[str, str]()

    def seen() -> None:
        for key in client.scan_iter(f"{namespace}:*"):
            found[key.decode().partition("}:")[2]] = client.type(key).decode()

    async with queue_on(redis_server, f"{namespace}:") as q:
        await all_kinds(q, seen)
    seen()
    client.close()
    keys = documented_keys()
    assert {name: kind for name, kind in found.items() if kind not in {*kinds_of(name, keys), "none"}} == {}
    described = {name.partition(":<")[0] for name in keys}
    met = {kind for name in found for kind in (name, name.partition(":")[0])}
    # What lives for less than a call, or needs a death or a mistake.
    rare = {"closing", "closed", "cr", "followers", "i", "k"}
    assert described - met <= rare, "the page lists no key that there is not"


# ── durability ────────────────────────────────────────────────────────────────────────────────────────────────────────
DURABILITY = [
    (*coded(cells[0]), *(coded(cell)[0] for cell in cells[1:]))
    for cells in rows(section(DOCS / "backends" / "redis.md", "Durability"))
]


@pytest.mark.parametrize("row", DURABILITY, ids=lambda row: ", ".join(row[:2]))
async def test_durability_says_what_the_page_says(own_servers, row):
    *settings, server_crash, power_loss = row
    server = own_servers.redis()
    client = client_of(server)
    for setting in settings:
        name, value = setting.split(" ", 1)
        client.config_set(name, value.strip('"'))
    client.close()
    async with queue_on(server) as q:
        found = await q.durability()
    assert (found.process_crash, found.server_crash, found.power_loss) == ("safe", server_crash, power_loss)
    assert found.failover == "lost"


async def test_an_accepted_job_survives_the_kill_of_a_server_that_syncs_always(own_servers):
    server = own_servers.redis(durable=True)
    async with queue_on(server) as q:
        jobs = await q.enqueue_bulk([{"name": "keep", "payload": number} for number in range(100)])
        server.kill()
    server.restart()
    async with queue_on(server) as q:
        found = [await q.get(job.id) for job in jobs]
    assert all(view is not None and view.status == "pending" for view in found)


# ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_waiting_job_takes_what_the_page_says(own_servers):
    (text,) = re.findall(r"payload of 200 bytes takes (\d+) to (\d+) bytes", PAGE.read_text())
    least, most = map(int, text)
    server = own_servers.redis()
    client = client_of(server)
    async with queue_on(server) as q:
        before = client.info("memory")["used_memory"]
        payload = "x" * (PAYLOAD_BYTES - 2)
        for _ in range(0, JOBS, 500):
            await q.enqueue_bulk([{"name": "thumbnail", "payload": payload, "options": {"queue": "images"}}] * 500)
        each = (client.info("memory")["used_memory"] - before) / JOBS
    client.close()
    # Tables of the server double at some numbers of keys: the figures of the page are for one such number.
    assert least * 0.8 <= each <= most * 1.2, each


async def test_a_full_server_refuses_an_enqueue_whole_and_still_drains(own_servers):
    server = own_servers.redis()
    client = client_of(server)
    async with queue_on(server) as q:
        ran = []

        @q.handle("work")
        async def work(number: int) -> None:
            ran.append(number)

        waiting = [await work.enqueue(number) for number in range(3)]
        client.config_set("maxmemory", "1mb")
        with pytest.raises(StoreFull):
            await q.enqueue_bulk([{"name": "work", "payload": {"number": 9}}] * 2)
        q.start_worker()
        for job in waiting:
            await job.result(timeout="20s")
        client.config_set("maxmemory", "0")
        assert len(await q.jobs()) == 3
    client.close()
    assert ran == [0, 1, 2]


@pytest.mark.parametrize(("policy", "is_taken"), [("allkeys-lru", False), ("volatile-lru", True)])
async def test_a_server_that_may_throw_jobs_away_is_refused(own_servers, policy, is_taken):
    server = own_servers.redis()
    client = client_of(server)
    client.config_set("maxmemory-policy", policy)
    client.close()
    if not is_taken:
        with pytest.raises(StoreUnusable, match="allow_eviction=True"):
            await queue_on(server).start()
    async with PsyQueue.from_url(server.url, allow_eviction=not is_taken) as q:
        assert any("noeviction" in text for text in (await q.durability()).warnings)


async def test_missing_replicas_refuse_every_write_and_say_so(own_servers):
    server = own_servers.redis()
    client = client_of(server)
    async with queue_on(server) as q:
        client.config_set("min-replicas-to-write", 1)
        with pytest.raises(StoreUnavailable, match="min-replicas-to-write") as refused:
            await q.enqueue("x")
        assert refused.value.outcome == "refused"
        client.config_set("min-replicas-to-write", 0)
        assert len(await q.jobs()) == 0
    client.close()


# ── failures ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "commands",
    [["SCRIPT FLUSH"], ["FUNCTION FLUSH"], ["CLIENT KILL TYPE normal"], ["FLUSHALL"]],
    ids=lambda commands: commands[0],
)
async def test_a_worker_goes_on_after(own_servers, commands):
    server = own_servers.redis()
    if commands == ["FUNCTION FLUSH"] and server.version < "7":
        pytest.skip(f"{server.kind} {server.version} has no functions")
    client = client_of(server)
    async with queue_on(server) as q:

        @q.handle("double")
        async def double(number: int) -> int:
            return 2 * number

        q.start_worker(lease="2s")
        assert await (await double.enqueue(1)).result(timeout="20s") == 2
        for command in commands:
            client.execute_command(*command.split())
        assert await (await double.enqueue(2)).result(timeout="40s") == 4
        assert await q.get_exposed("backend").check(None, 100) == ((), None)
    client.close()


async def test_a_foreign_key_in_the_place_of_a_queue_is_named_and_costs_no_job(redis_server, namespace):
    client = client_of(redis_server)
    client.set(f"{namespace}:{{{namespace}}}:p:mail", "foreign")
    async with queue_on(redis_server, f"{namespace}:") as q:
        for _ in range(2):
            with pytest.raises(StoreUnusable, match="foreign key"):
                await q.enqueue("mail", {}, id="one")
        client.delete(f"{namespace}:{{{namespace}}}:p:mail")
        assert (await q.enqueue("mail", {}, id="one")).created
        assert await q.process_next("mail")
    client.close()


async def test_names_are_never_interpreted(redis_server, namespace):
    names = ["a", "a:b", "a*", "a}b", "{a}", "a?[x]", "../a", "a b", "größe", "%s", "-1", "'; return 1 --"]
    async with queue_on(redis_server, f"{namespace}:") as q:
        for name in names:
            await q.enqueue(name, {}, queue=name, lane=name, id=name, unique_key=name)
        for name in names:
            assert [view.id for view in (await q.jobs(queue=name)).items] == [name]
            await q.pause(name)
        assert len(await q.jobs(text="*")) == 1
        assert await q.get_exposed("backend").check(None, 100) == ((), None)
    async with queue_on(redis_server, f"{namespace}*:") as q:
        assert len(await q.jobs()) == 0

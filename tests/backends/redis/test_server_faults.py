"""A server that forgets scripts, throws clients out, is full, turns replica, loads or changes its password.

Each time: what is refused is told by its type, whatever runs is settled, and the worker heals without help.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import replace

import pytest
import redis

from backends.troubles import LEASE_MS, Held, enqueued_at_last
from psyqueue.errors import StoreFull, StoreUnavailable, StoreUnusable
from support.redis_server import EACH
from support.servers import spawn
from support.store_at import place_on, store_at
from worker.rig import Rig, count_effects, effects_of, renewed_often, started, until


@pytest.fixture(params=EACH)
def server(request, own_servers):
    """One's own, of each kind: its settings are changed."""
    return own_servers.redis(kind=request.param)


@pytest.fixture
def admin(server):
    with redis.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
async def rig(server):
    async with started(Rig(store_at(place_on(server.url, "faults:")))) as made:
        yield made


async def test_flushed_scripts_and_killed_clients_make_nothing_run_twice(server, rig, monkeypatch):
    """One of them with every tenth run, under load."""
    count_effects(monkeypatch)
    starts: Counter[int] = Counter()
    harms = itertools.cycle(
        [
            ("SCRIPT", "FLUSH"),
            ("FUNCTION", "FLUSH"),
            ("CLIENT", "KILL", "TYPE", "normal"),
            ("CLIENT", "KILL", "TYPE", "pubsub"),
        ]
    )

    def harm() -> None:
        command = next(harms)
        if command[0] == "FUNCTION" and server.version.startswith("6."):
            return
        with redis.Redis.from_url(server.url) as client:
            client.execute_command(*command)

    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler(n: int) -> int:
        starts[n] += 1
        if n % 10 == 0:
            harm()
        return n

    worker = rig.worker(concurrency=4, lease_ms=LEASE_MS)
    jobs = []
    for first in range(0, 200, 20):
        jobs += await asyncio.gather(*[handler.enqueue(n) for n in range(first, first + 20)])
    await until(lambda: len(starts) == 200, 60)
    await until(lambda: worker.health()["held"] == 0)
    assert await rig.ended(*jobs) == ["completed"] * 200
    assert set(starts.values()) == {1}
    assert await effects_of(rig, jobs) == [1] * 200
    assert await rig.statuses("q") == {"completed": 200}
    assert worker.failure is None


async def test_flushed_scripts_alone_are_no_trouble(server, admin, rig):
    held = Held(rig)
    held.go.set()
    rig.worker(lease_ms=LEASE_MS)
    for n in range(20):
        admin.script_flush()
        if not server.version.startswith("6."):
            admin.execute_command("FUNCTION", "FLUSH")
        assert await (await held.handler.enqueue(n)).result(20) == n
    assert rig.told.of("worker:error") == []


async def test_a_full_server_takes_no_job_and_lets_the_running_ones_end(admin, rig, monkeypatch):
    count_effects(monkeypatch)
    held = Held(rig)
    jobs = [await held.handler.enqueue(n) for n in range(5)]
    worker = rig.worker(concurrency=3, lease_ms=LEASE_MS)
    await rig.told.first("job:started", count=3)
    admin.config_set("maxmemory", 1)
    keys = sorted(admin.keys())
    with pytest.raises(StoreFull, match="maxmemory"):
        await held.handler.enqueue(5)
    with pytest.raises(StoreFull):
        await rig.q.enqueue_bulk(
            [held.handler.options(unique_key="u", lane="l", delay="1h").build(n) for n in range(6, 9)]
        )
    assert sorted(admin.keys()) == keys, "nothing of what was refused is there"
    held.go.set()
    assert [await job.result(20) for job in jobs] == [0, 1, 2, 3, 4]
    assert await effects_of(rig, jobs) == [1] * 5
    assert (await rig.store.check(None, 500))[0] == ()
    admin.config_set("maxmemory", 0)
    assert await (await held.handler.enqueue(9)).result(20) == 9
    assert worker.failure is None


async def test_a_master_that_is_a_replica_for_a_while_is_waited_for(admin, rig, monkeypatch):
    """READONLY: nothing is taken in and nothing is lost."""
    count_effects(monkeypatch)
    held = Held(rig)
    jobs = [await held.handler.enqueue(n) for n in range(3)]
    worker = rig.worker(concurrency=3, lease_ms=LEASE_MS)
    await rig.told.first("job:started", count=3)
    admin.replicaof("127.0.0.1", 1)
    with pytest.raises(StoreUnavailable, match="replica") as told:
        await held.handler.enqueue(3)
    assert told.value.outcome == "refused"
    held.go.set()
    assert "replica" in (await rig.told.first("worker:error", count=2))["error"]
    assert await rig.statuses("q") == {"active": 3}
    admin.replicaof("NO", "ONE")
    assert [await job.result(20) for job in jobs] == [0, 1, 2]
    assert await (await held.handler.enqueue(4)).result(20) == 4
    assert await effects_of(rig, jobs) == [1] * 3
    assert worker.failure is None


async def test_a_password_that_is_changed_under_a_worker_is_told_and_healed_from(admin, rig, monkeypatch):
    count_effects(monkeypatch)
    held = Held(rig)
    jobs = [await held.handler.enqueue(n) for n in range(3)]
    worker = rig.worker(concurrency=3, lease_ms=LEASE_MS)
    await rig.told.first("job:started", count=3)
    admin.config_set("requirepass", "another")
    admin.execute_command("CLIENT", "KILL", "TYPE", "normal")
    with pytest.raises(StoreUnusable, match="password="):
        await held.handler.enqueue(3)
    held.go.set()
    assert "password" in (await rig.told.first("worker:error", count=2))["error"]
    admin.config_set("requirepass", "")
    assert [await job.result(20) for job in jobs] == [0, 1, 2]
    assert await (await held.handler.enqueue(4)).result(20) == 4
    assert await effects_of(rig, jobs) == [1] * 3
    assert worker.failure is None


async def test_a_server_killed_under_load_has_all_it_acknowledged_and_is_waited_for_while_it_loads(
    own_servers, monkeypatch
):
    """The kill meets running jobs; the restart is slowed down so that the server says LOADING for a while."""
    server = own_servers.redis(durable=True)
    count_effects(monkeypatch)
    async with started(Rig(store_at(place_on(server.url, "faults:")))) as rig:
        held = Held(rig)
        jobs = await rig.q.enqueue_bulk([held.handler.build(n) for n in range(200)])
        worker = rig.worker(concurrency=3, lease_ms=LEASE_MS)
        await rig.told.first("job:started", count=3)
        # Between its looks at the network a loading server reads a thousand commands.
        for _ in range(10):
            await rig.q.enqueue_bulk([{"name": "held", "payload": {"n": 0}, "options": {"queue": "later"}}] * 500)
        server.kill()
        held.go.set()
        with pytest.raises(StoreUnavailable) as told:
            await rig.store.info()
        assert told.value.outcome in ("refused", "unknown")
        assert server.launch is not None
        slow = [*server.launch.argv, "--key-load-delay", "200"]
        server.process = spawn(replace(server.launch, argv=slow, is_ready=lambda pid: True))
        last, errors = await enqueued_at_last(held, 200)
        assert any("loading" in error.message for error in errors), errors
        assert await rig.ended(*jobs, last) == ["completed"] * 201
        assert held.starts == dict.fromkeys(range(201), 1)
        assert await effects_of(rig, jobs) == [1] * 200
        assert worker.failure is None


async def test_a_server_that_went_back_in_time_is_worked_on(admin, rig, monkeypatch):
    """A snapshot of an older moment, or a replica that lacked the last writes: what it lost is done again."""
    held = Held(rig)
    jobs = [await held.handler.enqueue(n) for n in range(3)]
    worker = rig.worker(concurrency=3, lease_ms=renewed_often(monkeypatch))  # it asks with each renewal
    await rig.told.first("job:started", count=3)
    moment = {key: admin.dump(key) for key in admin.scan_iter(count=1_000)}
    held.go.set()
    assert [await job.result(20) for job in jobs] == [0, 1, 2]
    with admin.pipeline() as back:
        back.flushall()
        for key, value in moment.items():
            back.restore(key, 0, value)
        back.execute()
    assert await rig.statuses("q") == {"active": 3}
    assert await (await held.handler.enqueue(3)).result(20) == 3
    assert await rig.ended(*jobs) == ["completed"] * 3
    assert held.starts == {0: 2, 1: 2, 2: 2, 3: 1}
    assert (await rig.store.check(None, 500))[0] == ()
    assert worker.failure is None

"""What may happen to the server of a storm: it dies and comes back, stands still, throws its clients out, forgets."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from collections.abc import Callable
from functools import partial

import asyncpg
import redis

from psyqueue.testing.history import Recorder
from support import postgres_server, redis_server
from support.postgres_server import start_postgres
from support.redis_server import start_redis
from support.servers import Server

TERMINATED_S = 1.0
_VICTIMS = """
    select pg_terminate_backend(pid) from (
        select pid from pg_stat_activity
        where backend_type = 'client backend' and pid <> pg_backend_pid() order by random() limit $1
    ) as victims
"""
_STARTS: dict[str, Callable[..., Server]] = {
    "redis": start_redis,
    "postgres": start_postgres,
    **{kind: partial(start_redis, wheel=wheel) for kind, wheel in redis_server.EACH.items()},
    **{kind: partial(start_postgres, wheel=wheel) for kind, wheel in postgres_server.EACH.items()},
}


def server_named(store: str) -> Server | None:
    """A server of one's own that has on disk what it acknowledged; None where `store` is a place."""
    return _STARTS[store](durable=True) if store in _STARTS else None


def harm(server: Server, recorder: Recorder, chance: random.Random, away_s: float) -> None:
    """One harm. It is written down before it happens; a server that dies is back after `away_s`."""
    dice = chance.random()
    if server.kind == "postgres":
        if dice < 0.5:
            take_away(server, recorder, chance.choice((signal.SIGKILL, signal.SIGQUIT)), away_s)
        else:
            # It draws for as long as it lasts; the rest of the plan is not to depend on that.
            asyncio.run(_terminate(server, recorder, random.Random(chance.random())))
    elif dice < 0.4:
        take_away(server, recorder, signal.SIGKILL, away_s)
    elif dice < 0.5:
        _hold_up(server, recorder, away_s)
    elif dice < 0.8:
        _trouble(server, recorder, "CLIENT", "KILL", "TYPE", chance.choice(("normal", "pubsub")))
    else:
        _trouble(server, recorder, "SCRIPT", "FLUSH")
        _trouble(server, recorder, "FUNCTION", "FLUSH")


def take_away(server: Server, recorder: Recorder, how: signal.Signals, away_s: float) -> None:
    """It comes back with all that it had acknowledged. SIGQUIT is PostgreSQL's immediate shutdown."""
    recorder.fault(how.name, "server")
    os.kill(server.pid, how)
    assert server.process is not None
    server.process.wait(10)
    threading.Event().wait(away_s)
    server.restart()


def _hold_up(server: Server, recorder: Recorder, for_s: float) -> None:
    """It is slow: nobody is cut off, everybody waits."""
    recorder.fault("SIGSTOP", "server")
    os.kill(server.pid, signal.SIGSTOP)
    threading.Event().wait(for_s)
    os.kill(server.pid, signal.SIGCONT)


def _trouble(server: Server, recorder: Recorder, *command: str) -> None:
    recorder.fault(" ".join(command), "server")
    with redis.Redis.from_url(server.url) as client:
        client.execute_command(*command)


async def _terminate(server: Server, recorder: Recorder, chance: random.Random) -> None:
    """Backends taken at random, again and again."""
    loop = asyncio.get_running_loop()
    connection = await asyncpg.connect(server.url)
    try:
        end = loop.time() + TERMINATED_S
        while loop.time() < end:
            count = chance.randint(1, 5)
            recorder.fault(f"pg_terminate_backend of {count}", "server")
            await connection.execute(_VICTIMS, count)
            await asyncio.wait([loop.create_future()], timeout=chance.uniform(0, 0.1))
    finally:
        await connection.close()

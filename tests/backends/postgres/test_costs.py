"""What a step costs, in things that can be counted: pages touched, rows looked at, functions called."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import asyncpg
import pytest

from backends.postgres.stores import connected, opened
from psyqueue.backend import NO_EFFECTS, Ack, Fetch, MovedJob, NewJob
from psyqueue.backends._postgres.encoding import Outcomes, intake_of, lone_of
from psyqueue.backends._postgres.moving import import_arguments
from psyqueue.backends._postgres.schema import this_release
from psyqueue.testing.conformance.handle import Store, cancelled, dead, job, release, retry, snooze
from psyqueue.testing.conformance.modes import switch
from psyqueue.testing.conformance.moving_house import drop, exported
from support.servers import Server

BATCH = 100


async def cost(connection: asyncpg.Connection, schema: str, name: str, *arguments: Any) -> int:
    """Pages that the call touches, which is done."""
    text = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {this_release().functions.call(name, schema)}"
    plan = json.loads(await connection.fetchval(text, *arguments))[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def settling(turn: int, acks: tuple[Ack, ...], seed: str, count: int) -> tuple[Any, ...]:
    fetch = Fetch(queues=("q",), count=count, token_seed=seed)
    return ("c", 0, turn, "s", *Outcomes(acks).arguments, fetch.queues, fetch.count, seed, fetch.bytes_max, None, False)


def enqueueing(turn: int, *jobs: NewJob) -> tuple[Any, ...]:
    return ("c", 0, turn, *intake_of(jobs, NO_EFFECTS))


def enqueueing_lone(turn: int, job: NewJob) -> tuple[Any, ...]:
    return ("c", 0, turn, *(lone_of((job,), NO_EFFECTS) or ()))


async def prepared(store: Store, connection: asyncpg.Connection, schema: str) -> None:
    """Plans of all that is measured are made, and there is work."""
    await store.open_session()
    await store.fill(3 * BATCH)
    await connection.execute(f'vacuum "{schema}".job, "{schema}".body')
    for turn in (1, 2):
        await cost(connection, schema, "settle", *settling(turn, (), f"warm-{turn}", 1))
    await cost(connection, schema, "enqueue_lone", *enqueueing_lone(3, job("warm")))
    await cost(connection, schema, "enqueue", *enqueueing(4, job("warm 1"), job("warm 2")))


async def test_a_batch_of_acks_and_starts_touches_few_pages(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await prepared(store, connection, namespace)
        held = await store.dequeue(count=BATCH)
        acks = tuple(Ack(job_id=each.id, completion_token=each.completion_token) for each in held)
        pages = await cost(connection, namespace, "settle", *settling(5, acks, "seed", BATCH))
        assert await store.count("completed") == await store.count("active") - 2 == BATCH
    assert pages / BATCH < 28


async def plans(connection: asyncpg.Connection, schema: str, name: str, *arguments: Any) -> list[Any]:
    """Of all statements in the call, which is done."""
    statement = await connection.prepare(this_release().functions.call(name, schema))  # looks at types, too
    try:
        await connection.execute("load 'auto_explain'")
    except asyncpg.UndefinedFileError:
        pytest.skip("this server comes without auto_explain")
    await connection.execute("""
        set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;
        set auto_explain.log_analyze = on; set auto_explain.log_timing = off;
        set auto_explain.log_format = 'json'; set auto_explain.log_level = notice
    """)
    found: list[Any] = []
    connection.add_log_listener(lambda _, message: found.append(json.loads(message.message.partition("plan:\n")[2])))
    await statement.fetch(*arguments)
    await connection.execute("set auto_explain.log_min_duration = -1")
    return [each["Plan"] for each in found]


def rows_looked_at(plan: dict[str, Any]) -> int:
    """By the busiest part of a plan: what it gave on, and what it threw away."""
    here = sum(plan.get(word, 0) for word in ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Join Filter"))
    return max([int(here * plan["Actual Loops"]), *map(rows_looked_at, plan.get("Plans", ()))])


@pytest.mark.parametrize("analyzed", ["never", "while all waited", "while all ran"])
async def test_no_ack_is_looked_for_among_all_others(postgres_server: Server, namespace: str, analyzed: str) -> None:
    """The planner may find it cheap to join each ack with each active job, which it believes to be few."""
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as owner, connected(url) as connection:
        await store.open_session()
        await store.fill(4 * BATCH)
        if analyzed == "while all waited":
            await owner.execute(f'analyze "{namespace}".job, "{namespace}".body')
        held = await store.dequeue(count=2 * BATCH)
        if analyzed == "while all ran":
            await owner.execute(f'analyze "{namespace}".job, "{namespace}".body')
        acks = tuple(Ack(job_id=each.id, completion_token=each.completion_token) for each in held)
        found = await plans(connection, namespace, "settle", *settling(5, acks, "seed", 2 * BATCH))
        assert await store.count("completed") == await store.count("active") == 2 * BATCH
    assert 2 * BATCH <= max(map(rows_looked_at, found)) <= 4 * BATCH


async def test_an_enqueue_touches_few_pages(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await prepared(store, connection, namespace)
        lone = await cost(connection, namespace, "enqueue_lone", *enqueueing_lone(5, job("lone")))
        many = await cost(
            connection, namespace, "enqueue", *enqueueing(6, *(job(f"m{number}") for number in range(BATCH)))
        )
    assert lone < 35
    assert many / BATCH < 12


@pytest.mark.parametrize(("verb", "calls_max"), [("settle", 10), ("enqueue_lone", 3), ("dequeue_lone", 1)])
async def test_a_usual_step_is_a_handful_of_functions(
    postgres_server: Server, namespace: str, verb: str, calls_max: int
) -> None:
    """Each is some ten µs: what nothing asks for, no limit, lane, sleeper or follower, is not called."""
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await prepared(store, connection, namespace)
        held = await store.dequeue(count=10)
        acks = tuple(Ack(job_id=each.id, completion_token=each.completion_token) for each in held)
        await store.add("lone", "lone")
        arguments = {
            "settle": settling(5, acks, "seed", 10),
            "enqueue_lone": enqueueing_lone(5, job("new")),
            "dequeue_lone": ("c", 0, 5, "s", "lone", 10, "seed", 1 << 20, False),
        }[verb]
        calls = await functions_called(url, namespace, verb, *arguments)
    assert sum(calls.values()) <= calls_max, calls


@pytest.mark.parametrize("analyzed", ["never", "while all waited", "while all had ended"])
@pytest.mark.parametrize("jobs", [0, 1])
async def test_a_lone_fetch_looks_at_nothing_else(
    postgres_server: Server, namespace: str, analyzed: str, jobs: int
) -> None:
    """Neither at the jobs of other queues and other statuses, nor at the sessions of others."""
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as owner, connected(url) as connection:
        for number in range(20):
            await store.open_session(f"s{number:02}")
        await store.open_session()
        await store.fill(BATCH, "other")
        await store.fill(BATCH)
        if analyzed == "while all waited":
            await owner.execute(f'analyze "{namespace}".job, "{namespace}".body, "{namespace}".session')
        await store.settle(*map(dead, await store.dequeue(count=BATCH)))
        if analyzed == "while all had ended":
            await owner.execute(f'analyze "{namespace}".job, "{namespace}".body, "{namespace}".session')
        if jobs:
            await store.add("lone")
        turn = store.op().turn
        found = await plans(
            connection, namespace, "dequeue_lone", "tester", 0, turn, "s", "q", 10, "seed", 1 << 20, False
        )
        assert await store.count("active") == jobs
    assert len(found) == 2 + jobs, "the call, its look, and the start"
    assert max(map(rows_looked_at, found)) <= 3


async def test_no_step_is_compiled(postgres_server: Server, namespace: str) -> None:
    """To read a table of one row counts as dear where reading whole ones is off: enough for JIT, and that is slow."""
    async with opened(postgres_server.url, namespace), connected(postgres_server.url) as connection:
        compiled = await connection.fetch(
            """
            select proname from pg_proc where pronamespace = $1::text::regnamespace
                and 'enable_seqscan=off' = any (proconfig) and not 'jit=off' = any (proconfig)
            """,
            f'"{namespace}"',
        )
    assert compiled == []


async def test_outcomes_that_are_no_acks_go_in_sets(postgres_server: Server, namespace: str) -> None:
    """Twenty of each kind in one call: no function is called once a job."""
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await prepared(store, connection, namespace)
        held = await store.dequeue(count=BATCH)
        kinds = (retry, dead, release, cancelled, partial(snooze, delay_ms=1_000))
        outcomes = tuple(kinds[number % len(kinds)](each) for number, each in enumerate(held))
        arguments = ("c", 0, 5, "s", *Outcomes(outcomes).arguments, None, 0, "seed", 1 << 20, None, False)
        calls = await functions_called(url, namespace, "settle", *arguments)
        counts = [await store.count(status) for status in ("scheduled", "dead", "cancelled")]
    assert sum(calls.values()) <= 15, calls
    assert counts == [40, 20, 20]


async def functions_called(url: str, schema: str, verb: str, *arguments: Any) -> dict[str, int]:
    """How often which function of the schema was called by a call, which is done."""
    functions = this_release().functions
    async with connected(url) as looker:
        async with connected(url) as connection:
            await connection.execute("set track_functions = 'all'")
            await connection.fetch(functions.call(verb, schema), *arguments)
        calls: dict[str, int] = {}
        while not calls.get(verb + functions.suffix):
            rows = await looker.fetch(
                "select funcname, calls, pg_sleep(0.01) from pg_stat_user_functions where schemaname = $1", schema
            )
            calls = {row["funcname"]: row["calls"] for row in rows}
    return calls


# ── moving house ──────────────────────────────────────────────────────────────────────────────────────────────────────
async def moved(store: Store, connection: asyncpg.Connection, schema: str) -> list[MovedJob]:
    """A batch of jobs, made last in a store that is frozen now."""
    await prepared(store, connection, schema)
    await store.enqueue(*(job(f"m{number:03}", lane=f"l{number % 7}") for number in range(BATCH)))
    await switch(store, "frozen")
    return [each for each in await exported(store, "jobs") if each.job.id.startswith("m")]


async def test_an_import_is_a_few_statements_whatever_its_size(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        items = await moved(store, connection, namespace)
        before = await store.count("pending")
        assert await drop(store, *items) == BATCH
        lone = await plans(connection, namespace, "import_part", "c", 0, 7, *import_arguments(items[:1]))
        many = await plans(connection, namespace, "import_part", "c", 0, 8, *import_arguments(items[1:]))
        assert len(lone) == len(many) < 30
        assert await store.count("pending") == before


async def test_a_page_of_an_export_begins_where_the_last_one_ended(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        items = await moved(store, connection, namespace)
        place = json.dumps([items[0].number - 1])
        found = await plans(connection, namespace, "export_part", "jobs", place, BATCH)
    assert BATCH <= max(map(rows_looked_at, found)) <= 2 * BATCH

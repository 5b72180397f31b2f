"""Jobs of one call that are alike say so once: queue, name and cold go as one element.

Only PostgreSQL has such columns. Each way that takes them in is gone by jobs that are alike, and by jobs that are not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from backends.postgres.stores import opened
from psyqueue.backends._postgres.encoding import columns_of
from psyqueue.testing.conformance.handle import Store, job
from support.servers import Server

ALIKE: list[dict[str, Any]] = [{"queue": "q", "name": "work", "cold": b'{"timeout":1}'}] * 3
MIXED: list[dict[str, Any]] = [*ALIKE[:2], {"queue": "other", "name": "more", "cold": b"{}"}]
JOBS = pytest.mark.parametrize("fields", [pytest.param(ALIKE, id="alike"), pytest.param(MIXED, id="mixed")])


async def usual(store: Store) -> dict[str, Any]:
    return {}


async def counted(store: Store) -> dict[str, Any]:
    await store.limit(pending_max=10)
    return {}


async def in_a_lane(store: Store) -> dict[str, Any]:
    return {"lane": "tenant"}


async def beside_a_taken_id(store: Store) -> dict[str, Any]:
    await store.add("0", name="first", queue="first")
    return {}


@JOBS
@pytest.mark.parametrize("prepare", [usual, counted, in_a_lane, beside_a_taken_id])
async def test_jobs_are_what_was_said_of_them_each_or_once(
    postgres_server: Server,
    namespace: str,
    prepare: Callable[[Store], Awaitable[dict[str, Any]]],
    fields: list[dict[str, Any]],
) -> None:
    async with opened(postgres_server.url, namespace) as store:
        also = await prepare(store)
        replies = await store.enqueue(*(job(str(at), **each, **also) for at, each in enumerate(fields)))
        first = 0 if replies[0].created else 1
        assert first == (prepare is beside_a_taken_id)
        views = {view.job.id: view.job for view in await store.backend.get(["0", "1", "2"]) if view is not None}
        for at, each in list(enumerate(fields))[first:]:
            view = views[str(at)]
            assert {name: getattr(view, name) for name in each} == each
            assert view.lane == also.get("lane", "")
        assert (await store.dequeue("q", "other", count=3))[-1].cold == fields[-1]["cold"]


@JOBS
def test_what_is_the_same_in_all_is_one_element(fields: list[dict[str, Any]]) -> None:
    _, queues, names, payloads, colds, *_ = columns_of([job(str(at), **each) for at, each in enumerate(fields)])
    assert [len(column) for column in (queues, names, colds)] == [1 if fields is ALIKE else 3] * 3
    assert len(payloads) == 3


def test_no_jobs_are_no_elements() -> None:
    assert columns_of([])[:3] == ([], [], [])

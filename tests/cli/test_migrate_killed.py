"""`psyqueue migrate` between stores of all kinds: SIGKILL when a random part is copied, and run again."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from moving.conftest import BETWEEN
from moving.rig import content, startable_in
from psyqueue.backend import BackendAdapter, Dependency, Gate, Unique
from psyqueue.cli.existing import as_it_is, backend_at, require_store
from psyqueue.errors import StoreError
from psyqueue.testing.conformance import Store
from psyqueue.testing.conformance.handle import DAY_MS, add, job, put
from support.names import new_name
from support.waiting import wait_until

PLAIN = 9_000
"""Enough for a look at both stores to be quicker than the copy, also where others use the machine."""
Ends = tuple[str, str]
pytestmark = pytest.mark.slow


@pytest.fixture(params=BETWEEN, ids="-".join)
def ends(request: pytest.FixtureRequest, shop: Any) -> Ends:
    """The addresses of a store with jobs, and of one that is not there yet."""

    def address(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:{shop.folder}/{new_name()}.db"
        server, name = request.getfixturevalue(f"{kind}_server"), new_name()
        return f"{server.url}?key_prefix={name}:" if kind == "redis" else f"{server.url}?schema={name}"

    old, new = map(address, request.param)
    with_stores(furnish, old)
    return old, new


async def furnish(store: Store) -> None:
    await store.fill(PLAIN)
    await store.enqueue(
        *(job(f"urgent-{n}", "mixed", priority=n % 3, lane=f"lane {n % 2}") for n in range(40)),
        *(job(f"later-{n}", "mixed", delay_ms=DAY_MS + n, unique=Unique(f"u{n}")) for n in range(40)),
        *(job(f"gated-{n}", "mixed", gate=Gate("g", 2)) for n in range(20)),
        *(job(f"child-{n}", "mixed", needs=(Dependency("q-0000"), Dependency(f"urgent-{n}"))) for n in range(40)),
    )
    await store.limit("mixed", active_max=7)
    await store.write(put("plain", b'{"a":1}'), add("n", 41))


def with_stores(work: Callable[..., Awaitable[Any]], *places: str | BackendAdapter) -> Any:
    """Look at stores from this process."""

    async def run() -> Any:
        opened = [backend_at(place) if isinstance(place, str) else place for place in places]
        async with contextlib.AsyncExitStack() as stack:
            for backend in opened:
                await backend.connect()
                stack.push_async_callback(backend.disconnect)
            return await work(*map(Store, opened))

    return asyncio.run(run())


async def mode_of(store: Store) -> str:
    return (await store.backend.info()).mode


async def count_of(store: Store) -> int:
    return sum(sum(info.counts.values()) for info in (await store.backend.queues("", None, 500))[0])


def jobs_in(url: str) -> int:
    """0 if the store is not there yet."""
    try:
        backend = as_it_is(backend_at(url))
        require_store(backend)
        return int(with_stores(count_of, backend))
    except StoreError:
        return 0


def has_jobs(url: str, count: int) -> bool:
    return jobs_in(url) >= count


def kill_when(shop: Any, is_time: Callable[[], bool], *arguments: str) -> None:
    move = shop.start(*arguments)
    assert wait_until(lambda: is_time() or move.process.poll() is not None, limit_s=60), move.text
    move.kill()


def require_once(ends: Ends) -> None:
    ids = with_stores(startable_in, *ends)
    assert len(ids) == len(set(ids)), "a job can be started in both stores"


def picture(url: str) -> Any:
    return with_stores(content, url)


def test_killed_at_random_moments_and_run_again_it_ends_as_if_never_killed(shop, ends):
    """Once while it copies, once when all is there: while it compares, decides or opens."""
    old, new = ends
    before = picture(old)
    move = ("migrate", "--from", old, "--to", new, "--yes")
    total, dice = len(before["jobs"]), random.Random("-".join(url.partition(":")[0] for url in ends))
    for count in (dice.randrange(1, total), total):
        kill_when(shop, partial(has_jobs, new, count), *move)
        require_once(ends)
    assert shop.json(*move)["ok"]
    assert [picture(url) for url in ends] == [before, before]
    assert [with_stores(mode_of, url) for url in ends] == ["moved", "open"]


def test_killed_while_it_copies_and_while_it_is_rolled_back_nothing_has_happened(shop, ends):
    old, new = ends
    before = picture(old)
    places = ("--from", old, "--to", new)
    kill_when(shop, lambda: jobs_in(new) > 0, "migrate", *places, "--yes")
    assert with_stores(mode_of, old) == "frozen", "it was killed too late to show anything"
    there = jobs_in(new)
    kill_when(shop, lambda: jobs_in(new) < there, "migrate", "rollback", *places)
    require_once(ends)
    if with_stores(mode_of, old) == "frozen":
        assert shop.json("migrate", "rollback", *places)["rolled_back"]
    after, left = map(picture, ends)
    assert after == before
    assert not any(left.values())
    assert [with_stores(mode_of, url) for url in ends] == ["open", "open"]

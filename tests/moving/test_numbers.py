"""A number stands for one job, also where one sequence of numbers is for creation and for readiness.

In SQLite and PostgreSQL these are two sequences, in Redis they are one. `g2` is the second job made, `p1` the second to
become ready.
"""

from __future__ import annotations

from moving.rig import content, live, mover
from psyqueue.backend import Gate
from psyqueue.testing.conformance import Store
from psyqueue.testing.conformance.handle import job
from psyqueue.testing.conformance.moving_house import exported

JOBS = (job("g1", gate=Gate("g")), job("g2", gate=Gate("g")), job("p1"), job("p2"))


async def numbers(store: Store) -> list[int]:
    return [item.number for item in await exported(store, "jobs")]


async def test_moved_twice_jobs_keep_their_order_and_each_has_a_number_of_its_own(ends, fresh_of):
    old, new = ends
    third = Store(await fresh_of("sqlite")(), client="third")
    for store in (new, third):
        await store.advance(await old.now_ms() - await store.now_ms())
    await old.enqueue(*JOBS)
    before = await content(old)
    await mover(old, new).run()
    assert len(set(await numbers(new))) == len(JOBS)
    await mover(new, third, names=("new", "third")).run()
    assert await content(third) == before
    assert [await third.run() for _ in JOBS] == ["g1", "p1", "p2", "g2"]
    assert await third.broken() == []
    await third.backend.disconnect()


async def test_newcomers_that_are_rolled_back_and_moved_again_do_so_too(ends):
    old, new = ends
    await new.advance(await old.now_ms() - await new.now_ms())
    await old.add("first")
    await live(old, new).begin()
    await new.enqueue(*JOBS)
    await live(old, new).rollback()
    assert len(set(await numbers(old))) == 1 + len(JOBS)
    await live(old, new).begin()
    await live(old, new).finish()
    assert [await new.run() for _ in range(5)] == ["first", "g1", "p1", "p2", "g2"]
    assert await new.broken() == []

"""Dead letters: all pages, real deletion, events, and honest refusals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from psyqueue import DeadLetter, InvalidOption, InvalidState, JobNotFound, PsyQueue
from psyqueue.backends import memory
from support.kernel import Heard


async def bad(n=0):
    raise DeadLetter(f"bad {n}")


async def bury(q, count, queue="graves", **options):
    """`count` dead jobs in `queue`; the handler is registered once."""
    handler = q._core.handlers.find("bad")
    if handler is None:
        q.handle("bad", bad)
    handles = await q.enqueue_bulk(
        [{"name": "bad", "payload": {"n": n}, "options": options} for n in range(count)], queue=queue
    )
    for _ in range(count):
        assert await q.process_next(queue)
    return handles


async def test_list_pages_through_all_dead_jobs_once(started):
    handles = await bury(started, 7)
    await bury(started, 2, queue="others")
    await started.enqueue("alive", queue="graves")
    seen, cursor = [], None
    while True:
        page = await started.dead_letter.list(queue="graves", limit=3, cursor=cursor)
        seen += [view.id for view in page]
        assert {view.status for view in page} <= {"dead"}
        cursor = page.cursor
        if cursor is None:
            break
    assert sorted(seen) == sorted(handle.id for handle in handles)


async def test_list_by_name(started):
    await bury(started, 2)
    assert len(await started.dead_letter.list(name="bad")) == 2
    assert len(await started.dead_letter.list(name="good")) == 0


async def test_replay_starts_the_job_over_and_tells(q):
    """D-98: a replayed job has all its retries again; its errors stay to be read."""
    heard = Heard(q.events, "job:replayed")
    async with q:
        (handle,) = await bury(q, 1)
        view = await q.dead_letter.replay(handle.id)
        assert (view.status, view.attempt, view.lost, view.generation) == ("pending", 0, 0, 1)
        assert [error["message"] for error in view.errors] == ["bad 0"]
    assert heard.events == [("job:replayed", {"job_id": handle.id, "queue": "graves", "name": "bad"})]


async def test_replay_takes_a_handle_too(started):
    (handle,) = await bury(started, 1)
    assert (await started.dead_letter.replay(handle)).status == "pending"


async def test_replay_of_what_is_not_dead_is_refused(started):
    handle = await started.enqueue("x")
    with pytest.raises(InvalidState, match="is pending, not dead"):
        await started.dead_letter.replay(handle.id)
    with pytest.raises(JobNotFound):
        await started.dead_letter.replay("nobody")


async def test_replay_is_refused_while_a_live_job_holds_its_unique_key(started):
    (handle,) = await bury(started, 1, unique_key="one")
    await started.enqueue("x", unique_key="one")
    with pytest.raises(InvalidState, match="unique key 'one' is held"):
        await started.dead_letter.replay(handle.id)


async def test_replay_all_goes_through_every_page_and_tells_each(q):
    """D-99."""
    heard = Heard(q.events, "job:replayed")
    async with q:
        await bury(q, 620)
        await bury(q, 3, queue="others")
        assert await q.dead_letter.replay_all(queue="graves") == 620
        assert await q.dead_letter.replay_all(queue="graves") == 0
        assert len(await q.dead_letter.list()) == 3
    assert len({data["job_id"] for data in heard.data("job:replayed")}) == 620


async def test_purge_deletes_every_page(started):
    handles = await bury(started, 620)
    kept = await started.enqueue("alive", queue="graves")
    assert await started.dead_letter.purge(queue="graves") == 620
    assert await started.get(handles[0].id) is None
    assert await started.get(kept.id) is not None


async def test_purge_by_time_of_death():
    q = PsyQueue().use(memory(test_clock=True))
    async with q:
        (old,) = await bury(q, 1)
        store = q.get_exposed("backend")
        await store.advance_clock(3_600_000)
        (new,) = await bury(q, 1)
        died = (await new.refresh()).completed_at
        assert await q.dead_letter.purge(before=died - timedelta(minutes=30)) == 1
        assert await q.get(old.id) is None
        assert await q.get(new.id) is not None
        assert await q.dead_letter.purge(before=died) == 0


@pytest.mark.parametrize(
    ("use", "option"),
    [
        (lambda d: d.list(limit=0), "limit"),
        (lambda d: d.list(limit=501), "limit"),
        (lambda d: d.list(queue=""), "queue"),
        (lambda d: d.purge(before=datetime(2026, 1, 1)), "before"),  # noqa: DTZ001 - the naive one is the point
        (lambda d: d.replay_all(name=7), "name"),
    ],
)
async def test_absurd_filters_are_refused(started, use, option):
    with pytest.raises(InvalidOption, match=option):
        await use(started.dead_letter)


async def test_purge_before_the_first_death_deletes_nothing(started):
    await bury(started, 1)
    assert await started.dead_letter.purge(before=datetime(2001, 1, 1, tzinfo=UTC)) == 0

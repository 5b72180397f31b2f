"""Before start, after stop, in a forked child: each misuse is a typed error, before anything is written."""

from __future__ import annotations

import asyncio
import os

import pytest

from psyqueue import (
    AlreadyStopped,
    ForkedProcess,
    InvalidOption,
    LifecycleError,
    NotStarted,
    PsyQueue,
    StoreUnavailable,
)
from psyqueue.backends import memory
from support.kernel import Heard, build, next_turn

USES = {
    "enqueue": lambda q: q.enqueue("job"),
    "enqueue_bulk": lambda q: q.enqueue_bulk([{"name": "job"}]),
    "enqueue_bulk of nothing": lambda q: q.enqueue_bulk([]),
    "process_next": lambda q: q.process_next("job"),
    "get": lambda q: q.get("1"),
    "jobs": lambda q: q.jobs(),
    "cancel": lambda q: q.cancel("1"),
    "explain": lambda q: q.explain("1"),
    "durability": lambda q: q.durability(),
    "pause": lambda q: q.pause("job"),
    "resume": lambda q: q.resume("job"),
    "limits": lambda q: q.limits("job", weight=2),
    "dead_letter.list": lambda q: q.dead_letter.list(),
    "dead_letter.replay": lambda q: q.dead_letter.replay("1"),
    "dead_letter.replay_all": lambda q: q.dead_letter.replay_all(),
    "dead_letter.purge": lambda q: q.dead_letter.purge(),
    "handle.result": lambda q: q.handle_of("1").result(1),
    "handle.cancel": lambda q: q.handle_of("1").cancel(),
    "handle.refresh": lambda q: q.handle_of("1").refresh(),
    "stop_workers": lambda q: q.stop_workers(),
}


@pytest.fixture(params=USES)
def use(request):
    return USES[request.param]


async def test_use_before_start_says_how_to_start(q, use):
    with pytest.raises(NotStarted, match=r"await q.start\(\)"):
        await use(q)


async def test_use_after_stop_is_refused(q, use):
    async with q:
        pass
    with pytest.raises(AlreadyStopped, match="new PsyQueue"):
        await use(q)


async def test_worker_before_start_and_after_stop_is_refused(q):
    q.handle("job", print_nothing)
    with pytest.raises(NotStarted):
        q.start_worker()
    async with q:
        pass
    with pytest.raises(AlreadyStopped):
        q.start_worker()


async def print_nothing():
    return None


async def test_handler_object_before_start_is_refused(q):
    handler = q.handle("job", print_nothing)
    with pytest.raises(NotStarted):
        await handler.enqueue()


async def test_second_start_is_refused(started):
    with pytest.raises(LifecycleError, match="is running already: leave this"):
        await started.start()


async def test_start_after_stop_is_refused(q):
    async with q:
        pass
    with pytest.raises(LifecycleError, match=r"is stopped.*make a new PsyQueue"):
        await q.start()


async def test_stop_is_idempotent_also_without_a_start():
    q = PsyQueue().use(memory())
    await q.stop()
    await q.stop()
    with pytest.raises(AlreadyStopped):
        await q.enqueue("job")


async def test_second_stop_waits_for_the_first():
    q, probe = build()
    await q.start()
    heard = Heard(q.events)
    going, go_on = asyncio.Event(), asyncio.Event()

    async def slow():
        going.set()
        await go_on.wait()

    probe.store.before["disconnect"] = slow
    first = asyncio.ensure_future(q.stop())
    await going.wait()
    second = asyncio.ensure_future(q.stop())
    await next_turn()
    assert not second.done()
    go_on.set()
    await asyncio.gather(first, second)
    assert heard.types() == ["kernel:stopped"]


async def test_stop_whose_caller_is_cancelled_goes_on_and_closes_everything():
    """A handler that stops its own queue is such a caller: it waits for itself until the grace is over."""
    q = PsyQueue().use(memory())
    heard = Heard(q.events, "kernel:stopped")

    @q.handle("stops", queue="q")
    async def stops():
        await q.stop(grace=0.01)

    await q.start()
    store = q._core.backend
    q.start_worker()
    job = await q.enqueue("stops")
    async with asyncio.timeout(20):
        while q.is_running:
            await asyncio.to_thread(lambda: None)
        await q.stop()
    assert heard.types() == ["kernel:stopped"]
    with pytest.raises(StoreUnavailable):
        await store.get([job.id])


async def test_queue_that_is_stopped_while_it_starts_is_stopped():
    q, probe = build()
    heard = Heard(q.events)
    going, go_on = asyncio.Event(), asyncio.Event()

    class Slow:
        name = "slow"

        async def start(self) -> None:
            going.set()
            await go_on.wait()

    q.use(Slow())
    starting = asyncio.ensure_future(q.start())
    await going.wait()
    await q.stop()
    go_on.set()
    with pytest.raises(AlreadyStopped, match="was stopped while it started"):
        await starting
    assert not q.is_running
    assert probe.store.count("disconnect") == 1
    assert heard.types() == []
    with pytest.raises(AlreadyStopped, match="new PsyQueue"):
        await q.enqueue("job")


async def test_is_running_from_start_to_stop(q):
    assert not q.is_running
    async with q:
        assert q.is_running
    assert not q.is_running


async def test_stop_waits_for_enqueues_that_were_accepted():
    q, probe = build()
    await q.start()
    going, go_on = asyncio.Event(), asyncio.Event()

    async def slow(op, jobs):
        going.set()
        await go_on.wait()

    probe.store.before["enqueue"] = slow
    callers = [asyncio.ensure_future(q.enqueue("job")) for _ in range(3)]
    await going.wait()
    stopping = asyncio.ensure_future(q.stop())
    await next_turn()
    go_on.set()
    await stopping
    assert [handle.created for handle in await asyncio.gather(*callers)] == [True] * 3
    assert [verb for verb, _ in probe.store.calls][-1] == "disconnect"


async def test_handlers_of_a_draining_worker_may_still_enqueue(q):
    running, go_on = asyncio.Event(), asyncio.Event()
    made = []

    async def parent():
        running.set()
        await go_on.wait()
        made.append(await q.enqueue("child"))

    await q.start()
    handler = q.handle("parent", parent)
    q.start_worker("parent")
    await handler.enqueue()
    await asyncio.wait_for(running.wait(), 5)
    stopping = asyncio.ensure_future(q.stop())
    await next_turn()
    go_on.set()
    await stopping
    assert made[0].created


async def test_use_from_another_event_loop_is_refused_instead_of_hanging(started, use):
    """A plain handler runs in a thread, and `asyncio.run(q.enqueue(...))` there is the first thing that one tries."""

    def in_thread():
        with pytest.raises(LifecycleError, match=r"event loop.*ctx\.enqueue"):
            asyncio.run(_awaited(use(started)))

    await asyncio.to_thread(in_thread)


async def _awaited(coro):
    return await coro


async def test_worker_and_stop_outside_of_the_queues_loop_are_refused(started):
    started.handle("job", print_nothing)

    def in_thread():
        with pytest.raises(LifecycleError, match="event loop"):
            started.start_worker()
        with pytest.raises(LifecycleError, match="event loop"):
            asyncio.run(started.stop())

    await asyncio.to_thread(in_thread)
    assert started.is_running


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"concurrency": 10_001}, "concurrency"),
        ({"prefetch": -1}, "prefetch"),
        ({"prefetch": "much"}, "prefetch"),
        ({"lease": "10ms"}, "lease"),
        ({"lease": "2h"}, "lease"),
        ({"name": "a\nb"}, "name"),
    ],
)
async def test_absurd_worker_options_are_refused(started, options, option):
    with pytest.raises(InvalidOption, match=option):
        started.start_worker("mail", **options)


async def test_queues_of_a_worker_are_named_one_by_one(started):
    handler = started.handle("job", print_nothing)
    for queues in (["mail", "images"], handler):
        with pytest.raises(InvalidOption, match=r'start_worker\("mail", "images"\)'):
            started.start_worker(queues)


async def test_worker_without_any_queue_is_refused(started):
    with pytest.raises(Exception, match="name some, or register handlers"):
        started.start_worker()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded")
async def test_forked_child_cannot_use_the_queue_and_leaves_the_parents_alone(started):
    """The child tries every kind of use and reports through its exit status."""
    assert _in_child(lambda: _all_refused(started))
    assert (await started.enqueue("job")).created


def _all_refused(q) -> bool:
    for use in [*USES.values(), lambda q: q.stop(), lambda q: q.start()]:
        try:
            use(q).send(None)
        except ForkedProcess:
            continue
        return False
    try:
        q.start_worker("job")
    except ForkedProcess:
        return True
    return False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded")
def test_forked_child_may_start_a_queue_of_its_own(q):
    """Built before the fork, started after it: what a pre-forking server does."""

    async def child():
        async with q:
            return (await q.enqueue("job")).created

    assert _in_child(lambda: asyncio.run(child()))


def _in_child(check) -> bool:
    """Whether `check()` is true in a forked child, which never comes back into the test run."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if check() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

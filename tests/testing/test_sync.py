"""`q.sync.testing()`: the same kit for tests without asyncio, called from plain functions."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import signal
import sqlite3
import sys
import threading
import unittest
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime

import pytest

from psyqueue import Context, Depends, ForkedProcess, LifecycleError, PsyQueue, Retry
from psyqueue.backends import memory, postgres, redis
from psyqueue.errors import InvalidOption, InvalidState
from psyqueue.testing import Kit, StillRunning, SyncKit, TooManyRuns
from support.waiting import wait_until

NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)

# No test reaches this server: there is none.
shop = PsyQueue(name="shop").use(postgres(host="nowhere.invalid"))


@shop.handle("order.ship", queue="orders")
def ship(number: int) -> str:
    return f"shipped {number}"


@shop.handle("order.bill", backoff_base="1m")
async def bill(ctx: Context, number: int) -> int:
    if ctx.attempt < 3:
        raise ConnectionError("not yet")
    return number


@pytest.fixture
def q() -> PsyQueue:
    return PsyQueue().use(redis(host="nowhere.invalid"))


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("psyqueue")]


def no_thread_is_left() -> bool:
    """Nobody waits for those of a worker's handlers: they end by themselves once it has stopped."""
    return wait_until(lambda: threads() == [])


def here() -> int:
    return threading.get_ident()


# ── as the other kit ──────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("number", [1, 2, 3])
def test_same_queue_serves_test_after_test_and_leaves_no_thread(number):
    with shop.sync.testing() as t:
        assert isinstance(t, SyncKit)
        job = ship.sync.enqueue(number)
        t.assert_enqueued(ship, payload={"number": number}, queue="orders", count=1)
        t.refute_enqueued("order.bill")
        assert t.job(job).status == "pending"
        assert t.drain() == 1
        assert t.job(job).result == job.result(timeout="1s") == f"shipped {number}"
    assert t.history.of(job).events == ["enqueued", "started", "completed"]
    assert no_thread_is_left()
    assert not shop.is_running


def test_every_verb_of_the_kit_is_there_with_the_same_parameters():
    for ours, theirs, names in (
        (SyncKit, Kit, [name for name, _ in inspect.getmembers(Kit, inspect.isfunction) if not name.startswith("_")]),
        (type(shop.sync), PsyQueue, ["testing"]),
    ):
        for name in names:
            twin = getattr(ours, name)
            assert inspect.signature(twin).parameters == inspect.signature(getattr(theirs, name)).parameters, name
            assert not inspect.iscoroutinefunction(twin)
    looks = {name for name, _ in inspect.getmembers(Kit, lambda each: isinstance(each, property))}
    assert looks <= vars(SyncKit).keys()


def test_time_passes_when_the_test_says_so():
    with shop.sync.testing(now=NEW_YEAR, raise_errors=False) as t:
        job = bill.sync.enqueue(7)
        assert t.advance("1m") == 2
        assert t.job(job).status == "scheduled"
        assert t.advance("2m") == 1
        assert t.job(job).result == 7
        assert (t.now - NEW_YEAR).total_seconds() == 180
        assert [str(each.error) for each in t.failures] == ["not yet", "not yet"]


def test_error_of_a_handler_comes_out_of_drain_with_its_own_lines(q):
    def fail() -> None:
        raise ConnectionError("no")

    q.handle("fail", fail, max_retries=0)
    with q.sync.testing() as t:
        job = q.sync.enqueue("fail")
        with pytest.raises(ConnectionError, match="no") as caught:
            t.drain()
        assert caught.traceback[0].name == "test_error_of_a_handler_comes_out_of_drain_with_its_own_lines"
        assert caught.traceback[-1].name == "fail"
        assert t.job(job).status == "dead"


def test_near_misses_are_told_without_our_own_frames(q):
    with q.sync.testing() as t:
        q.sync.enqueue("work", {"to": "ada"})
        with pytest.raises(AssertionError, match=r"payload\.to is 'ada', not 'eve'") as caught:
            t.assert_enqueued("work", payload={"to": "eve"})
        visible = caught.traceback.filter(caught)
        assert [frame.name for frame in visible] == ["test_near_misses_are_told_without_our_own_frames"]


def test_inline_job_has_run_when_its_enqueue_returns(q):
    @q.handle("outer")
    def outer() -> str:
        return str(q.sync.enqueue("inner"))

    q.handle("inner", lambda: "done")
    with q.sync.testing(mode="inline") as t:
        job = q.sync.enqueue("outer")
        assert t.job(t.job(job).result).result == "done"
        assert t.history.events[:3] == ["enqueued", "started", "enqueued"], "the inner one waits for the outer"


def test_worker_runs_jobs_in_real_time():
    with shop.sync.testing(clock="real") as t:
        shop.sync.start_worker()
        jobs = [ship.sync.enqueue(number) for number in range(3)]
        t.idle()
        assert [job.result(timeout="5s") for job in jobs] == ["shipped 0", "shipped 1", "shipped 2"]
    assert no_thread_is_left()


def test_context_of_the_application_runs_inside_and_changes_nothing():
    with shop.sync.testing() as t:
        with shop.sync:
            ship.sync.enqueue(1)
        shop.sync.stop()
        assert t.drain() == 1


def test_two_queues_are_tested_at_once(q):
    q.handle("count", lambda: 3)
    with shop.sync.testing() as one, q.sync.testing() as other:
        ship.sync.enqueue(1)
        q.sync.enqueue("count")
        one.advance("1h")
        assert [len(one.enqueued()), len(other.enqueued())] == [1, 1]
        assert other.drain() == 1
        assert one.now > other.now


def test_threads_of_the_application_enqueue_into_the_test():
    with shop.sync.testing() as t, ThreadPoolExecutor(4) as server:
        ids = {job.id for job in server.map(ship.sync.enqueue, range(20))}
        assert {view.id for view in t.enqueued(ship)} == ids
        assert t.drain() == 20


def test_a_test_case_of_the_standard_library_uses_it():
    class Orders(unittest.TestCase):
        def setUp(self) -> None:
            self.jobs = self.enterContext(shop.sync.testing())

        def test_one(self) -> None:
            job = ship.sync.enqueue(1)
            self.jobs.drain()
            assert self.jobs.job(job).result == "shipped 1"

        def test_other(self) -> None:
            self.jobs.refute_enqueued()

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Orders).run(result)
    assert (result.testsRun, result.failures, result.errors) == (2, [], [])


# ── the thread of the test ────────────────────────────────────────────────────────────────────────────────────────────
def test_plain_handlers_run_in_the_thread_of_the_test_and_see_its_transaction(q):
    with closing(sqlite3.connect(":memory:")) as db:  # refuses other threads

        @q.handle("rename")
        def rename(name: str) -> None:
            db.execute("UPDATE users SET name = ?", (name,))
            q.sync.enqueue("greet", delay="1h")

        q.handle("greet", lambda: db.execute("SELECT name FROM users").fetchone()[0])
        db.execute("CREATE TABLE users (name TEXT)")
        db.execute("INSERT INTO users VALUES ('ada')")
        with q.sync.testing() as t:
            q.sync.enqueue("rename", {"name": "eve"})
            t.drain()
            t.advance("1h")
            assert t.enqueued("greet")[0].result == "eve"
        db.rollback()


def test_workers_run_plain_handlers_in_threads_of_their_own(q):
    q.handle("where", here)
    with q.sync.testing(clock="real"):
        q.sync.start_worker()
        assert q.sync.enqueue("where").result(timeout="5s") != threading.get_ident()


def test_context_variables_reach_handlers_and_do_not_come_back(q):
    tenant = contextvars.ContextVar("tenant", default="nobody")

    @q.handle("look")
    def look() -> str:
        seen = tenant.get()
        tenant.set("changed")
        return seen

    with q.sync.testing() as t:
        tenant.set("acme")
        job = q.sync.enqueue("look")
        t.drain()
        assert (t.job(job).result, tenant.get()) == ("acme", "acme")


def test_async_dependencies_of_a_plain_handler_run_on_the_loop(q):
    async def where() -> str:
        await asyncio.sleep(0)
        return threading.current_thread().name

    @q.handle("look")
    def look(*, place: str = Depends(where)) -> list[str]:
        return [place, threading.current_thread().name]

    with q.sync.testing() as t:
        job = q.sync.enqueue("look")
        t.drain()
        assert t.job(job).result == ["psyqueue-test", threading.current_thread().name]


def test_verdicts_and_odd_ends_of_plain_handlers_are_what_they_are_in_a_worker(q):
    @q.handle("later")
    def later() -> None:
        raise Retry(after="5m")

    @q.handle("stop", max_retries=0)
    def stop() -> None:
        raise StopIteration

    def leave() -> None:
        sys.exit()

    q.handle("exit", leave, max_retries=0)
    with q.sync.testing(raise_errors=False) as t:
        jobs = [q.sync.enqueue(name) for name in ("later", "stop", "exit")]
        assert t.drain() == 3
        assert [t.job(each).status for each in jobs] == ["scheduled", "dead", "dead"]
        assert [type(each.error) for each in t.failures] == [RuntimeError, SystemExit]
    with q.sync.testing() as t:
        q.sync.enqueue("exit")
        with pytest.raises(SystemExit):
            t.drain()
        t.assert_enqueued("exit", status="dead")


def test_interrupt_of_a_plain_handler_ends_the_test_and_hands_its_job_back(q):
    @q.handle("hang")
    def hang() -> None:
        signal.raise_signal(signal.SIGINT)

    with q.sync.testing() as t:
        job = q.sync.enqueue("hang")
        with pytest.raises(KeyboardInterrupt):
            t.drain()
    assert (t.job(job).status, t.job(job).lost) == ("pending", 0)
    assert no_thread_is_left()


def test_handler_cannot_run_the_jobs_of_its_test(q):
    with q.sync.testing() as t:

        @q.handle("greedy")
        def greedy() -> None:
            t.drain()

        q.sync.enqueue("greedy")
        with pytest.raises(InvalidState, match="a handler cannot run the jobs of its test"):
            t.drain()


# ── refused ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_inside_of_a_running_loop_it_says_so_and_starts_nothing():
    with pytest.raises(LifecycleError, match=r"Leave `\.sync` out"):
        shop.sync.testing().__enter__()
    assert no_thread_is_left()


def test_queue_that_runs_is_refused_and_goes_on():
    with PsyQueue(name="busy").use(memory()).sync as sync:
        with pytest.raises(LifecycleError, match="'busy' is running; a test starts it itself"):
            sync.testing().__enter__()
        assert sync.enqueue("work").created
        assert threads() == ["psyqueue-sync-busy"]


def test_kit_is_for_one_test_and_never_starts_the_real_queue(q):
    kit = q.sync.testing()
    for _ in range(2):
        with pytest.raises(InvalidState, match="has not begun, or is over"):
            kit.drain()
        if kit.history.events:
            break
        with kit:
            q.sync.enqueue("work")
    with pytest.raises(InvalidState, match=r"call q\.testing"):
        kit.__enter__()
    assert no_thread_is_left()
    assert not q.is_running


def test_bad_options_are_refused_at_once(q):
    with pytest.raises(InvalidOption, match="clock='fake'"):
        q.sync.testing(clock="fake")
    with q.sync.testing() as t, pytest.raises(InvalidOption, match="queu"):
        t.assert_enqueued("work", queu="x")


def test_error_in_a_test_comes_through_and_the_queue_is_free_again(q):
    with pytest.raises(ZeroDivisionError), q.sync.testing():
        _ = 1 / 0
    with q.sync.testing():
        pass


def test_limits_of_the_kit_hold(q):
    @q.handle("again")
    def again() -> None:
        q.sync.enqueue("again")

    @q.handle("stuck")
    async def stuck() -> None:
        await asyncio.Event().wait()

    with q.sync.testing() as t:
        again.sync.enqueue()
        with pytest.raises(TooManyRuns, match=r"'again' .* keeps coming back"):
            t.drain(limit=20)
    with q.sync.testing(patience="50ms") as t:
        stuck.sync.enqueue()
        with pytest.raises(StillRunning, match="'stuck'"):
            t.drain()


def test_child_of_a_fork_is_refused(q):
    with q.sync.testing() as t:
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)  # it ends, whatever is wrong
            try:
                t.drain()
            except ForkedProcess:
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert t.drain() == 0

"""`q.sync`: the same queue for programs without asyncio, from any thread, on one background loop."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from psyqueue import (
    AlreadyStopped,
    ConfigError,
    InvalidOption,
    JobDead,
    JobHandle,
    LifecycleError,
    PayloadError,
    PsyQueue,
    ResultTimeout,
    Worker,
)
from psyqueue.backends import memory
from psyqueue.kernel.dead_letters import DeadLetters
from psyqueue.kernel.sync import SyncDeadLetters, SyncJobHandle, SyncQueue, SyncWorker

LIMIT = "20s"
LIMIT_S = 20.0
PREFIX = "psyqueue-sync"


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith(PREFIX)]


@pytest.fixture
def mem() -> PsyQueue:
    """For what no store has a part in."""
    return PsyQueue().use(memory())


# ── the verbs, on each store ──────────────────────────────────────────────────────────────────────────────────────────
def test_a_job_is_enqueued_run_and_looked_at_without_asyncio(q):
    @q.handle("add", queue="sums")
    def add(a: int, b: int) -> int:
        return a + b

    with q.sync as sync:
        job = add.sync.enqueue(2, b=3)
        assert (job.name, job.queue, job.created, str(job)) == ("add", "sums", True, job.id)
        assert sync.process_next("sums")
        assert job.result(timeout=LIMIT) == 5
        assert sync.get(job.id) == job.refresh()
        assert job.refresh().status == "completed"
        assert sync.handle_of(job.id) == job
    assert threads() == []


def test_a_queue_is_operated_without_asyncio(q):
    @q.handle("fail", queue="work", max_retries=0)
    async def fail() -> None:
        raise LookupError("nothing there")

    with q.sync as sync:
        sync.pause("work")
        first, second = sync.enqueue_bulk([fail.build(), {"name": "fail"}])
        assert "paused:queue" in [reason.code for reason in sync.explain(first.id).reasons]
        sync.resume("work")
        assert second.cancel()
        assert not sync.cancel(second.id)
        assert sync.process_next("work")
        with pytest.raises(JobDead, match="nothing there"):
            first.result(timeout=LIMIT)
        assert [dead.id for dead in sync.dead_letter.list(queue="work")] == [first.id]
        assert sync.dead_letter.replay(first.id).status == "pending"
        assert [each.id for each in sync.jobs(status="pending")] == [first.id]
        assert sync.limits("work", active_max=1).active_max == 1
        assert sync.durability().store


def test_a_worker_runs_beside_a_program_without_asyncio(q):
    @q.handle("add", queue="sums")
    async def add(a: int, b: int) -> int:
        return a + b

    with q.sync as sync:
        worker = sync.start_worker("sums", name="beside")
        assert (worker.name, worker.is_running) == ("beside", True)
        assert [add.sync.enqueue(n, b=1).result(timeout=LIMIT) for n in range(3)] == [1, 2, 3]
        worker.stop()
        assert not worker.is_running
        worker.wait()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SyncQueue, PsyQueue),
        (SyncJobHandle, JobHandle),
        (SyncDeadLetters, DeadLetters),
        (SyncWorker, Worker),
    ],
)
def test_every_coroutine_method_has_its_blocking_twin_with_the_same_parameters(ours, theirs):
    inner = {"drain"}  # for the parts of psyqueue
    for name, method in inspect.getmembers(theirs, inspect.iscoroutinefunction):
        if name.startswith("_") or name in inner:
            continue
        assert inspect.signature(getattr(ours, name)).parameters == inspect.signature(method).parameters, name
        assert not inspect.iscoroutinefunction(getattr(ours, name))


# ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_first_call_starts_the_queue_and_all_threads_share_one_loop(mem):
    with ThreadPoolExecutor(8) as pool:
        barrier = threading.Barrier(8)

        def enqueue(number: int) -> object:
            barrier.wait(LIMIT_S)
            return mem.sync.enqueue("add", {"n": number}).id

        ids = list(pool.map(enqueue, range(8)))
    assert len(set(ids)) == 8
    assert threads() == [f"{PREFIX}-psyqueue"]
    assert mem.is_running
    mem.sync.stop()
    assert threads() == []


def test_two_queues_have_a_loop_each():
    with PsyQueue(name="a").use(memory()).sync, PsyQueue(name="b").use(memory()).sync:
        assert sorted(threads()) == [f"{PREFIX}-a", f"{PREFIX}-b"]


async def test_a_sync_call_inside_of_a_running_loop_says_what_to_await(mem):
    for call in (mem.sync.start, mem.sync.stop, lambda: mem.sync.enqueue("add"), lambda: mem.sync.get("x")):
        with pytest.raises(LifecycleError, match=r"await handler\.enqueue"):
            call()
    assert not mem.is_running
    assert threads() == []


async def test_a_queue_that_was_started_with_await_is_used_on_its_own_loop(mem):
    @mem.handle("add", queue="sums")
    def add(a: int) -> int:
        return a + 1

    async with mem:
        job = await asyncio.to_thread(add.sync.enqueue, 1)
        assert await mem.process_next("sums")
        assert await asyncio.to_thread(job.result, LIMIT) == 2
        assert threads() == []


async def test_a_plain_handler_enqueues_by_the_queue_that_runs_it(mem):
    @mem.handle("outer", queue="outer")
    def outer() -> str:
        return str(inner.sync.enqueue())

    @mem.handle("inner", queue="inner")
    def inner() -> None: ...

    async with mem:
        job = await outer.enqueue()
        assert await mem.process_next("outer")
        view = await mem.get(await job.result(LIMIT))
        assert view is not None
        assert view.name == "inner"


def test_a_queue_of_the_background_loop_is_not_for_other_loops(mem):
    with mem.sync, pytest.raises(LifecycleError, match=r"q\.sync"):
        asyncio.run(mem.get("x"))


def test_on_another_loop_both_ways_to_enqueue_name_the_one_that_works(mem):
    """An async view of Flask or Django, in a process whose queue was started by a plain one."""

    @mem.handle("add")
    def add(a: int) -> None: ...

    async def view(a: int) -> str:
        with pytest.raises(LifecycleError, match=r"await asyncio\.to_thread\(handler\.sync\.enqueue, "):
            await add.enqueue(a)
        with pytest.raises(LifecycleError, match=r"await asyncio\.to_thread\(handler\.sync\.enqueue, ") as sync:
            add.sync.enqueue(a)
        assert "Leave `.sync` out" not in str(sync.value)
        return str(await asyncio.to_thread(add.sync.enqueue, a))

    with mem.sync as sync:
        assert [sync.get(asyncio.run(view(a))).payload for a in (1, 2)] == [{"a": 1}, {"a": 2}]


def test_the_caller_s_context_reaches_the_middleware(mem):
    tenant = contextvars.ContextVar("tenant", default="nobody")
    seen = []

    async def note(ctx, call_next):
        seen.append(tenant.get())
        await call_next()

    mem.pipeline("enqueue", note)
    with mem.sync as sync:
        tenant.set("acme")
        sync.enqueue("add")
    assert seen == ["acme"]


# ── errors, time, interrupts ──────────────────────────────────────────────────────────────────────────────────────────
def test_an_error_is_the_caller_s_with_its_traceback_and_nobody_else_s(mem, caplog):
    @mem.handle("add")
    def add(a: int) -> int:
        return a

    with mem.sync as sync, pytest.raises(PayloadError, match=r"\$\.b.*is unknown") as caught:
        sync.enqueue("add", {"a": 1, "b": 2})
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[0] == "test_an_error_is_the_caller_s_with_its_traceback_and_nobody_else_s"
    assert "check" in names, "and where it was found"
    assert caplog.records == []


def test_waiting_for_a_result_ends_with_its_timeout(mem):
    with mem.sync as sync:
        job = sync.enqueue("nobody")
        with pytest.raises(ResultTimeout):
            job.result(timeout="1ms")


def test_an_interrupt_ends_the_wait_and_the_call(mem):
    """Ctrl-C while the main thread waits: a thread sends the signal when the call is on its way."""
    on_its_way, ended = threading.Event(), threading.Event()

    async def hang(ctx, call_next):
        on_its_way.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    mem.pipeline("enqueue", hang)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        assert on_its_way.wait(LIMIT_S)
        signal.pthread_kill(main, signal.SIGINT)

    with mem.sync as sync:
        killer = threading.Thread(target=interrupt)
        killer.start()
        with pytest.raises(KeyboardInterrupt):
            sync.enqueue("add")
        killer.join()
        assert ended.wait(LIMIT_S)


def test_a_queue_that_cannot_start_leaves_no_thread_and_may_be_tried_again():
    queue = PsyQueue()
    for _ in range(2):
        with pytest.raises(ConfigError):
            queue.sync.enqueue("add")
        assert threads() == []
    queue.use(memory())
    with queue.sync as sync:
        assert sync.enqueue("add").created


def test_a_stopped_queue_stays_stopped(mem):
    with mem.sync as sync:
        sync.start()  # again: nothing
    sync.stop()  # again: nothing
    with pytest.raises(AlreadyStopped):
        sync.enqueue("add")
    with pytest.raises(AlreadyStopped):
        sync.start()


def test_a_queue_that_was_never_started_can_be_stopped(mem):
    mem.sync.stop()
    with pytest.raises(AlreadyStopped):
        mem.sync.enqueue("add")


def test_a_caller_whose_loop_is_closed_under_it_does_not_wait_for_ever(mem):
    on_its_way = threading.Event()

    async def hang(ctx, call_next):
        on_its_way.set()
        await asyncio.Event().wait()

    mem.pipeline("enqueue", hang)
    with ThreadPoolExecutor(1) as pool:

        async def end_early() -> object:
            await mem.start()
            waiting = pool.submit(mem.sync.enqueue, "add")
            await asyncio.to_thread(on_its_way.wait, LIMIT_S)
            return waiting

        waiting = asyncio.run(end_early())
        with pytest.raises(AlreadyStopped):
            waiting.result(LIMIT_S)  # type: ignore[attr-defined]


# ── the end of the process, and forks ─────────────────────────────────────────────────────────────────────────────────
def run(body: str, place: str) -> str:
    head = """
        import os, sys
        from psyqueue import PsyQueue
        from support.store_at import store_at
        q = PsyQueue().use(store_at(sys.argv[1]))

        @q.handle("mail")
        def mail(to: str = "ada") -> None: ...
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(body), place],
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONWARNINGS": "error,ignore:This process:DeprecationWarning"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


ON_DISK = pytest.mark.parametrize("store", ["sqlite", "redis", "postgres"], indirect=True)


@ON_DISK
def test_a_program_that_stops_nothing_ends_by_itself_and_leaves_its_job(make, place):
    job_id = run("print(mail.sync.enqueue('bob'))", place)
    with make().sync as sync:
        view = sync.get(job_id)
        assert view is not None
        assert view.payload == {"to": "bob"}


@ON_DISK
def test_what_runs_at_the_end_of_the_process_is_handed_back(make, place):
    body = """
        import asyncio, threading
        runs = threading.Event()

        @q.handle("long", queue="work")
        async def long():
            runs.set()
            await asyncio.Event().wait()

        job = long.sync.enqueue()
        q.sync.start_worker("work")
        runs.wait()
        print(job)
    """
    job_id = run(body, place)
    with make().sync as sync:
        view = sync.get(job_id)
        assert view is not None
        assert (view.status, view.lost) == ("pending", 0)


FORK = """
    pid = os.fork()
    if pid == 0:
        try:
            print(mail.sync.enqueue().created, flush=True)
        except Exception as exc:
            print(type(exc).__name__, flush=True)
        sys.exit()
    os.waitpid(pid, 0)
    print(mail.sync.enqueue().created)
"""


@ON_DISK
def test_a_queue_that_was_not_started_before_the_fork_starts_in_each_process(place):
    assert run(FORK, place).split() == ["True", "True"]


@ON_DISK
def test_a_queue_that_was_started_before_the_fork_is_refused_in_the_child(place):
    assert run("    q.sync.start()" + FORK, place).split() == ["ForkedProcess", "True"]


# ── the caller's own transaction ──────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_a_job_is_enqueued_in_the_caller_s_own_transaction_of_sqlite(q, place):
    """A connection of the standard library is for its own thread only: the call is made there."""

    @q.handle("pay")
    def pay(order: int) -> None: ...

    with q.sync as sync, closing(sqlite3.connect(place)) as own:
        kept = pay.options(conn=own).sync.enqueue(1)
        assert sync.get(kept.id) is None
        own.commit()
        assert kept.refresh().status == "pending"
        dropped = pay.options(conn=own).sync.enqueue(2)
        own.rollback()
        assert sync.get(dropped.id) is None
        own.execute("BEGIN")
        with pytest.raises(InvalidOption, match="is open on"), closing(sqlite3.connect(":memory:")) as other:
            pay.options(conn=other).sync.enqueue(3)
        own.rollback()


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
def test_a_job_is_enqueued_in_the_caller_s_own_transaction_of_postgres(q, place):
    import psycopg

    with q.sync as sync, psycopg.connect(place.partition("#")[0]) as own:
        kept = sync.enqueue("pay", {"order": 1}, conn=own)
        assert sync.get(kept.id) is None
        own.commit()
        assert kept.refresh().status == "pending"
        dropped = sync.enqueue("pay", {"order": 2}, conn=own)
        own.rollback()
        assert sync.get(dropped.id) is None

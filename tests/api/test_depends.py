"""`Depends`: what a run needs besides its payload, made for it, shared within it, closed after it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from api import process_handlers as elsewhere
from psyqueue import ConfigError, Context, Depends, InvalidOption, LifecycleError, PayloadError, PsyQueue, Snooze
from psyqueue.backends import memory
from psyqueue.testing import context


@pytest.fixture
def q() -> PsyQueue:
    """No store has a part in it."""
    return PsyQueue().use(memory())


class Notes(list[str]):
    """What happened, in order."""


notes = Notes()


@pytest.fixture(autouse=True)
def fresh() -> None:
    notes.clear()


def settings() -> dict[str, str]:
    notes.append("settings")
    return {"url": "db"}


async def connection(*, given: dict[str, str] = Depends(settings)) -> AsyncIterator[str]:
    notes.append(f"open {given['url']}")
    try:
        yield "connection"
    except BaseException as exc:
        notes.append(type(exc).__name__)
        raise
    finally:
        notes.append("close")


def unit(ctx: Context, *, given: dict[str, str] = Depends(settings), conn: str = Depends(connection)) -> Iterator[str]:
    notes.append(f"begin {ctx.job.name} on {conn} of {given['url']}")
    yield "unit"
    notes.append("commit")


async def run(q: PsyQueue, job: Any) -> Any:
    """The view of the job after one run."""
    assert await q.process_next("work")
    return await job.refresh()


# ── what a run is given ───────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("mode", ["async", "thread"])
async def test_dependencies_are_made_once_per_run_and_closed_in_the_opposite_order(q, mode):
    async def on_loop(to: str, *, work: str = Depends(unit), conn: str = Depends(connection)) -> str:
        notes.append(f"run {to}")
        return f"{work} {conn}"

    def in_thread(to: str, *, work: str = Depends(unit), conn: str = Depends(connection)) -> str:
        notes.append(f"run {to}")
        return f"{work} {conn}"

    handler = q.handle("pay", on_loop if mode == "async" else in_thread, queue="work")
    async with q:
        for _ in range(2):
            view = await run(q, await handler.enqueue("ada"))
            assert (view.status, view.result, view.payload) == ("completed", "unit connection", {"to": "ada"})
    once = ["settings", "open db", "begin pay on connection of db", "run ada", "commit", "close"]
    assert notes == once + once


async def test_a_plain_handler_and_its_plain_providers_share_a_thread_and_the_others_run_on_the_loop(q):
    seen: dict[str, Any] = {}

    def here() -> Iterator[int]:
        seen["opened"] = threading.get_ident()
        yield 1
        seen["closed"] = threading.get_ident()

    async def loop() -> AsyncIterator[asyncio.AbstractEventLoop]:
        yield asyncio.get_running_loop()

    @q.handle("h", queue="work")
    def handler(*, one: int = Depends(here), home: object = Depends(loop)) -> None:
        seen["ran"], seen["loop"] = threading.get_ident(), home

    async with q:
        assert (await run(q, await handler.enqueue())).status == "completed"
    assert seen["opened"] == seen["ran"] == seen["closed"] != threading.get_ident()
    assert seen["loop"] is asyncio.get_running_loop()


@pytest.mark.parametrize("fn", [elsewhere.plain, elsewhere.asynchronous])
async def test_a_handler_in_a_process_is_given_what_is_made_there(q, fn, tmp_path):
    handler = q.handle("h", fn, queue="work", mode="process")
    async with q:
        view = await run(q, await handler.options(meta={"folder": str(tmp_path)}).enqueue("ada"))
    assert view.status == "completed", view.errors
    assert view.result.startswith(f"ada in {tmp_path.name}")
    assert (tmp_path / "opened").read_text() == (tmp_path / "closed").read_text() != ""


@dataclass
class Order:
    number: int


def total(order: Order, tax: int = 0, *, conf: dict[str, str] = Depends(settings)) -> Order:
    return Order(order.number + tax)


@pytest.mark.parametrize("fn", [total, functools.partial(total, tax=0)])
async def test_parameters_beside_injected_ones_may_have_types_of_the_handlers_own_module(q, fn):
    """Their annotations are text here, and mean something only where the function was defined."""
    q.handle("total", fn, queue="work")
    async with q:
        job = await q.enqueue("total", {"order": Order(7)})
        await q.process_next("work")
        assert (await job.refresh()).result == {"number": 7}


async def test_providers_may_be_classes_and_see_the_context(q):
    class Client:
        def __init__(self, ctx: Context) -> None:
            self.tenant = ctx.tenant

    @q.handle("h", queue="work")
    async def handler(ctx: Context, *, client: Client = Depends(Client)) -> str | None:
        return client.tenant

    async with q:
        assert (await run(q, await handler.options(tenant="acme").enqueue())).result == "acme"


async def test_a_handler_of_the_context_alone_keeps_its_free_payload(q):
    @q.handle("h", queue="work")
    async def handler(ctx: Context, *, given: dict[str, str] = Depends(settings)) -> Any:
        return [ctx.job.payload, given]

    async with q:
        assert (await run(q, await q.enqueue("h", [1, 2]))).result == [[1, 2], {"url": "db"}]


# ── when it goes wrong ────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("mode", ["async", "thread"])
async def test_a_failed_run_is_seen_by_its_generators_and_stays_failed(q, mode):
    def swallow() -> Iterator[None]:
        try:
            yield
        except LookupError:
            notes.append("swallowed")

    async def on_loop(*, conn: str = Depends(connection), _: None = Depends(swallow)) -> None:
        raise LookupError("nothing there")

    def in_thread(*, conn: str = Depends(connection), _: None = Depends(swallow)) -> None:
        raise LookupError("nothing there")

    handler = q.handle("h", on_loop if mode == "async" else in_thread, queue="work", max_retries=0)
    async with q:
        view = await run(q, await handler.enqueue())
    assert (view.status, view.errors[-1]["message"]) == ("dead", "nothing there")
    assert notes == ["settings", "open db", "swallowed", "close"]


async def test_a_commit_that_fails_after_the_handler_fails_the_run(q):
    def transaction() -> Iterator[None]:
        yield
        raise ConnectionError("commit failed")

    @q.handle("h", queue="work", max_retries=0)
    async def handler(*, tx: None = Depends(transaction)) -> str:
        return "done"

    async with q:
        view = await run(q, await handler.enqueue())
    assert (view.status, view.result, view.errors[-1]["message"]) == ("dead", None, "commit failed")


async def test_a_verdict_is_seen_by_generators_and_counts(q):
    @q.handle("h", queue="work")
    async def handler(*, conn: str = Depends(connection)) -> None:
        raise Snooze("1h")

    async with q:
        assert (await run(q, await handler.enqueue())).status == "scheduled"
    assert notes[-2:] == ["Snooze", "close"]


async def test_a_provider_that_fails_fails_the_run_and_closes_what_was_open(q):
    def broken(*, conn: str = Depends(connection)) -> None:
        raise ConnectionError("no network")

    @q.handle("h", queue="work", max_retries=0)
    async def handler(*, it: None = Depends(broken)) -> None:
        notes.append("ran")

    async with q:
        view = await run(q, await handler.enqueue())
    assert view.errors[-1]["message"] == "no network"
    assert notes == ["settings", "open db", "ConnectionError", "close"]


async def test_a_cancelled_run_closes_what_it_opened(q):
    running = asyncio.Event()

    @q.handle("h", queue="work")
    async def handler(*, conn: str = Depends(connection)) -> None:
        running.set()
        await asyncio.Event().wait()

    async with q:
        q.start_worker("work")
        job = await handler.enqueue()
        await asyncio.wait_for(running.wait(), 20)
        assert await job.cancel()
        await q.stop_workers()
        assert (await job.refresh()).status == "cancelled"
    assert notes[-2:] == ["CancelledError", "close"]


async def test_nothing_is_opened_for_a_payload_that_does_not_fit(q):
    @q.handle("h", queue="work")
    async def handler(n: int, *, conn: str = Depends(connection)) -> None: ...

    async with q:
        view = await run(q, await q.enqueue("h", {"n": "x"}))
    assert (view.status, view.reason, notes) == ("dead", "payload", [])


# ── what is refused, and where ────────────────────────────────────────────────────────────────────────────────────────
async def test_what_is_injected_is_no_payload(q):
    @q.handle("h", queue="work")
    async def handler(n: int, *, conn: str = Depends(connection)) -> None: ...

    async with q:
        with pytest.raises(PayloadError, match=r"\$\.conn: is injected into handler 'h'"):
            await handler.enqueue(1, conn="mine")
        with pytest.raises(PayloadError, match=r"handler 'h' takes n\b"):
            await q.enqueue("h", {})
    with pytest.raises(InvalidOption, match="names 'conn'"):
        q.handle("keyed", handler.fn, unique="conn")


def needs_more(url: str) -> None: ...


def nested(*, it: None = Depends(needs_more)) -> None: ...


async def before(conn: str = Depends(connection), n: int = 1) -> None: ...


async def only_by_position(conn: str = Depends(connection), /) -> None: ...


async def deep(*, x: None = Depends(nested)) -> None: ...


@pytest.mark.parametrize(
    ("fn", "problem"),
    [
        (deep, r"handler 'h', parameter 'x\.it': needs_more takes 'url', which nobody gives it"),
        (before, r"handler 'h', parameter 'conn': what is injected stands before 'n'"),
        (only_by_position, r"handler 'h', parameter 'conn': what is injected is for positions only"),
    ],
)
def test_a_dependency_that_cannot_be_filled_in_is_refused_when_the_handler_is_registered(q, fn, problem):
    with pytest.raises(ConfigError, match=problem):
        q.handle("h", fn)


def test_depends_takes_a_function():
    with pytest.raises(ConfigError, match="without calling it"):
        Depends(settings())  # type: ignore[call-overload]


async def test_a_direct_call_says_what_it_has_to_be_given(q):
    @q.handle("h")
    async def handler(n: int, *, given: dict[str, str] = Depends(settings)) -> str:
        return f"{n} {given['url']}"

    assert await handler(1, given={"url": "mine"}) == "1 mine"
    with pytest.raises(TypeError, match=r"handler 'h' called directly: give given=\.\.\., which"):
        handler(1)


# ── the lifespan ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def life() -> AsyncIterator[dict[str, str]]:
    task = asyncio.current_task()
    notes.append("enter")
    async with asyncio.timeout(60):  # a scope of cancellation: left in another task it raises
        yield {"pool": "open"}
    assert asyncio.current_task() is task
    notes.append("leave")


def pool(ctx: Context) -> str:
    return str(ctx.app["pool"])


async def test_a_lifespan_is_entered_once_for_all_runs_and_left_after_the_last():
    q = PsyQueue(lifespan=life).use(memory())

    @q.handle("h", queue="work")
    async def handler(ctx: Context, *, opened: str = Depends(pool)) -> Any:
        notes.append("run")
        return [ctx.app, opened]

    async with q:
        job = await handler.enqueue()
        assert notes == [], "who only enqueues needs none"
        q.start_worker("work", name="one")
        q.start_worker("work", name="two")
        assert await job.result(20) == [{"pool": "open"}, "open"]
        await q.stop_workers()
        assert (await run(q, await handler.enqueue())).result == [{"pool": "open"}, "open"]
    assert notes == ["enter", "run", "run", "leave"]


async def test_a_lifespan_may_be_made_by_asynccontextmanager_and_by_decorator(q):
    made = q.lifespan(asynccontextmanager(life))

    @q.handle("h", queue="work")
    def handler(ctx: Context) -> Any:
        return ctx.app

    async with q:
        assert (await run(q, await handler.enqueue())).result == {"pool": "open"}
    assert notes == ["enter", "leave"]
    assert made is not None


async def test_a_lifespan_is_entered_anew_in_each_test_of_the_queue(q):
    """And not in the context of the run that came first, whose time and end are not its own."""
    first = contextvars.ContextVar("first", default="none")
    seen: list[object] = []

    @q.lifespan
    async def open_pool() -> AsyncIterator[str]:
        seen.append(first.get())
        yield "open"
        seen.append("closed")

    @q.handle("h", queue="work")
    async def handler(ctx: Context) -> None:
        seen.append(ctx.app)

    for _ in range(2):
        async with q.testing() as t:
            first.set("set after the start")
            await handler.enqueue()
            assert await t.drain() == 1
            first.set("none")
    assert seen == ["none", "open", "closed"] * 2


def test_a_context_for_a_direct_call_has_what_stands_for_the_lifespan():
    assert context(app="pool").app == "pool"
    assert context().app is None


async def test_a_queue_without_lifespan_has_none(q):
    @q.handle("h", queue="work")
    async def handler(ctx: Context) -> Any:
        return ctx.app

    async with q:
        view = await run(q, await handler.enqueue())
    assert (view.status, view.result) == ("completed", None)


async def test_a_process_of_its_own_has_no_lifespan_and_says_so():
    q = PsyQueue(lifespan=life).use(memory())
    handler = q.handle("h", elsewhere.with_app, queue="work", mode="process", max_retries=0)
    async with q:
        view = await run(q, await handler.enqueue())
    assert "has no lifespan. Make what it needs with Depends" in view.errors[-1]["message"]


async def test_a_lifespan_that_cannot_be_entered_ends_the_worker_and_no_job_is_touched(q):
    attempts = []

    @q.lifespan
    async def broken() -> AsyncIterator[str]:
        attempts.append(1)
        if len(attempts) < 3:
            raise ConnectionError("no database")
        yield "at last"

    @q.handle("h", queue="work")
    async def handler(ctx: Context) -> Any:
        return ctx.app

    async with q:
        job = await handler.enqueue()
        worker = q.start_worker("work")
        with pytest.raises(ConnectionError):
            await worker.wait()
        with pytest.raises(ConnectionError):
            await q.process_next("work")
        assert (await job.refresh()).attempt == 0
        assert (await run(q, job)).result == "at last"


async def test_a_queue_stops_although_its_lifespan_is_still_being_entered(q):
    """A database that is away, for example: nobody waits for it any more."""
    going = asyncio.Event()

    @q.lifespan
    async def hangs() -> AsyncIterator[None]:
        try:
            going.set()
            await asyncio.Event().wait()
        finally:
            notes.append("gave up")
        yield

    await q.start()
    worker = q.start_worker("work")
    alone = asyncio.create_task(q.process_next("work"))
    await going.wait()
    await asyncio.wait_for(q.stop(), 20)
    assert notes == ["gave up"]
    assert not worker.is_running
    with pytest.raises(LifecycleError, match="hangs was cancelled before it yielded"):
        await alone


async def test_a_lifespan_that_is_cancelled_from_within_may_be_entered_again(q):
    attempts = []

    @q.lifespan
    async def shaky() -> AsyncIterator[None]:
        attempts.append(1)
        if len(attempts) == 1:
            raise asyncio.CancelledError
        yield

    async with q:
        with pytest.raises(LifecycleError, match="shaky was cancelled before it yielded"):
            await q.process_next("work")
        assert not await q.process_next("work")


async def test_a_lifespan_that_fails_at_its_end_fails_the_stop_after_all_is_closed(q):
    @q.lifespan
    async def broken() -> AsyncIterator[None]:
        yield
        raise RuntimeError("cannot close")

    await q.start()
    assert not await q.process_next("work")
    with pytest.raises(RuntimeError, match="cannot close"):
        await q.stop()
    assert not q.is_running


def sync_generator() -> Iterator[None]:
    yield


async def coroutine() -> None: ...


async def with_parameter(app: object) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize(
    ("fn", "problem"),
    [
        (sync_generator, "must yield once in an `async def`"),
        (coroutine, "must yield once in an `async def`"),
        (with_parameter, "without parameters"),
        (3, "without parameters"),
    ],
)
def test_what_cannot_be_a_lifespan_is_refused(q, fn, problem):
    with pytest.raises(ConfigError, match=problem):
        q.lifespan(fn)


def test_a_queue_has_one_lifespan(q):
    q.lifespan(life)
    with pytest.raises(ConfigError, match=r"has a lifespan already \(life\)"):
        q.lifespan(life)

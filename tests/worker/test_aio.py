"""The few tools that make tasks, contexts and ends: what the rest of the worker relies on."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import weakref

import pytest

from psyqueue.kernel.aio import Isolated, call_in, finish, settle_down, spawn, within_ms
from worker.rig import soon, turns

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")


# ── Isolated ──────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_isolated_gives_what_the_coroutine_returns_or_raises():
    async def give():
        await asyncio.sleep(0)
        return 7

    async def fail():
        await asyncio.sleep(0)
        raise KeyError("x")

    assert await Isolated(give()) == 7
    with pytest.raises(KeyError):
        await Isolated(fail())


async def test_isolated_sees_the_callers_variables_and_keeps_its_own_to_itself():
    async def inner():
        assert VARIABLE.get() == "outer"
        VARIABLE.set("inner")
        await asyncio.sleep(0)
        assert VARIABLE.get() == "inner"
        return await asyncio.create_task(tell())

    async def tell():
        return VARIABLE.get()

    VARIABLE.set("outer")
    assert await Isolated(inner()) == "inner"
    assert VARIABLE.get() == "outer"


async def test_isolated_runs_in_the_task_that_awaits_it():
    async def inner():
        first = asyncio.current_task()
        await asyncio.sleep(0)
        return {first, asyncio.current_task()}

    assert await Isolated(inner()) == {asyncio.current_task()}


async def test_cancel_reaches_the_coroutine_inside_which_may_clean_up_and_go_on():
    log = []

    async def inner():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            await asyncio.sleep(0)
            log.append("cleaned")
            return "saved"

    async def outer():
        return await Isolated(inner())

    task = asyncio.create_task(outer())
    await turns(2)
    task.cancel()
    assert await task == "saved"
    assert log == ["cancelled", "cleaned"]


async def test_timeouts_and_groups_inside_work_as_ever():
    async def inner():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        return asyncio.current_task().cancelling()  # type: ignore[union-attr]

    assert await Isolated(inner()) == 0


async def test_isolated_keeps_nothing_alive_after_an_error():
    class Big:
        pass

    alive = []

    async def inner():
        big = Big()
        alive.append(weakref.ref(big))
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(ValueError("no"))
        await failed

    async def cancelled():
        big = Big()
        alive.append(weakref.ref(big))
        await asyncio.Event().wait()

    async def outer():
        try:
            await Isolated(cancelled())
        except asyncio.CancelledError:
            return

    gc.collect()
    gc.disable()
    try:
        with pytest.raises(ValueError, match="no"):
            await Isolated(inner())
        task = asyncio.create_task(outer())
        await turns(2)
        task.cancel()
        await task
        await turns(2)
        assert alive[1]() is None
    finally:
        gc.enable()


# ── finish ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("cancels", [1, 2, 3, 20])
async def test_work_is_finished_however_often_its_caller_is_cancelled(cancels):
    log, go_on = [], asyncio.Event()

    async def work():
        await go_on.wait()
        log.append("done")

    caller = asyncio.create_task(finish(work(), on_cancel=lambda: log.append("asked"), limit_ms=60_000))
    await turns(2)
    for _ in range(cancels):
        caller.cancel()
        await turns(2)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await soon(caller)
    assert log == ["asked", "done"]


async def test_work_is_cut_at_the_limit_after_a_cancel():
    log = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cut")

    caller = asyncio.create_task(finish(work(), on_cancel=lambda: None, limit_ms=10))
    await turns(2)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(caller)
    assert log == ["cut"]


async def test_work_that_ignores_its_cut_does_not_keep_the_caller(deaf, monkeypatch):
    from psyqueue.kernel import aio

    monkeypatch.setattr(aio, "CUT_MS", 20)
    caller = asyncio.create_task(finish(deaf.ignore_cancels(), on_cancel=lambda: None, limit_ms=10))
    await turns(2)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(caller)
    assert deaf.swallowed == 1


async def test_undisturbed_work_has_no_limit_and_gives_its_result_or_error():
    async def give():
        await turns(10)
        return 7

    async def fail():
        raise KeyError("x")

    assert await finish(give(), on_cancel=lambda: None, limit_ms=0) == 7
    with pytest.raises(KeyError):
        await finish(fail(), on_cancel=lambda: None, limit_ms=0)


# ── the others ────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_within_tells_whether_the_work_was_cut_and_passes_errors_on():
    async def time_out():
        raise TimeoutError("its own")

    assert await within_ms(60_000, turns(3)) is True
    assert await within_ms(10, asyncio.Event().wait()) is False
    with pytest.raises(TimeoutError, match="its own"):
        await within_ms(60_000, time_out())


async def test_settle_down_raises_nothing_and_cancels_nothing():
    async def fail():
        raise KeyError("x")

    failing = asyncio.create_task(fail())
    endless = asyncio.create_task(asyncio.Event().wait())
    await settle_down([failing, endless], 10)
    assert isinstance(failing.exception(), KeyError)
    assert not endless.done()
    endless.cancel()
    await settle_down([], 0)


async def test_failure_of_a_task_that_nobody_awaits_is_logged(caplog):
    async def fail():
        raise KeyError("lost")

    with caplog.at_level(logging.ERROR):
        spawn(fail(), name="beside")
        await turns(3)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [KeyError]


async def test_failure_that_a_caller_hears_is_told_to_him_alone(caplog):
    async def fail():
        raise KeyError("heard")

    with caplog.at_level(logging.ERROR):
        with pytest.raises(KeyError):
            await finish(fail(), on_cancel=lambda: None, limit_ms=1)
        spawn(fail(), name="waited for in vain", is_awaited=True)
        await turns(3)
        gc.collect()
    assert caplog.records == []


async def test_failure_behind_a_cancel_that_goes_on_to_the_caller_is_logged(caplog):
    cancelled = asyncio.Event()

    async def fail():
        await cancelled.wait()
        raise KeyError("lost")

    work = asyncio.create_task(finish(fail(), on_cancel=cancelled.set, limit_ms=60_000))
    await turns(3)
    work.cancel()
    with caplog.at_level(logging.ERROR), pytest.raises(asyncio.CancelledError):
        await work
    await turns(3)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [KeyError]


def test_call_into_a_closed_loop_is_nothing():
    loop = asyncio.new_event_loop()
    loop.close()
    call_in(loop, print, "never")

"""Middleware: order, wrapping, the rules of call_next."""

from __future__ import annotations

import pytest

from psyqueue import Cancel, ConfigError, DeadLetter, PluginError, Rejected
from psyqueue.kernel.pipeline import PHASES, Stage, compose, middleware


def chain_of(*functions, stage: Stage = "process"):
    chain = compose([middleware(stage, fn, "execute", "tester") for fn in functions], stage)
    assert chain is not None
    return chain


def tracer(log, name):
    async def fn(ctx, call_next):
        log.append(f"{name} in")
        result = await call_next()
        log.append(f"{name} out")
        return result

    return fn


async def answer(ctx):
    return "answer"


def test_empty_chain_is_none():
    assert compose([], "enqueue") is None
    assert compose([middleware("process", tracer([], "a"), "guard", "x")], "enqueue") is None


async def test_middleware_wraps_the_terminal_in_phase_order_then_order_of_registration():
    log: list[str] = []
    registered = [middleware("process", tracer(log, phase), phase, "x") for phase in reversed(PHASES)]
    registered.append(middleware("process", tracer(log, "guard 2"), "guard", "x"))

    async def terminal(ctx):
        log.append(f"handler {ctx}")
        return 7

    chain = compose(registered, "process")
    assert chain is not None
    assert await chain("ctx", terminal) == 7
    way_in = ["guard", "guard 2", "validate", "transform", "observe", "execute", "finalize"]
    assert log == [f"{name} in" for name in way_in] + ["handler ctx"] + [f"{name} out" for name in reversed(way_in)]


async def test_chain_runs_any_number_of_times():
    chain = chain_of(tracer([], "a"))
    assert [await chain(n, answer) for n in range(3)] == ["answer"] * 3


async def test_result_passes_through_a_middleware_that_returns_nothing():
    async def silent(ctx, call_next):
        await call_next()

    assert await chain_of(silent)(None, answer) == "answer"


async def test_middleware_may_replace_the_result():
    async def louder(ctx, call_next):
        return (await call_next()).upper()

    assert await chain_of(louder)(None, answer) == "ANSWER"


async def test_middleware_sees_and_may_handle_the_error_of_the_inner_part():
    async def fails(ctx):
        raise ValueError("inner")

    async def saves(ctx, call_next):
        try:
            return await call_next()
        except ValueError as exc:
            return f"saved {exc}"

    assert await chain_of(saves)(None, fails) == "saved inner"


async def test_second_call_next_is_an_error_and_the_terminal_ran_once():
    ran = []

    async def terminal(ctx):
        ran.append(1)

    async def twice(ctx, call_next):
        await call_next()
        await call_next()

    with pytest.raises(PluginError, match=r"'tester'.*twice.*awaited call_next\(\) twice"):
        await chain_of(twice)(None, terminal)
    assert ran == [1]


async def test_returning_without_call_next_is_an_error_that_names_the_owner():
    async def lazy(ctx, call_next):
        return "not your business"

    with pytest.raises(PluginError, match=r"'tester'.*lazy.*without awaiting"):
        await chain_of(lazy)(None, answer)


async def test_verdict_ends_the_chain_returned_or_raised():
    ran = []

    async def terminal(ctx):
        ran.append(1)

    async def returns(ctx, call_next):
        return Cancel("closed")

    async def raises(ctx, call_next):
        raise Cancel("closed")

    assert isinstance(await chain_of(tracer([], "outer"), returns)(None, terminal), Cancel)
    with pytest.raises(Cancel):
        await chain_of(tracer([], "outer"), raises)(None, terminal)
    assert ran == []


async def test_rejected_run_is_dead_and_not_retried():
    async def guard(ctx, call_next):
        raise Rejected("tenant is closed")

    with pytest.raises(DeadLetter) as caught:
        await chain_of(guard)(None, answer)
    assert caught.value.reason == "rejected: tenant is closed"


async def test_rejected_raised_by_the_handler_itself_stays_an_error_of_the_handler():
    """Its own enqueue was rejected: that is no verdict about this job."""

    async def handler(ctx):
        raise Rejected("too many children")

    with pytest.raises(Rejected):
        await chain_of(tracer([], "outer"))(None, handler)


async def test_rejected_enqueue_reaches_the_caller():
    async def guard(ctx, call_next):
        raise Rejected("no")

    with pytest.raises(Rejected):
        await chain_of(guard, stage="enqueue")(None, answer)


async def good(ctx, call_next):
    await call_next()


def plain(ctx, call_next): ...


async def short(ctx): ...


@pytest.mark.parametrize(
    ("stage", "fn", "phase", "error", "text"),
    [
        ("dequeue", good, "execute", ConfigError, "'dequeue' does not exist; there are enqueue, process"),
        ("process", good, "before", ConfigError, "guard, validate, transform, observe, execute, finalize"),
        ("process", plain, "guard", PluginError, "is not async"),
        ("process", short, "guard", PluginError, "async function of"),
        ("process", None, "guard", PluginError, "async function of"),
    ],
)
def test_wrong_registration_is_refused_with_the_way_out(stage, fn, phase, error, text):
    with pytest.raises(error, match=text):
        middleware(stage, fn, phase, "tester")

"""Threads for plain handlers: reused, counted when they are left behind, gone at the end."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

from psyqueue.kernel.threads import Threads
from worker.rig import LIMIT_S, soon, turns, until

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("pool-under-test")}


@pytest.fixture
async def threads():
    made = Threads("pool-under-test")
    yield made
    made.close()
    await until(lambda: names() == set())


async def test_calls_one_after_the_other_share_one_thread(threads):
    seen = [await threads.run(threading.get_ident) for _ in range(50)]
    assert len(set(seen)) == 1
    assert len(names()) == 1


async def test_as_many_threads_as_calls_at_once_and_no_more(threads):
    barrier = threading.Barrier(5)
    for _ in range(3):
        await asyncio.gather(*(threads.run(lambda: barrier.wait(LIMIT_S)) for _ in range(5)))
    assert len(names()) == 5


async def test_call_sees_the_context_of_its_caller_and_keeps_its_own_to_itself(threads):
    def inner():
        seen = VARIABLE.get()
        VARIABLE.set("inner")
        return seen

    VARIABLE.set("outer")
    assert [await threads.run(inner) for _ in range(3)] == ["outer"] * 3
    assert VARIABLE.get() == "outer"


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), asyncio.CancelledError()])
async def test_whatever_a_call_raises_is_its_callers(threads, error):
    def fail():
        raise error

    with pytest.raises(type(error)) as caught:
        await threads.run(fail)
    assert caught.value is error
    assert await threads.run(lambda: "the thread goes on") == "the thread goes on"
    assert threads.abandoned == 0


@pytest.mark.parametrize("error", [StopIteration(), KeyboardInterrupt(), GeneratorExit()])
async def test_what_would_mean_something_else_in_a_coroutine_arrives_as_an_error_that_names_it(threads, error):
    def fail():
        raise error

    with pytest.raises(RuntimeError, match=type(error).__name__):
        await soon(threads.run(fail))
    assert await threads.run(lambda: "the thread goes on") == "the thread goes on"


async def test_cancelled_caller_leaves_the_thread_behind_until_it_returns(blocker):
    returned = []
    threads = Threads("pool-under-test", on_return=lambda: returned.append(threads.abandoned))
    caller = asyncio.create_task(threads.run(blocker.block))
    assert await asyncio.to_thread(blocker.began.wait, LIMIT_S)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(caller)
    assert threads.abandoned == 1
    # Others are served meanwhile, by another thread.
    assert await threads.run(lambda: 7) == 7
    blocker.open()
    await until(lambda: returned == [0])
    threads.close()
    await until(lambda: names() == set())


async def test_result_that_arrives_together_with_the_cancel_leaves_nothing_behind(threads):
    gate = threading.Event()
    caller = asyncio.create_task(threads.run(lambda: gate.wait(LIMIT_S)))
    await turns(3)
    gate.set()
    for _ in range(2_000):
        if caller.done():
            break
        caller.cancel()
        await turns()
    await soon(asyncio.wait({caller}))
    await until(lambda: threads.abandoned == 0)
    assert await threads.run(lambda: 7) == 7


async def test_thousand_cancelled_calls_are_all_accounted_for(threads):
    """Cancelled before, while and after a thread took them: each is either not begun or comes back."""
    begun = []
    callers = []
    for n in range(1_000):
        callers.append(asyncio.create_task(threads.run(lambda n=n: begun.append(n))))
        if n % 3 == 0:
            await turns()
        if n % 2 == 0:
            callers[-1].cancel()
    await soon(asyncio.wait(callers))
    await until(lambda: threads.abandoned == 0)
    finished = [n for n, caller in enumerate(callers) if not caller.cancelled()]
    assert set(finished) <= set(begun)
    assert len(begun) == len(set(begun))
    await until(lambda: threads._idle == threads._started)


async def test_loop_that_is_gone_ends_the_thread(blocker):
    threads = Threads("pool-under-test")

    def program():
        async def leave():
            asyncio.get_running_loop().call_later(0.05, asyncio.current_task().cancel)  # type: ignore[union-attr]
            await threads.run(blocker.block)

        with pytest.raises(asyncio.CancelledError):
            asyncio.run(leave())

    await asyncio.to_thread(program)
    blocker.open()
    await until(lambda: names() == set())

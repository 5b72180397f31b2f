"""Middleware wraps every enqueue and every run: a guard, a change of the payload, a look at the result."""

import asyncio
from collections.abc import Awaitable, Callable
from tempfile import TemporaryDirectory
from typing import Any

from psyqueue import Context, EnqueueContext, JobDead, PsyQueue, Rejected
from psyqueue.backends import sqlite

CallNext = Callable[[], Awaitable[Any]]

q = PsyQueue()


@q.handle("greet", queue="greetings")
async def greet(ctx: Context, name: str) -> str:
    return f"hello {name} from {ctx.state['who']}, signed {ctx.job.meta['signed']}"


async def sign(ctx: EnqueueContext, call_next: CallNext) -> None:
    """Once per enqueue call; `ctx.jobs` are drafts that may be changed."""
    for draft in ctx.jobs:
        if draft.payload["name"] == "nobody":
            raise Rejected("nobody is not somebody")
        draft.options["meta"] = {"signed": "sales"}
    await call_next()


async def capitalise(ctx: Context, call_next: CallNext) -> None:
    ctx.state["who"] = "middleware"  # a dict of this run, for the handler and other middleware
    ctx.job.payload = {"name": ctx.job.payload["name"].title()}
    await call_next()


async def no_trolls(ctx: Context, call_next: CallNext) -> None:
    if ctx.job.payload["name"] == "troll":
        raise Rejected("no trolls")  # returning without call_next() would be an error
    await call_next()


async def watch(ctx: Context, call_next: CallNext) -> str:
    print("before", ctx.job.name)
    result = await call_next()
    print("after", ctx.job.name)
    return f"{result}!"  # what a middleware returns replaces the result; None leaves it


async def main(folder: str) -> None:
    q.use(sqlite(path=f"{folder}/jobs.db"))
    q.pipeline("enqueue", sign, phase="guard")
    q.pipeline("process", watch, phase="observe")
    q.pipeline("process", capitalise, phase="transform")  # phases order them, not the order of registration
    q.pipeline("process", no_trolls, phase="guard")
    async with q:
        q.start_worker()
        print(await (await greet.enqueue("ada")).result(timeout="10s"))
        try:
            await greet.enqueue("nobody")
        except Rejected as exc:
            print("not enqueued:", exc.reason)
        try:
            await (await greet.enqueue("troll")).result(timeout="10s")
        except JobDead as exc:
            print("not run:", exc.reason)


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(folder))

# prints:
# | before greet
# | after greet
# | hello Ada from middleware, signed sales!
# | not enqueued: nobody is not somebody
# | not run: rejected: no trolls

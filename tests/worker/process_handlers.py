"""Handlers that run in processes of their own: these import them by name."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from psyqueue import Cancel, Context, DeadLetter, InvalidState, PsyQueue, Retry, Snooze


class Later(Snooze):
    """A verdict of the application's own."""


VERDICTS = {
    "retry": lambda: Retry(after=7, reason="again"),
    "snooze": lambda: Snooze(5),
    "cancel": lambda: Cancel("not wanted"),
    "dead": lambda: DeadLetter("hopeless"),
    "later": lambda: Later(5),
}


def add(a: int, b: int) -> int:
    return a + b


def trace_of(ctx: Context) -> dict[str, str]:
    return ctx.job.trace


def enqueues(ctx: Context) -> None:
    ctx.enqueue("child")


def pid() -> int:
    return os.getpid()


async def answer(ctx: Context, n: int) -> dict[str, Any]:
    return {"n": n, "id": ctx.job.id, "attempt": ctx.attempt}


KEPT: list[Context] = []


def of_another_run(ctx: Context) -> list[str]:
    """The first run leaves its context behind, as a thread of its own would have it; the second one uses that."""
    if not KEPT:
        KEPT.append(ctx)
        return []
    before = KEPT.pop()
    before.progress("of the run before")
    try:
        before.enqueue("later", queue="later")
    except InvalidState as exc:
        return [exc.code]
    return ["taken"]


def fail(text: str) -> None:
    raise ValueError(text)


def verdict(kind: str, how: str) -> Any:
    made = VERDICTS[kind]()
    if how == "raised":
        raise made
    return made


def leave(how: str) -> None:
    if how == "exit":
        sys.exit(3)
    if how == "os._exit":
        os._exit(7)
    os.kill(os.getpid(), int(how) if how.isdigit() else getattr(signal, how))


def not_json() -> Any:
    return object()


def hang(path: str) -> None:
    """Writes its pid and that of a program it started, then never returns."""
    program = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
    _write(path, f"{os.getpid()} {program.pid}")
    threading.Event().wait()


def hang_forked(path: str) -> None:
    """Forks a process that keeps every descriptor open, then dies."""
    forked = os.fork()
    if forked == 0:
        threading.Event().wait()
    _write(path, f"{os.getpid()} {forked}")
    os.kill(os.getpid(), signal.SIGKILL)


def end_what_it_forked() -> int | None:
    """As a pool of `multiprocessing` does at its end. None: it could not be ended."""
    context = multiprocessing.get_context("fork")
    began = context.Event()
    forked = context.Process(target=_begin_and_stay, args=(began,))
    forked.start()
    began.wait(20)
    forked.terminate()
    forked.join(5)
    exit_code = forked.exitcode
    forked.kill()
    forked.join()
    return exit_code


def _begin_and_stay(began: Any) -> None:
    began.set()
    threading.Event().wait()


def wait_for_file(began: str, go: str) -> str:
    """Says that it began, and returns when the other file is there."""
    _write(began, str(os.getpid()))
    end = time.monotonic() + 20
    tick = threading.Event()
    while not Path(go).exists() and time.monotonic() < end:
        tick.wait(0.01)
    return "done"


def follow(ctx: Context, ok: bool) -> str:
    ctx.progress({"done": 1})
    child = ctx.enqueue("after", {"n": 1}, queue="later", priority=3)
    ctx.progress({"done": 2})
    if not ok:
        raise ValueError("after all not")
    return str(child)


def follow_wrongly(ctx: Context, how: str) -> None:
    if how == "conn":
        ctx.enqueue("after", {"n": 1}, conn=object())
    built = PsyQueue().handle("after", many).build(count=1)
    ctx.enqueue(built, {"count": 2})


def many(ctx: Context, count: int) -> None:
    for n in range(count):
        ctx.enqueue("after", {"n": n}, queue="later")


def enter_transaction(ctx: Context) -> None:
    async def enter() -> None:
        async with ctx.transaction():
            pass

    asyncio.run(enter())


def _write(path: str, text: str) -> None:
    """Whole or not at all."""
    Path(path + ".new").write_text(text)
    Path(path + ".new").rename(path)

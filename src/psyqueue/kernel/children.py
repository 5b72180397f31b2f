"""Handlers with `mode="process"`: each run in a spawned process of its own, which can be killed.

A child is spawned, never forked (threads and connections do not survive a fork), kept for the next run, and killed when
its run is stopped. It dies by itself when its worker does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from psyqueue import codec
from psyqueue.backend import Delivery
from psyqueue.kernel import frames
from psyqueue.kernel.aio import spawn, within_ms
from psyqueue.outcome import Cancel, DeadLetter, NotBegun, RemoteError, Retry, Snooze, Verdict

if TYPE_CHECKING:
    from psyqueue.kernel.context import Context
    from psyqueue.kernel.handlers import HandlerSpec

START = """import sys
sys.path[:] = sys.argv[2:]
from psyqueue.kernel.child import serve
serve(int(sys.argv[1]))
"""
"""With the import path of its worker from the first import on, so that both find the same modules."""
GONE_MS = 1_000
"""For a child that hung up on us to end by itself, before it is killed."""


class ChildDied(Exception):
    """The process of a run ended before the run did: killed by the system, out of memory, a crash in native code."""


class Children:
    """A pool without a size of its own: the worker's slots bound it."""

    def __init__(self) -> None:
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()

    async def run(self, spec: HandlerSpec, delivery: Delivery, ctx: Context, began: Callable[[], None]) -> Any:
        """What the handler returned. Raises its verdict, RemoteError for its exception, ChildDied; NotBegun.

        `began` is called when the process is there and has imported the handler.

        Cancelled: the child is killed, and is dead before this returns.
        """
        child = await self._take()
        is_whole = False
        try:
            result = await child.run(spec, delivery, ctx, began)
        except (Verdict, RemoteError):
            is_whole = True
            raise
        else:
            is_whole = True
            return result
        finally:
            if is_whole:
                self._idle.append(child)
            else:
                child.kill()
                await child.gone()
                self._all.discard(child)

    async def close(self) -> None:
        """Kill them all; they are dead when this returns."""
        self._idle.clear()
        for child in self._all:
            child.kill()
        while self._all:
            await self._all.pop().gone()

    async def _take(self) -> _Child:
        while self._idle:
            child = self._idle.pop()
            if child.is_alive:
                return child
            self._all.discard(child)
        try:
            child = await _Child.spawn()
        except (OSError, RuntimeError) as exc:  # the second: Python 3.11 watches a child from a thread
            text = f"no process can be started for a handler here: {exc}. Look at what this process may use"
            raise NotBegun(f"{text}: open files, processes, memory; and whether {sys.executable} is there") from exc
        self._all.add(child)
        return child


class _Child:
    """Leads a process group of its own: what a handler started dies with it."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        # A process that the handler forked may keep the socket open: the end of the child is watched by itself.
        self._watch = spawn(self._hang_up(), name=f"psyqueue-child-{process.pid}")

    @classmethod
    async def spawn(cls) -> _Child:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                number = theirs.fileno()
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-c",
                    START,
                    str(number),
                    *map(str, sys.path),
                    pass_fds=(number,),
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            raise
        try:
            reader, writer = await asyncio.open_connection(sock=ours, limit=frames.FRAME_BYTES_MAX)
        except BaseException:
            ours.close()
            _kill(process)
            raise
        main = sys.modules.get("__main__")
        writer.write(frames.pack(frames.Start(main_path=getattr(main, "__file__", None))))
        return cls(process, reader, writer)

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None and not self._reader.at_eof()

    async def run(self, spec: HandlerSpec, delivery: Delivery, ctx: Context, began: Callable[[], None]) -> Any:
        order = frames.RunIt(
            module=_module_of(spec.fn),
            qualname=spec.fn.__qualname__,
            name=spec.name,
            delivery=delivery,
            payload=codec.encode(ctx.job.payload),
            trace=ctx.job.trace,
        )
        self._writer.write(frames.pack(order))
        try:
            await self._writer.drain()
            while True:
                said = await self._receive()
                if isinstance(said, frames.Began):
                    began()
                elif isinstance(said, frames.Progress):
                    ctx.progress(codec.decode(said.value))
                elif isinstance(said, frames.FollowUpCall):
                    ctx.enqueue(said.name, codec.decode(said.payload), **msgspec.msgpack.decode(said.options))
                else:
                    return _end(said)
        except (EOFError, ConnectionError) as exc:
            raise ChildDied(f"the process of handler {spec.name!r} {await self._how()}") from exc

    async def _receive(self) -> frames.FromChild:
        (length,) = frames.LENGTH.unpack(await self._reader.readexactly(frames.LENGTH.size))
        return frames.from_child.decode(await self._reader.readexactly(length))

    async def _how(self) -> str:
        if not await within_ms(GONE_MS, self._process.wait()):
            return "closed its connection"
        code = self._process.returncode or 0
        return f"ended by signal {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"

    async def _hang_up(self) -> None:
        await self._process.wait()
        self._writer.transport.abort()

    def kill(self) -> None:
        _kill(self._process)

    async def gone(self) -> None:
        """Its exit is known, and its socket is closed."""
        await self._hang_up()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def _signal_name(number: int) -> str:
    """Its number where it has none: real-time signals."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _module_of(fn: Any) -> str:
    """Of a main module that has a name of its own (`python -m app.worker`) that name: it can be imported."""
    module: str = fn.__module__
    if module == "__main__":
        spec = getattr(sys.modules.get("__main__"), "__spec__", None)
        return module if spec is None else str(spec.name)
    return module


def _end(said: frames.FromChild) -> Any:
    match said:
        case frames.Returned(result=result):
            return codec.decode(result)
        case frames.Failed(kinds=kinds, error=error):
            raise RemoteError(kinds, codec.decode(error))
        case frames.Decision(kind="Retry", after_ms=after_ms, reason=reason):
            raise Retry(None if after_ms is None else after_ms / 1000, reason)
        case frames.Decision(kind="Snooze", after_ms=int(after_ms)):
            raise Snooze(after_ms / 1000)
        case frames.Decision(kind="Cancel", reason=reason):
            raise Cancel(reason)
        case frames.Decision(reason=reason):
            raise DeadLetter(reason)
        case _:
            raise ChildDied(f"a child process said {type(said).__name__} out of turn")

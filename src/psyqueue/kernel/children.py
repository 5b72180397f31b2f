"""Handlers with `mode="process"`: each run in a spawned process of its own, which can be killed.

A child is spawned, never forked (threads and connections do not survive a fork), kept for the next run, and killed when
its run is stopped. It dies by itself when its worker does.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from psyqueue import codec
from psyqueue.backend import Delivery
from psyqueue.kernel import frames
from psyqueue.outcome import Cancel, DeadLetter, RemoteError, Retry, Snooze, Verdict

if TYPE_CHECKING:
    from psyqueue.kernel.context import Context
    from psyqueue.kernel.handlers import HandlerSpec


class ChildDied(Exception):
    """The process of a run ended before the run did: killed by the system, out of memory, a crash in native code."""


class Children:
    """A pool without a size of its own: the worker's slots bound it."""

    def __init__(self) -> None:
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()

    async def run(self, spec: HandlerSpec, delivery: Delivery, ctx: Context) -> Any:
        """What the handler returned. Raises its verdict, RemoteError for its exception, ChildDied.

        Cancelled: the child is killed, and is dead before this returns.
        """
        child = self._idle.pop() if self._idle else await _Child.spawn()
        self._busy.add(child)
        is_whole = True
        try:
            return await child.run(spec, delivery, ctx)
        except (Verdict, RemoteError):
            raise
        except BaseException:
            is_whole = False
            raise
        finally:
            self._busy.discard(child)
            if is_whole:
                self._idle.append(child)
            else:
                child.kill()

    async def close(self) -> None:
        children = [*self._idle, *self._busy]
        for child in children:
            child.kill()
        self._idle.clear()
        for child in children:
            await child.gone()


class _Child:
    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def spawn(cls) -> _Child:
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "psyqueue.kernel.child",
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours, limit=frames.FRAME_BYTES_MAX)
        main = sys.modules.get("__main__")
        writer.write(frames.pack(frames.Start(path=list(sys.path), main_path=getattr(main, "__file__", None))))
        return cls(process, reader, writer)

    async def run(self, spec: HandlerSpec, delivery: Delivery, ctx: Context) -> Any:
        order = frames.RunIt(
            module=spec.fn.__module__,
            qualname=spec.fn.__qualname__,
            name=spec.name,
            delivery=delivery,
            payload=codec.encode(ctx.job.payload),
        )
        self._writer.write(frames.pack(order))
        try:
            await self._writer.drain()
            while True:
                said = await self._receive()
                if isinstance(said, frames.Progress):
                    ctx.progress(codec.decode(said.value))
                elif isinstance(said, frames.FollowUpCall):
                    ctx.enqueue(said.name, codec.decode(said.payload), **msgspec.msgpack.decode(said.options))
                else:
                    return _end(said)
        except (EOFError, ConnectionError) as exc:
            raise ChildDied(f"the process of handler {spec.name!r} ended {await self._how()}") from exc

    async def _receive(self) -> frames.FromChild:
        (length,) = frames.LENGTH.unpack(await self._reader.readexactly(frames.LENGTH.size))
        return frames.from_child.decode(await self._reader.readexactly(length))

    async def _how(self) -> str:
        code = await self._process.wait()
        return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"

    def kill(self) -> None:
        self._writer.close()
        if self._process.returncode is None:
            self._process.kill()

    async def gone(self) -> None:
        await self._process.wait()


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

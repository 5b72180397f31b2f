"""The child process of `mode="process"`: one handler run after another, on the main thread.

A second thread watches the socket: when the worker is gone, so is the child, in the middle of whatever it does, and
with it all that its handler started. Nobody else ends it: a Ctrl-C in the terminal or a TERM to the whole service is
for the worker, which lets running handlers finish.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import os
import queue
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from importlib.machinery import SourceFileLoader
from typing import Any, NoReturn

import msgspec

from psyqueue import codec
from psyqueue.errors import PsyQueueError
from psyqueue.ids import new_id
from psyqueue.kernel import frames
from psyqueue.kernel.context import NO_LIFESPAN, Context, RunningJob, Signals, run_is_over
from psyqueue.kernel.handler import Call, Handler
from psyqueue.kernel.lifecycle import import_of_a_handler
from psyqueue.kernel.options import read, read_name, refuse_conn
from psyqueue.kernel.parameters import Parameters
from psyqueue.kernel.signals import keep_from_forks
from psyqueue.outcome import BadResult, Cancel, DeadLetter, Retry, Snooze, Verdict, error_json

MAIN = "__psyqueue_main__"
"""The name under which the worker's own script is imported, so that its `if __name__ == "__main__"` stays quiet."""


class Child:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._orders: queue.SimpleQueue[frames.ToChild] = queue.SimpleQueue()
        self._send_lock = threading.Lock()
        self._current: object = None
        """The run whose words the worker takes now. Who goes on after the end of his run is no part of the next."""
        self._main_path: str | None = None
        self._invokes: dict[tuple[str, str], Callable[[Any, Any], Any]] = {}

    def serve(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            # A function, not SIG_IGN: programs that the handler starts do not inherit it.
            keep_from_forks(number)
            signal.signal(number, _leave_to_worker)
        threading.Thread(target=self._listen, name="psyqueue-child-ear", daemon=True).start()
        while True:
            order = self._orders.get()
            if isinstance(order, frames.Start):
                self._main_path = order.main_path
                sys.argv[:] = [order.main_path or ""]
            else:
                self._run(order)

    def _listen(self) -> None:
        while (body := self._read_frame()) is not None:
            self._orders.put(frames.to_child.decode(body))
        _exit()

    def _read_frame(self) -> bytes | None:
        head = self._read(frames.LENGTH.size)
        return None if head is None else self._read(frames.LENGTH.unpack(head)[0])

    def _read(self, size: int) -> bytes | None:
        parts = bytearray()
        while len(parts) < size:
            try:
                part = self._connection.recv(min(size - len(parts), 1 << 20))
            except OSError:
                return None
            if not part:
                return None
            parts += part
        return bytes(parts)

    def _say(self, run: object, frame: frames.FromChild) -> bool:
        """False: the run is over."""
        with self._send_lock:
            if self._current is not run:
                return False
            self._send(frame)
            return True

    def _send(self, frame: frames.FromChild) -> None:
        try:
            self._connection.sendall(frames.pack(frame))
        except OSError:
            _exit()

    def _run(self, order: frames.RunIt) -> None:
        self._current = order
        end = self._end_of(order)
        with self._send_lock:
            self._current = None
            self._send(end)

    def _end_of(self, order: frames.RunIt) -> frames.FromChild:
        attempt, at_ms = order.delivery.attempt, order.delivery.started_at_ms
        try:
            ctx = Context(
                order.delivery,
                codec.decode(order.payload),
                Signals(),
                functools.partial(self._follow_up, order),
                functools.partial(self._progress, order),
                app=NO_LIFESPAN,
            )
            ctx.job.trace = order.trace
            invoke = self._invoke(order)
            self._send(frames.Began())
            result = invoke(ctx, ctx.job.payload)
            if inspect.iscoroutine(result):
                result = asyncio.run(result)
            if isinstance(result, Verdict):
                return _decision(result)
            return _returned(result, attempt, at_ms)
        except Verdict as verdict:
            return _decision(verdict)
        except BaseException as exc:  # noqa: BLE001 - SystemExit of a handler is a failed run, too
            return frames.Failed(_kinds(exc), error_json(exc, attempt, at_ms))

    def _invoke(self, order: frames.RunIt) -> Callable[[Any, Any], Any]:
        key = (order.module, order.qualname)
        if key not in self._invokes:
            with import_of_a_handler():
                found: Any = self._import(order.module)
            for part in order.qualname.split("."):
                found = getattr(found, part)
            fn = found.fn if isinstance(found, Handler) else found
            self._invokes[key] = Parameters(order.name, fn).invoke
        return self._invokes[key]

    def _import(self, module: str) -> Any:
        if module != "__main__":
            return importlib.import_module(module)
        if self._main_path is None:
            raise ImportError("the worker's main module has no file: put the handler into a module of its own")
        if MAIN not in sys.modules:
            loader = SourceFileLoader(MAIN, self._main_path)
            found = types.ModuleType(MAIN)
            found.__file__ = self._main_path
            sys.modules[MAIN] = found
            try:
                loader.exec_module(found)
            except BaseException:
                del sys.modules[MAIN]
                raise
        return sys.modules[MAIN]

    def _progress(self, run: object, value: bytes) -> None:
        self._say(run, frames.Progress(value))

    def _follow_up(
        self, run: object, _: RunningJob, name_or_call: Any, payload: Any, options: dict[str, Any]
    ) -> tuple[Any, str]:
        """Checked here, so that the handler sees its mistake; made into a job by the worker, who knows all handlers."""
        if isinstance(name_or_call, Call):
            call = name_or_call.over(payload, options)
            name, payload, options = call.spec.name, call.payload, dict(call.options)
        else:
            name = name_or_call
        refuse_conn(options)
        options.setdefault("id", new_id())
        read(options)
        wire = msgspec.msgpack.encode({option: _plain(value) for option, value in options.items()})
        frame = frames.FollowUpCall(read_name("name", name), codec.encode(payload), wire)
        if not self._say(run, frame):
            raise run_is_over()
        return frame, options["id"]


def _plain(value: Any) -> Any:
    """An option as MessagePack keeps it: durations in seconds, job handles as their ids."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str | datetime | Mapping) or not hasattr(value, "__iter__"):
        return getattr(value, "id", value)
    return [_plain(each) for each in value]


def _returned(result: Any, attempt: int, at_ms: int) -> frames.FromChild:
    try:
        return frames.Returned(codec.encode(result, what="result"))
    except PsyQueueError as exc:
        return frames.Failed(_kinds(BadResult()), error_json(exc, attempt, at_ms))


def _decision(verdict: Verdict) -> frames.Decision:
    """By the verdict that it is; an application may have made a class of its own of it."""
    kind = next((kind for kind in (Retry, Snooze, Cancel) if isinstance(verdict, kind)), DeadLetter)
    return frames.Decision(kind.__name__, getattr(verdict, "after_ms", None), verdict.reason)


def _kinds(error: BaseException) -> list[str]:
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]


def _leave_to_worker(number: int, frame: Any) -> None:
    """The worker decides when a run ends."""


def _exit() -> NoReturn:
    """The worker closed the socket or died: nobody wants this run any more, nor what its handler started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def serve(number: int) -> None:
    """`number` is the file descriptor of the socket to the worker."""
    Child(socket.socket(fileno=number)).serve()

"""A spawned `psyqueue worker`: started, known to be ready, signalled, gone. For the supervisor and the demo."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from psyqueue.cli.worker_process import READY_LINE
from psyqueue.errors import ConfigError
from psyqueue.kernel.aio import spawn


class SpawnedWorker:
    """One process. It drains by itself when whoever spawned it is gone: its end of the socket closes."""

    def __init__(self, process: asyncio.subprocess.Process, connection: socket.socket) -> None:
        self._process = process
        self._connection = connection
        self._listening: asyncio.Task[None] | None = None
        self._is_asked = False
        self.ready: asyncio.Event = asyncio.Event()

    @classmethod
    async def start(
        cls,
        arguments: Sequence[str],
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        output: int | IO[bytes] | None = None,
    ) -> SpawnedWorker:
        """Run `psyqueue ARGUMENTS --supervisor-fd N`, never forked, in a session of its own: Ctrl-C does not reach it.

        `output`: where standard output and error go; None: to ours.
        """
        if sys.platform == "win32":
            raise ConfigError(
                "worker processes of its own need a POSIX system; start several `psyqueue worker` instead"
            )
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the current folder must not stand before the standard library
                "-m",
                "psyqueue",
                *arguments,
                "--supervisor-fd",
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=cwd,
                env=None if environment is None else dict(environment),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        worker = cls(process, ours)
        worker._listening = spawn(worker._listen(), name=f"psyqueue-spawned-{process.pid}")
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it lives; negative: killed by that signal."""
        return self._process.returncode

    def send(self, number: signal.Signals) -> None:
        """Does nothing once it is gone: its pid may be somebody else's by then."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def ask_to_end(self) -> None:
        """SIGTERM, once: a second one would mean "at once"."""
        if not self._is_asked:
            self._is_asked = True
            self.send(signal.SIGTERM)

    async def gone(self) -> int:
        """Its return code, as soon as it ended."""
        code = await self._process.wait()
        self._close()
        return code

    async def end(self, grace_ms: float) -> bool:
        """SIGTERM, and SIGKILL when it is still there after the time. True: it went by itself."""
        self.ask_to_end()
        try:
            async with asyncio.timeout(grace_ms / 1000):
                await self.gone()
        except TimeoutError:
            self.send(signal.SIGKILL)
            # A stopped process would not take its SIGTERM; SIGKILL it takes in any state.
            await self.gone()
            return False
        return True

    def _close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
        self._connection.close()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            if await loop.sock_recv(self._connection, len(READY_LINE)):
                self.ready.set()


def how_it_ended(code: int) -> str:
    """A return code in words."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"

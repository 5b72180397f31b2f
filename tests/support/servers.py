"""Real servers for tests: their processes, which never outlive the test process."""

from __future__ import annotations

import atexit
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.server_home import ServerHome

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)  # loaded here: nothing may be loaded between fork and exec
_POLL_S = 0.005
_TRIES_MAX = 40
_RETRY_S = 0.05
_STOP_S_MAX = 10.0
# Below every system's ephemeral range: a client's outgoing connection must not take the port of a server
# that is down for a moment.
_PORTS = range(20_000, 32_000)


class Unavailable(RuntimeError):
    """No server of this kind can be started here; the message names each candidate and what was wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """All that is needed to start a server, and to start it again on the same port and data."""

    argv: list[str]
    home: ServerHome
    is_ready: Callable[[int], bool]  # given the server's process id: another server may own the port
    ready_s_max: float
    env: dict[str, str] | None = None
    identity: dict[str, Any] = field(default_factory=dict)  # subprocess's user=, group=, extra_groups=


@dataclass(slots=True, kw_only=True, eq=False)
class Server:
    """A running server. `stop` ends it and removes its files; `kill` and `restart` are for fault tests."""

    kind: str
    url: str
    version: str
    origin: str
    startup_ms: int
    launch: Launch | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self.process is None:
            raise RuntimeError(f"{self.kind} at {self.url} was given by URL: it is not ours to signal")
        return self.process.pid

    @property
    def folder(self) -> Path:
        """Where its data and its log lie; gone after `stop`."""
        assert self.launch is not None, "a server given by URL has no folder of ours"
        return self.launch.home.path

    def stop(self) -> None:
        """End the server and remove its folder; does nothing for a server given by URL."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)  # a fault test may have stopped it
            # PostgreSQL: fast shutdown, which ends its children, too. A Redis that writes its first append-only file
            # would refuse, and what it saves is removed.
            self.process.send_signal(signal.SIGINT if self.kind == "postgres" else signal.SIGKILL)
            try:
                self.process.wait(_STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self.kill()
        if self.launch:
            self.launch.home.remove()
        _running.discard(self)

    def kill(self) -> None:
        """SIGKILL; the data stays for `restart`."""
        os.kill(self.pid, signal.SIGKILL)
        assert self.process is not None
        self.process.wait(_STOP_S_MAX)

    def restart(self) -> None:
        """Start again on the same port and data, after `kill` or on a running server.

        Raises: Unavailable if it is not ready in time.
        """
        assert self.launch is not None, "a server given by URL is not ours to restart"
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(_STOP_S_MAX)
        self.process = spawn(self.launch)


_running: set[Server] = set()


@atexit.register
def _stop_all() -> None:
    for server in list(_running):
        if server.process and server.process.returncode is None:
            server.stop()


def spawn(launch: Launch) -> subprocess.Popen[bytes]:
    """Start the process and wait until it is ready.

    One that exits early is tried again: the children of a PostgreSQL killed a moment ago may still hold its
    shared memory.
    Raises: Unavailable with the end of the server's log.
    """
    end = time.monotonic() + launch.ready_s_max
    for _ in range(_TRIES_MAX):
        process = _popen(launch)
        try:
            if _becomes_ready(process, launch, end):
                return process
        except BaseException:
            _put_down(process)
            raise
        _put_down(process)
        if time.monotonic() >= end:
            break
        threading.Event().wait(_RETRY_S)
    log = (launch.home / "log").read_text(errors="replace")
    raise Unavailable(f"{launch.argv[0]} did not become ready: {log[-400:].strip()}")


def _becomes_ready(process: subprocess.Popen[bytes], launch: Launch, end: float) -> bool:
    while process.poll() is None and time.monotonic() < end:
        if launch.is_ready(process.pid):
            return True
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
    return False


def _put_down(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _popen(launch: Launch) -> subprocess.Popen[bytes]:
    # The kernel's parent-death signal comes when the starting *thread* ends.
    assert threading.current_thread() is threading.main_thread(), "start servers from the main thread"
    with (launch.home / "log").open("ab") as log:
        return subprocess.Popen(
            launch.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=launch.home.path,
            env=launch.env,
            start_new_session=True,  # Ctrl-C is for pytest; its fixtures stop the server
            preexec_fn=_die_with_parent(os.getpid()),  # noqa: PLW1509  # runs after setuid, which clears it
            **launch.identity,
        )


def _die_with_parent(parent_pid: int) -> Callable[[], None] | None:
    """What makes `kill -9` of a test run leave no server; only Linux has it."""
    if sys.platform != "linux":
        return None

    def in_child() -> None:
        # SIGKILL, not SIGTERM: a server stopped by a fault test would never see a milder signal.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # the parent died before the call
            os._exit(1)

    return in_child


def own_server(launch: Launch, *, kind: str, url: str, version: str, origin: str, began: float) -> Server:
    """Spawn `launch`; the result is stopped at exit, should its owner forget."""
    process = spawn(launch)
    startup_ms = round((time.monotonic() - began) * 1000)
    server = Server(
        kind=kind,
        url=url,
        version=version,
        origin=origin,
        startup_ms=startup_ms,
        launch=launch,
        process=process,
    )
    _running.add(server)
    return server


def free_port() -> int:
    """A port that was free a moment ago; the caller checks who answers there."""
    for _ in range(100):
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Unavailable("no free port found in 100 tries")

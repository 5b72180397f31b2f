"""Children that are born quickly: what all of them import is imported once, by the process that forks them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.source import TESTS
from support.waiting import wait_until


class Child:
    """One of them; as much of a Popen as a storm needs."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self._pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, below 0 for a signal; None while it lives."""
        if self._code is None:
            self._code = self._nursery.ask("poll", self._pid)
        return self._code

    def wait(self, limit_s: float = 60.0) -> int:
        assert wait_until(lambda: self.poll() is not None, limit_s=limit_s), f"{self._pid} lives after {limit_s} s"
        assert self._code is not None
        return self._code

    def send_signal(self, how: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self._pid, how)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that forks them: `python -m MODULE --serve`."""

    def __init__(self, module: str) -> None:
        argv = [sys.executable, "-m", module, "--serve"]
        self._server = subprocess.Popen(argv, cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with self._server as server:
            assert server.stdin is not None
            server.stdin.close()

    def bear(self, arguments: Sequence[str], words: Path) -> Child:
        """A child that does `arguments`; what it says goes to a file: a full pipe would stop it."""
        return Child(self, self.ask("bear", list(arguments), str(words)))

    def ask(self, *what: Any) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(what), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())


def serve(main: Callable[[Sequence[str]], int]) -> None:
    """Until standard input ends; then nobody is left who would look after the children."""
    children: set[int] = set()
    for line in sys.stdin:
        what, *about = json.loads(line)
        answer: int | None
        if what == "bear":
            answer = _fork(main, *about)
            children.add(answer)
        else:
            found, status = os.waitpid(about[0], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if found else None
            children -= {found}
        print(json.dumps(answer), flush=True)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _fork(main: Callable[[Sequence[str]], int], arguments: Sequence[str], words: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    log = os.open(words, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for into, of in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(into, of)
    code = 1
    try:
        code = main(arguments)
    except BaseException:  # noqa: BLE001 - the end of a process
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

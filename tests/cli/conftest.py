"""The command `psyqueue` as its users run it: a process of its own, in a folder of the test."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from psyqueue import JobView, PsyQueue
from psyqueue.backend import Op, Session, SessionInfo
from psyqueue.backend.compose import all_sessions, dequeue, nack
from psyqueue.cli.main import run
from psyqueue.ids import new_token
from support.waiting import is_process_alive, wait_until

COMMAND = [sys.executable, "-m", "psyqueue"]
LIMIT_S = 30.0

SHOP = """
import asyncio, os, pathlib, threading
from psyqueue import PsyQueue
from psyqueue.backends import sqlite

q = PsyQueue(name="shop").use(sqlite(path="jobs.db"))
bare = PsyQueue(name="bare")
number = 5

def note(text):
    with open("notes", "a") as notes:
        notes.write(f"{text}\\n")

@q.handle("note")
def write_note(text: str) -> str:
    note(text)
    return text.upper()

bare.handle("note", write_note.fn)

@q.handle("forever")
async def forever() -> None:
    note("begun forever")
    await asyncio.Event().wait()

@q.handle("until_told")
async def until_told() -> str:
    note("begun until_told")
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    return "told"

@q.handle("stubborn", timeout=0.1, max_retries=0)
def stubborn() -> None:
    note("begun stubborn")
    threading.Event().wait()

@q.handle("stuck")
def stuck() -> None:
    note("begun stuck")
    threading.Event().wait()

@q.handle("blocking")
async def blocking() -> None:
    note("begun blocking")
    threading.Event().wait()

@q.handle("fails", max_retries=0)
def fails(text: str = "\\x1b[31mred") -> None:
    raise ValueError(text)
"""


class Answer:
    """A command that ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- out\n{self.out}\n--- err\n{self.err}"


class Running:
    """A command that runs; its lines are read as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(stream,)) for stream in (process.stdout, process.stderr)
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any) -> None:
        with stream:
            for line in stream:
                self.lines.append(line.rstrip("\n"))

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def line(self, pattern: str, count: int = 1) -> re.Match[str]:
        """The match in the `count`-th line that holds the pattern, as soon as it is there."""

        def found() -> list[re.Match[str]]:
            return [match for line in list(self.lines) if (match := re.search(pattern, line))]

        wait_until(lambda: len(found()) >= count or self._is_over(), limit_s=LIMIT_S)
        assert len(found()) >= count, f"no line {count} like {pattern!r} in:\n{self.text}"
        return found()[count - 1]

    def _is_over(self) -> bool:
        return self.process.poll() is not None and not any(reader.is_alive() for reader in self._readers)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, limit_s: float = LIMIT_S) -> int:
        """Its exit code, as soon as it ended."""
        code = self.process.wait(limit_s)
        for reader in self._readers:
            reader.join(limit_s)
        return code

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join(LIMIT_S)


class Cli:
    """Runs commands in one folder, on its `jobs.db`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:{folder}/jobs.db"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PSYQUEUE")}
        self.running: list[Running] = []
        self.pids: list[int] = []

    def run(self, *arguments: object, store: bool = True, stdin: str | None = None, **environment: str) -> Answer:
        """Run to the end. `store`: name the folder's store in the environment."""
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=self.folder,
            env=self._environment(store, environment),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=4 * LIMIT_S,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def call(self, *arguments: object, store: bool = True) -> Answer:
        """As `run`, in this process: for what needs no process of its own to be true."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.chdir(self.folder)
            patch.setattr(sys, "stdin", io.StringIO())
            patch.delenv("PSYQUEUE_URL", raising=False)
            if store:
                patch.setenv("PSYQUEUE_URL", self.url)
            code = run([str(argument) for argument in arguments])
        return Answer(code, out.getvalue(), err.getvalue())

    def json(self, *arguments: object) -> Any:
        """The document of a command that has to succeed."""
        answer = self.call(*arguments, "--json")
        assert answer.code == 0, answer
        return answer.json

    def start(
        self, *arguments: object, store: bool = False, command: Sequence[str] = COMMAND, **environment: str
    ) -> Running:
        process = subprocess.Popen(
            [*command, *map(str, arguments)],
            cwd=self.folder,
            env=self._environment(store, environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        running = Running(process)
        self.running.append(running)
        return running

    # The store, looked at from this process: quicker than a command, and apart from what is tested.
    def with_queue(self, work: Callable[[PsyQueue], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            async with PsyQueue.from_url(self.url) as queue:
                return await work(queue)

        return asyncio.run(run())

    def enqueue(self, name: str, payload: Any = None, **options: Any) -> str:
        async def work(queue: PsyQueue) -> str:
            return (await queue.enqueue(name, payload, **options)).id

        return str(self.with_queue(work))

    def show(self, job_id: str) -> dict[str, Any]:
        async def work(queue: PsyQueue) -> JobView | None:
            return await queue.get(job_id)

        return dict(msgspec.json.decode(msgspec.json.encode(self.with_queue(work))))

    def make_dead(self, *names: str, text: str = "broken") -> list[str]:
        """Jobs whose only run failed with a ValueError; their ids."""
        ids = [self.enqueue(name, {"to": "ann"}, max_retries=0) for name in names]
        body = msgspec.json.encode({"type": "ValueError", "message": text, "attempt": 1})

        async def work(queue: PsyQueue) -> None:
            backend, session = queue.get_exposed("backend"), new_token()
            await backend.open_session(
                Op(session, 1, 1), Session(id=session, worker="w", queues=names, lease_ms=60_000)
            )
            for turn, delivery in enumerate(await dequeue(backend, Op(session, 1, 2), session, *names, count=50)):
                await nack(backend, Op(session, 1, 3 + turn), session, delivery, body)
            await backend.close_session(Op(session, 2, 1), session)

        self.with_queue(work)
        return ids

    def make_active(self, name: str, lease_ms: int = 60_000) -> str:
        """A job that a worker holds; its id."""
        job_id = self.enqueue(name)

        async def work(queue: PsyQueue) -> None:
            backend, session = queue.get_exposed("backend"), new_token()
            await backend.open_session(
                Op(session, 1, 1), Session(id=session, worker="w", queues=(name,), lease_ms=lease_ms)
            )
            await dequeue(backend, Op(session, 1, 2), session, name)

        self.with_queue(work)
        return job_id

    def sessions(self) -> list[SessionInfo]:
        async def work(queue: PsyQueue) -> list[SessionInfo]:
            return await all_sessions(queue.get_exposed("backend"))

        return list(self.with_queue(work))

    def notes(self) -> list[str]:
        path = self.folder / "notes"
        return path.read_text().splitlines() if path.exists() else []

    def wait_for_note(self, text: str, count: int = 1) -> None:
        there = wait_until(lambda: self.notes().count(text) >= count, limit_s=LIMIT_S)
        assert there, [self.notes(), *(running.text for running in self.running)]

    def wait_for_status(self, job_id: str, status: str) -> dict[str, Any]:
        there = wait_until(lambda: self.show(job_id)["status"] == status, limit_s=LIMIT_S)
        assert there, [self.show(job_id), *(running.text for running in self.running)]
        return self.show(job_id)

    def in_terminal(self, *arguments: object, answer: str = "") -> tuple[int, str]:
        """Exit code and everything that a terminal was told; `answer` is typed in."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=self.folder,
            env=self._environment(False, {"TERM": "xterm", "COLUMNS": "100"}),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        os.write(ours, answer.encode())
        said = b""
        # Linux answers the end of the other side with an error.
        with contextlib.suppress(OSError):
            while part := os.read(ours, 65_536):
                said += part
        os.close(ours)
        return process.wait(LIMIT_S), said.decode()

    def _environment(self, store: bool, more: dict[str, str]) -> dict[str, str]:
        named = {"PSYQUEUE_URL": self.url} if store else {}
        return {**self.environment, "PYTHONUNBUFFERED": "1", **named, **more}

    def close(self) -> None:
        for running in self.running:
            running.kill()
        for pid in self.pids:
            if is_process_alive(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def cli(tmp_path):
    """Commands in an empty folder; what a test started is killed after it."""
    made = Cli(tmp_path)
    yield made
    made.close()


@pytest.fixture
def shop(cli):
    """The same, with a module `shop.py` of handlers."""
    (cli.folder / "shop.py").write_text(SHOP)
    return cli


@pytest.fixture
def some_files(tmp_path):
    """A folder for the demo, which counts Python files."""
    made = tmp_path / "files"
    made.mkdir()
    for number in range(18):
        (made / f"module_{number}.py").write_text(f"def f{number}(): ...\n")
    return made


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def stored(request, cli, namespace):
    """Commands on a store of each kind."""
    if request.param == "redis":
        cli.url = f"{request.getfixturevalue('redis_server').url}?key_prefix={namespace}:"
    elif request.param == "postgres":
        cli.url = f"{request.getfixturevalue('postgres_server').url}?schema={namespace}"
    return cli

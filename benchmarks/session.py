"""Runs measurements: each in a fresh process with a fresh folder, the lines of a case in turn."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.spec import UNITS, Facts, Peer, Spec

from benchmarks import homes

ROOT = Path(__file__).resolve().parents[1]
FOREIGN_CORES_MAX = 0.2
SLOWER_MAX = 1.3
"""A CPU that takes this much longer for a fixed piece of work than it did at its best in this session."""
REPEATS_MAX = 2
"""Of one measurement that was disturbed; if all were, the least disturbed counts and is marked."""
REPEATS_STORE_MAX = 25
LIMIT_S = 540
SINGLE = frozenset(("memory", "calls", "footprint", "churn"))
"""Measured once: a million jobs for one figure that hardly varies, counts that do not, and a ratio within one run."""
COUNTS = frozenset(("calls", "footprint"))
"""They count: a busy machine disturbs nothing."""
METHOD = {
    "order": "the lines of a case alternate",
    "figure": "median; all values are kept",
    "foreign_cores_max": FOREIGN_CORES_MAX,
    "slower_max": SLOWER_MAX,
    "repeats_max": REPEATS_MAX,
}


class Failed(Exception):
    """A measurement that ended with an error; its text is that of the process."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Session:
    """Runs specs in fresh processes, each with a fresh folder that is gone afterwards."""

    def __init__(self, folder: Path, *, is_smoke: bool, repeats: bool) -> None:
        self._folder = folder
        self._is_smoke = is_smoke
        self._repeats = repeats and not is_smoke
        self._stocks: dict[tuple[str, str, int], Path] = {}
        self.repeats_left = 0
        self.threads: dict[tuple[str, str], int] = {}
        self.spin_ms_best = math.inf

    def begin_store(self) -> None:
        self.repeats_left = REPEATS_STORE_MAX if self._repeats else 0

    def measure(self, spec: Spec) -> Facts:
        """Raises Failed."""
        with tempfile.TemporaryDirectory(dir=self._folder) as own:
            stock = self._stocks.get((spec.store, spec.peer, spec.stock))
            if stock is not None:
                shutil.copytree(stock, own, dirs_exist_ok=True)
            if not self._is_smoke:
                os.sync()  # what was written before the clock starts is not to be paid inside it
            return _run(replace(spec, folder=own))

    def stock(self, spec: Spec) -> None:
        """Fill one store per peer and size; every run begins with a copy of it, so all begin alike. Raises Failed."""
        key = (spec.store, spec.peer, spec.stock)
        if spec.stock and key not in self._stocks:
            folder = Path(tempfile.mkdtemp(prefix="stock-", dir=self._folder))
            _run(replace(spec, kind="preload", n=spec.stock, folder=str(folder)))
            self._stocks[key] = folder

    def tune(self, trial: Spec, peer: Peer) -> None:
        """The number of threads with which a peer is fastest here. Raises Failed."""
        key = (trial.store, peer.name)
        if self._is_smoke:
            self.threads[key] = peer.threads[0]
            return
        one = replace(trial, peer=peer.name)
        self.stock(one)
        rates: dict[int, float] = {}
        for self.threads[key] in peer.threads:
            rates[self.threads[key]] = self.attempts(one)[-1]["value"]
        self.threads[key] = max(rates, key=lambda count: rates[count])
        say(f"{trial.store}: {peer.name} is fastest with {self.threads[key]} threads: {rates}")

    def attempts(self, spec: Spec) -> list[Facts]:
        """One measurement, made again while it is disturbed; the one that counts is last."""
        spec = replace(spec, threads=self.threads.get((spec.store, spec.peer), 1))
        made: list[Facts] = []
        while True:
            made.append(self.measure(spec))
            made[-1]["disturbed"] = spec.kind not in COUNTS and self._disturbance(made[-1]) > 1
            if not made[-1]["disturbed"] or len(made) > REPEATS_MAX or not self.repeats_left:
                break
            self.repeats_left -= 1
        if made[-1]["disturbed"]:
            made.sort(key=self._disturbance, reverse=True)
        return made

    def _disturbance(self, facts: Facts) -> float:
        """More than 1 is too much: others used the CPU, or the host slowed it down."""
        self.spin_ms_best = min(self.spin_ms_best, facts["spin_ms"])
        slower: float = facts["spin_ms"] / self.spin_ms_best
        foreign: float = facts["foreign_cores"] or 0.0
        return max(foreign / FOREIGN_CORES_MAX, (slower - 1) / (SLOWER_MAX - 1))


def _run(spec: Spec) -> Facts:
    """In a process group of its own, so that its CPU can be told from that of others and nothing of it stays."""
    command = [homes.python_of(spec), "-m", "benchmarks.measure", spec.to_json()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    child = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes)  # type: ignore[call-overload]
    _running.add(child.pid)
    try:
        out, err = child.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired as exc:
        raise Failed(f"nothing after {LIMIT_S} s") from exc
    finally:
        _running.discard(child.pid)
        _kill_group(child.pid)
        child.wait()
    if child.returncode != 0 or not out.strip():
        raise Failed(err.strip()[-2_000:] or f"exit code {child.returncode}")
    facts: Facts = json.loads(out.strip().splitlines()[-1])
    return facts


_running: set[int] = set()


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def end_with_signals() -> None:
    """SIGINT and SIGTERM end what is being measured, so that the session ends at once and leaves no file."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)


def _interrupted(number: int, _frame: object) -> None:
    for leader in tuple(_running):
        _kill_group(leader)
    sys.exit(128 + number)


def run_case(session: Session, specs: Sequence[Spec], runs: int, *, at_once: int) -> list[Facts]:
    """Every line of one case of one store, in rounds."""
    counted: dict[str, list[Facts]] = {spec.line: [] for spec in specs}
    dropped: dict[str, list[Facts]] = {spec.line: [] for spec in specs}
    errors: dict[str, str] = {}

    def failed(spec: Spec, error: Failed) -> None:
        errors[spec.line] = str(error)
        say(f"{spec.store}: {spec.line}: failed\n{error}")

    def once(spec: Spec) -> None:
        try:
            *others, last = session.attempts(spec)
        except Failed as exc:
            failed(spec, exc)
            return
        counted[spec.line].append(last)
        dropped[spec.line] += others
        mark = " (disturbed)" if last["disturbed"] else ""
        say(f"{spec.store}: {spec.line}: {last['value']} {UNITS[spec.kind]}{mark}")

    for spec in specs:
        try:
            session.stock(spec)
        except Failed as exc:
            failed(spec, exc)
    with ThreadPoolExecutor(at_once) as pool:
        for number in range(runs):
            due = [spec for spec in specs if spec.line not in errors and (number == 0 or spec.kind not in SINGLE)]
            list(pool.map(once, due))
    return [_result(spec, counted[spec.line], dropped[spec.line], errors.get(spec.line)) for spec in specs]


def _result(spec: Spec, counted: list[Facts], dropped: list[Facts], error: str | None) -> Facts:
    values = [facts["value"] for facts in counted]
    return {
        "store": spec.store,
        "line": spec.line,
        "case": spec.case,
        "peer": spec.peer,
        "durability": spec.durability,
        "variant": spec.variant,
        "kind": spec.kind,
        "unit": UNITS[spec.kind],
        "n": spec.n,
        "waiting": spec.stock,
        "median": median(values) if values else None,
        "values": values,
        "disturbed": sum(facts["disturbed"] for facts in counted),
        "runs": counted,
        "not_counted": dropped,
        "error": error,
    }

"""A session of measurements: `python -m benchmarks.run [--case W1] [--peer huey] [--smoke] [--out FILE]`.

Lines of one case alternate: all of them once, then all of them again, so that a slow minute of the machine hits each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from benchmarks.report import report
from benchmarks.spec import CASES, FULL, OURS, PEERS, SMOKE, UNITS, Facts, Spec, lines

from benchmarks import machine

ROOT = Path(__file__).resolve().parents[1]
FOREIGN_CORES_MAX = 0.2
SLOWER_MAX = 1.3
"""A CPU that takes this much longer for a fixed piece of work than it did at its best in this session."""
REPEATS_MAX = 2
"""Of one measurement that was disturbed; if all were, the least disturbed counts and is marked."""
REPEATS_SESSION_MAX = 25
LIMIT_S = 300
HUEY_THREADS = (1, 2, 4, 10)
HUEY_TRIAL_JOBS = 3_000
SINGLE = frozenset(("memory", "calls"))
"""Measured once: a million jobs for one figure that hardly varies, and a count that does not."""


class Failed(Exception):
    """A measurement that ended with an error; its text is that of the process."""


class Session:
    """Runs specs in fresh processes, each with a fresh folder that is gone afterwards."""

    def __init__(self, folder: Path, *, is_smoke: bool) -> None:
        self._folder = folder
        self._is_smoke = is_smoke
        self._stocks: dict[tuple[str, int], Path] = {}
        self.repeats_left = 0 if is_smoke else REPEATS_SESSION_MAX
        self.threads = 1
        self.spin_ms_best = math.inf

    def measure(self, spec: Spec) -> Facts:
        """Raises Failed."""
        with tempfile.TemporaryDirectory(dir=self._folder) as own:
            stock = self._stocks.get((spec.peer, spec.stock))
            if stock is not None:
                shutil.copytree(stock, own, dirs_exist_ok=True)
            if not self._is_smoke:
                os.sync()  # what was written before the clock starts is not to be paid inside it
            return _run(replace(spec, folder=own))

    def stock(self, spec: Spec) -> None:
        """Fill one store per peer and size; every run begins with a copy of it, so all begin alike. Raises Failed."""
        key = (spec.peer, spec.stock)
        if spec.stock and key not in self._stocks:
            folder = Path(tempfile.mkdtemp(prefix="stock-", dir=self._folder))
            _run(replace(spec, kind="preload", n=spec.stock, folder=str(folder)))
            self._stocks[key] = folder

    def tune(self) -> None:
        """The number of threads with which huey is fastest here."""
        if self._is_smoke:
            return
        one = Spec(case="tune", kind="process", peer="huey", n=HUEY_TRIAL_JOBS)
        self.stock(one)
        rates = {count: self.measure(replace(one, threads=count))["value"] for count in HUEY_THREADS}
        self.threads = max(rates, key=lambda count: rates[count])
        say(f"huey is fastest with {self.threads} threads: {rates}")

    def attempts(self, spec: Spec) -> list[Facts]:
        """One measurement, made again while it is disturbed; the one that counts is last."""
        spec = replace(spec, threads=self.threads)
        made: list[Facts] = []
        while True:
            made.append(self.measure(spec))
            made[-1]["disturbed"] = self._disturbance(made[-1]) > 1
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
    command = [sys.executable, "-m", "benchmarks.measure", spec.to_json()]
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


def _interrupted(number: int, _frame: object) -> None:
    """Ends what is being measured, so that the session ends at once and leaves no file."""
    for leader in tuple(_running):
        _kill_group(leader)
    sys.exit(128 + number)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run_case(session: Session, specs: Sequence[Spec], runs: int, *, at_once: int) -> list[Facts]:
    """Every line of one case, in rounds."""
    counted: dict[str, list[Facts]] = {spec.line: [] for spec in specs}
    dropped: dict[str, list[Facts]] = {spec.line: [] for spec in specs}
    errors: dict[str, str] = {}

    def failed(spec: Spec, error: Failed) -> None:
        errors[spec.line] = str(error)
        say(f"{spec.line}: failed\n{error}")

    def once(spec: Spec) -> None:
        try:
            *others, last = session.attempts(spec)
        except Failed as exc:
            failed(spec, exc)
            return
        counted[spec.line].append(last)
        dropped[spec.line] += others
        say(f"{spec.line}: {last['value']} {UNITS[spec.kind]}{' (disturbed)' if last['disturbed'] else ''}")

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


def session_facts(folder: Path, *, is_smoke: bool, runs: int, cases: Sequence[str]) -> Facts:
    return {
        "schema": 1,
        "began_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(ROOT),
        "smoke": is_smoke,
        "cases": list(cases),
        "machine": machine.facts(folder),
        "versions": machine.versions(),
        "not_installed": [peer for peer, module in PEERS.items() if find_spec(module) is None],
        "method": {
            "runs": runs,
            "order": "the lines of a case alternate",
            "figure": "median; all values are kept",
            "foreign_cores_max": FOREIGN_CORES_MAX,
            "slower_max": SLOWER_MAX,
            "repeats_max": REPEATS_MAX,
        },
    }


def run(options: argparse.Namespace) -> Facts:
    sizes = SMOKE if options.smoke else FULL
    runs = 1 if options.smoke else options.runs
    with tempfile.TemporaryDirectory(prefix="psyqueue-bench-", dir=options.folder) as folder:
        found = session_facts(Path(folder), is_smoke=options.smoke, runs=runs, cases=options.case)
        missing = found["not_installed"]
        say(f"not installed, not measured: {', '.join(missing)}" if missing else "all peers are installed")
        peers = [peer for peer in options.peer if peer not in missing]
        chosen = [spec for spec in lines(sizes) if spec.case in options.case and spec.peer in (*peers, OURS, "bare")]
        if options.smoke:
            chosen = list({(spec.case, spec.kind, spec.peer): spec for spec in chosen}.values())
        session = Session(Path(folder), is_smoke=options.smoke)
        if any(spec.peer == "huey" for spec in chosen):
            session.tune()
        began_s = time.monotonic()
        found["lines"] = []
        for case in dict.fromkeys(spec.case for spec in chosen):
            specs = [spec for spec in chosen if spec.case == case]
            found["lines"] += run_case(session, specs, runs, at_once=4 if options.smoke else 1)
        found["huey_threads"] = session.threads
        found["spin_ms_best"] = session.spin_ms_best
        found["seconds"] = round(time.monotonic() - began_s, 1)
    return found


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--peer", nargs="*", choices=[*PEERS], default=[*PEERS], help="besides psyqueue itself")
    parser.add_argument("--runs", type=int, default=3, help="rounds of each case (default 3)")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round: does everything still run?")
    parser.add_argument("--list", action="store_true", help="print the names of all lines, measure nothing")
    parser.add_argument("--folder", help="where the files go for the time of the run: on the disk to be measured")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/DATE-COMMIT.json; none for --smoke")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.list:
        print("\n".join(spec.line for spec in lines(FULL)))
        return 0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
    found = run(options)
    out = options.out
    if out is None and not options.smoke:
        out = ROOT / "benchmarks" / "results" / f"{found['began_at'][:10]}-{found['commit']}.json"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        say(f"written: {out}")
    print(report(found))
    return 1 if any(line["error"] for line in found["lines"]) else 0


if __name__ == "__main__":
    sys.exit(main())

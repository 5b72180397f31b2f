"""Results as markdown: `python -m benchmarks.report FILE [--short] [--plot SVG]`. Goals: goals.json; figures: FILE."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.plot import plot
from benchmarks.spec import Facts

GOALS = Path(__file__).with_name("goals.json")
FIELD_UNITS = {
    "p50_ms": "ms",
    "p99_ms": "ms",
    "cpu_us_per_job": "µs of CPU a job",
    "server_us_per_job": "µs of the server's CPU a job",
    "of_possible": "of what the waits let through",
    "idle_cpu_percent": "% of a core",
    "share_off": "off the even share",
    "lock_wait_ms_max": "ms, longest wait to write",
    "locked": "× database is locked",
    "growth": "growth",
}


def report(found: Facts, *, is_short: bool = False) -> str:
    goals = json.loads(GOALS.read_text(encoding="utf-8"))
    parts = [_head(found)]
    for store, lines in by_store(found).items():
        parts += [f"### {store}", _goals(goals[store], {line["line"]: line for line in lines})]
        if not is_short:
            parts.append(_lines(lines))
    return "\n\n".join(parts)


def by_store(found: Facts) -> dict[str, list[Facts]]:
    """Schema 1 knew SQLite alone."""
    stores: dict[str, list[Facts]] = {}
    for line in found["lines"]:
        stores.setdefault(line.get("store", "sqlite"), []).append(line)
    return stores


def _head(found: Facts) -> str:
    machine, method = found["machine"], found["method"]
    versions = ", ".join(f"{name} {known or 'not installed'}" for name, known in found["versions"].items())
    runs = [run for line in found["lines"] for run in line["runs"]]
    disturbed = sum(run["disturbed"] for run in runs)
    slowest = max((run["spin_ms"] for run in runs), default=0.0) / found["spin_ms_best"]
    smoke = " · SMOKE, the figures mean nothing" if found["smoke"] else ""
    hardware = f"{machine['cores']} × {machine['cpu']}, {machine['memory_gb']} GB, {machine['file_system']}"
    served = "".join(f", {one['version']} ({one['origin']})" for one in found.get("servers", {}).values())
    return (
        f"{found['began_at']} · commit {found['commit']} · {found['seconds']} s{smoke}\n"
        f"{hardware}; {machine['system']}; Python {machine['python']}, SQLite {machine['sqlite']}{served}; {versions}\n"
        f"{method['runs']} runs, {method['figure']}; {disturbed} of {len(runs)} were disturbed: others used more than "
        f"{method['foreign_cores_max']} cores, or the CPU was {method['slower_max']} × slower than at its best or more "
        f"(at worst {slowest:.2f} ×).{_threads(found)}"
    )


def _threads(found: Facts) -> str:
    counts = found.get("threads", {})
    return f" Threads: {', '.join(f'{peer} {count}' for peer, count in counts.items())}." if counts else ""


# ── against the goals ─────────────────────────────────────────────────────────────────────────────────────────────────
def _goals(data: Facts, lines: dict[str, Facts]) -> str:
    rows = [row for goal in data["goals"] if (row := _goal_row(goal, data["stand_ins"], lines))]
    if not rows:
        return "No line of this session has a goal."
    notes = [
        f"- {name} is not measured: it stands for {what['factor']} × {what['line']} of this session ({what['why']})."
        for name, what in data["stand_ins"].items()
        if any(name in row[2] for row in rows)
    ]
    return _table(("ours", "figure", "against", "ratio", "goal", "", "limit"), rows) + "\n\n" + "\n".join(notes)


def _goal_row(goal: Facts, stand_ins: Facts, lines: dict[str, Facts]) -> tuple[str, ...] | None:
    field = goal.get("field", "value")
    ours = _figure(lines, goal["ours"], field)
    if ours is None:
        return None
    unit = FIELD_UNITS.get(field) or lines[goal["ours"]]["unit"]
    against, reached, times = "", ours, ""
    if "against" in goal:
        best = _best(goal["against"], stand_ins, lines, is_least="most" in goal)
        if best is None:
            return None
        name, theirs = best
        against, reached, times = f"{name} {_number(theirs)}", ours / theirs, " ×"
    is_met = reached >= goal["least"] if "least" in goal else reached <= goal["most"]
    limit = _figure(lines, goal.get("limit", ""), "value")
    return (
        goal["ours"],
        f"{_number(ours)} {unit}",
        against,
        f"{reached:.2f} ×" if times else "",
        f"≥ {goal['least']:g}{times}" if "least" in goal else f"≤ {goal['most']:g}{times}",
        "met" if is_met else "MISSED",
        "" if limit is None else f"{ours / limit:.0%} of {_number(limit)}",
    )


def _best(
    names: str | list[str], stand_ins: Facts, lines: dict[str, Facts], *, is_least: bool
) -> tuple[str, float] | None:
    """The highest figure of one or several lines or stand-ins, and whose it is; None: none of them was measured.

    `is_least`: the lowest, of what is to be small.
    """
    found = []
    for name in [names] if isinstance(names, str) else names:
        stand_in = stand_ins.get(name, {"line": name, "factor": 1})
        figure = _figure(lines, stand_in["line"], "value")
        if figure is not None:
            found.append((name, figure * stand_in["factor"]))
    if not found:
        return None
    name, figure = (min if is_least else max)(found, key=lambda one: one[1])
    return (name if isinstance(names, str) else f"best of {len(found)}: {name}"), figure


def _figure(lines: dict[str, Facts], name: str, field: str) -> float | None:
    """The median of a field over the runs that count."""
    runs = lines[name]["runs"] if name in lines else []
    values = [run[field] for run in runs if run.get(field) is not None]
    return median(values) if values else None


# ── every line ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _lines(lines: Sequence[Facts]) -> str:
    head = ("line", "n", "waiting", "median", "unit", "lowest – highest", "CPU µs a job", "server", "disturbed", "more")
    return _table(head, [_line_row(line) for line in lines])


def _line_row(line: Facts) -> tuple[str, ...]:
    if line["error"]:
        return (line["line"], str(line["n"]), "", "failed", "", "", "", "", "", line["error"].splitlines()[-1][:100])
    values, runs = line["values"], line["runs"]
    cpu, server = ([run[name] for run in runs if name in run] for name in ("cpu_us_per_job", "server_us_per_job"))
    return (
        line["line"],
        _number(line["n"]),
        _number(line["waiting"]) if line["waiting"] else "",
        _number(line["median"]),
        line["unit"],
        f"{_number(min(values))} – {_number(max(values))}",
        f"{median(cpu):.1f}" if cpu else "",
        f"{median(server):.1f}" if server else "",
        str(line["disturbed"] or ""),
        _more(runs[-1]),
    )


SHOWN = (
    "p95_ms",
    "p99_ms",
    "idle_cpu_percent",
    "idle_server_percent",
    "of_possible",
    "rss_mb",
    "commands_per_job",
    "reads_per_job",
    "calls_per_job",
    "shares",
    "call_ms_max",
    "lock_wait_ms_max",
    "peak_mb",
    "growth",
    "jobs_per_s",
    "log_bytes_per_job",
    "rounds",
    "rates",
)


def _more(run: Facts) -> str:
    return ", ".join(f"{name} {run[name]}" for name in SHOWN if name in run)


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 1_000 else f"{value:.4g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    texts = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in texts)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--short", action="store_true", help="the goals alone, without every line")
    parser.add_argument("--plot", type=Path, metavar="SVG", help="also draw the rates of each case")
    options = parser.parse_args(arguments)
    found = json.loads(options.file.read_text(encoding="utf-8"))
    print(report(found, is_short=options.short))
    if options.plot is not None:
        options.plot.write_text(plot(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

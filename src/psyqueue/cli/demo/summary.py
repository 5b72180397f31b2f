"""The end of the demo in plain words, and as the one JSON document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from psyqueue import JobView
from psyqueue.cli.demo.display import Display
from psyqueue.cli.demo.fleet import LEASE_MS
from psyqueue.cli.demo.run import Report
from psyqueue.words import counted

_TOTALS = ("lines", "code_lines", "functions", "classes")


def document(report: Report) -> dict[str, Any]:
    """The fields that tools may rely on come first, in this order."""
    verdict = report.verdict
    return {
        "ok": verdict.ok,
        "files": len(report.selection.files),
        "processed": verdict.processed,
        "lost": verdict.lost,
        "run_after_ack": verdict.run_after_ack,
        "repeated": len(verdict.repeated),
        "killed_workers": 0 if report.kill is None else 1,
        "reclaimed": verdict.reclaimed,
        "seconds": round(report.seconds, 3),
        "jobs_per_second": round(report.jobs_per_second, 1),
        "problems": verdict.problems,
        "held_by_killed": [] if report.kill is None else list(report.kill.held_ids),
        "recovery_seconds": None if report.recovered_after_ms is None else round(report.recovered_after_ms / 1000, 3),
        "repeated_jobs": list(verdict.repeated),
        "other_leases_ended": verdict.other_losses,
        "changed_files": verdict.changed,
        "left_out_files": report.selection.left_out,
        "run_ms": {"p50": round(report.run_ms_p50, 3), "p95": round(report.run_ms_p95, 3)},
        "stretched_to_ms": report.linger_ms,
        "totals": {**_totals(report.jobs), "bytes": verdict.sizes_found},
        "longest_function": _longest(report.jobs),
        "kept": str(report.folder) if report.kept else None,
        "store": report.store,
    }


def show(report: Report, display: Display) -> None:
    """For people who have never seen a job queue."""
    verdict = report.verdict
    display.line()
    if verdict.ok:
        display.line("Every file was counted exactly once, although a worker was killed in the middle of it.")
    else:
        display.line("NOT everything is as it has to be:")
        for problem in verdict.problems:
            display.line(f"  ! {problem}")
    display.line()
    for head, texts in (
        ("counted", _counted(report)),
        ("speed", _speed(report)),
        ("the crash", _crash(report)),
        ("checked", _checked(report)),
        ("kept", [str(report.folder), report.store] if report.kept else []),
    ):
        _block(display, head, texts)
    display.line()
    display.line(
        "Next: examples/ and docs/quickstart.md; for a store of your own: psyqueue doctor --backend sqlite:./jobs.db"
    )


def _block(display: Display, head: str, texts: Iterable[str]) -> None:
    for text in texts:
        display.line(f"  {head:<10} {text}")
        head = ""


def _counted(report: Report) -> list[str]:
    verdict, jobs = report.verdict, report.jobs
    totals = _totals(jobs)
    texts = [
        f"{verdict.processed:,} of {len(report.selection.files):,} files, {verdict.sizes_found:,} bytes",
        f"{totals['lines']:,} lines, {totals['code_lines']:,} of them code",
        f"{totals['functions']:,} functions, {totals['classes']:,} classes",
    ]
    if longest := _longest(jobs):
        texts.append(f"longest function: {longest['name']}, {longest['lines']:,} lines, in {longest['path']}")
    if unparsed := sum(1 for result in _results(jobs) if result.get("problem")):
        texts.append(f"{unparsed:,} files could not be parsed, or are too large for it: that is a result too")
    return texts


def _speed(report: Report) -> list[str]:
    kept = "on disk" if report.is_on_disk else "in the server"
    texts = [f"{report.jobs_per_second:,.0f} jobs/s over {report.seconds:.1f} s; each job and each result is {kept}"]
    if report.linger_ms:
        texts.append(f"the folder being small, each run was stretched to {report.linger_ms} ms: no measure of speed")
    else:
        texts.append(f"run time p50 {report.run_ms_p50:.1f} ms, p95 {report.run_ms_p95:.1f} ms")
    return texts


def _crash(report: Report) -> list[str]:
    kill, verdict = report.kill, report.verdict
    if kill is None:
        return ["no worker was killed"]
    held, again = len(kill.held_ids), len(set(verdict.repeated) & set(kill.held_ids))
    late = "" if report.recovered_after_ms is None else f", {report.recovered_after_ms / 1000:.1f} s after the kill"
    texts = [
        f"kill -9 hit worker {kill.worker} (pid {kill.pid}) while it held {counted(held, 'job')}",
        f"a worker that is silent for {LEASE_MS / 1000:.0f} s counts as dead: its lease ends, its jobs are free",
        f"the others took {verdict.reclaimed:,} of {held:,} back{late}",
        f"{again:,} of these had begun before and ran a second time; {_others(len(verdict.repeated) - again)}",
    ]
    if verdict.other_losses:
        texts.append(
            f"{verdict.other_losses:,} more came from a worker too slow to renew its lease: a very busy machine"
        )
    return texts


def _others(count: int) -> str:
    return f"{counted(count, 'other job')} ran more than once" if count else "no other job ran twice"


def _checked(report: Report) -> list[str]:
    verdict = report.verdict
    texts = [
        f"lost: {verdict.lost:,}; run again after being acknowledged: {verdict.run_after_ack:,}",
        f"bytes in all results: {verdict.sizes_found:,}; on disk before: {verdict.sizes_expected:,}",
        "by the store's word, by the journal that the handlers wrote, and by the files themselves",
    ]
    if verdict.changed:
        texts.append(f"{verdict.changed:,} files changed while they were counted, and are left out of that sum")
    return texts


def _results(jobs: Sequence[JobView]) -> list[dict[str, Any]]:
    return [job.result for job in jobs if isinstance(job.result, dict)]


def _totals(jobs: Sequence[JobView]) -> dict[str, int]:
    results = _results(jobs)
    return {name: sum(int(result.get(name, 0)) for result in results) for name in _TOTALS}


def _longest(jobs: Sequence[JobView]) -> dict[str, Any] | None:
    results = [result for result in _results(jobs) if result.get("longest_function_lines")]
    if not results:
        return None
    longest = max(results, key=lambda result: int(result["longest_function_lines"]))
    return {"name": longest["longest_function"], "lines": longest["longest_function_lines"], "path": longest["path"]}

"""Copies of the in-memory store with one bug each.

A mutant is a few exact replacements in the source of a copy of `psyqueue.backends._memory`. Where the source has
changed so that a replacement is not found, the mutant has to be written anew: it says so.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import psyqueue.backends._memory as original
from psyqueue.backends._memory import MemoryBackend

HOME = Path(original.__file__).parent
Change = tuple[str, str, str]
"""(module, text, the text instead)"""

FAITHFUL = "a copy without a bug"
MUTANTS: dict[str, tuple[Change, ...]] = {
    FAITHFUL: (),
    # ── tokens, status, sessions ──
    "the token is not checked": (("settle", "row.token != outcome.completion_token or ", ""),),
    "the session is not checked": (("settle", " or row.session_id != session_id", ""),),
    "a reaped delivery keeps its token": (
        (
            "settle",
            "token=None, settled_token=None, session_id=None, lost=",
            "settled_token=None, session_id=None, lost=",
        ),
        ("settle", 'row.status != "active" or ', ""),
        ("settle", " or row.session_id != session_id", ""),
    ),
    "a repeated settle is not known": (("settle", "settled_token=row.token,", "settled_token=None,"),),
    "an old token is known for ever": (("dequeue", "        settled_token=None,\n", ""),),
    "a closed session may still settle": (("backend", "            self._require_session(session_id)\n", ""),),
    # ── order ──
    "last in, first out": (
        ("state", "(-job.priority, row.ready_number, job.id)", "(-job.priority, -row.ready_number, job.id)"),
        ("dequeue", "(-row.job.priority, row.ready_number)", "(-row.job.priority, -row.ready_number)"),
    ),
    "priority is ignored": (
        ("state", "(-job.priority, row.ready_number, job.id)", "(0, row.ready_number, job.id)"),
        ("dequeue", "(-row.job.priority, row.ready_number)", "(0, row.ready_number)"),
    ),
    "a released job loses its place": (
        ("settle", 'row.ready_number if status == "pending" else None', 'store.next_number("ready")'),
    ),
    "weights of lanes are ignored": (("dequeue", "(limits.weight if limits else 1)", "1"),),
    # ── counting ──
    "an attempt is not counted when it starts": (("dequeue", "attempt=row.attempt + 1", "attempt=row.attempt"),),
    "the fence does not grow": (("dequeue", "fence=row.fence + 1", "fence=max(1, row.fence)"),),
    "one retry too few": (
        ("settle", "if row.attempt > row.job.max_retries:", "if row.attempt >= row.job.max_retries:"),
    ),
    "a loss is not counted": (("settle", "lost=row.lost + 1", "lost=row.lost"),),
    "a snooze burns the attempt": (("settle", "attempt=row.attempt - 1, reason=reason", "reason=reason"),),
    "a replay keeps the attempts": (("intake", "        attempt=0,\n", ""),),
    # ── repetition, atomicity ──
    "a repeated op is done again": (("backend", "op.turn <= turn.op.turn", "op.turn < turn.op.turn"),),
    "a late op is done": (("backend", "op.turn <= turn.op.turn", "op.turn == turn.op.turn"),),
    "a refused batch leaves its first half": (
        ("backend", "                store.journal.roll_back()\n", "                store.journal.commit()\n"),
    ),
    "a conflict leaves its effects": (("settle", "store.journal.roll_back(savepoint)", "pass"),),
    "a lost outcome has its effects": (
        (
            "settle",
            "        is_repeat = ",
            "        intake.apply_effects(store, outcome.effects, now_ms)\n        is_repeat = ",
        ),
    ),
    # ── time ──
    "jobs are promoted early": (("lifecycle", "heap[0][0] <= now_ms and", "heap[0][0] <= now_ms + 1_000 and"),),
    "an expired job is delivered": (
        (
            "settle",
            "    _, more_expired = lifecycle.expire(store, fetch.queues, now_ms)\n",
            "    more_expired = False\n",
        ),
        ("dequeue", " or (row.expires_at_ms is not None and row.expires_at_ms <= now_ms)", ""),
    ),
    "the monotone clock follows the wall back": (
        ("state", "if now_ms + self._shift_ms < self._mono_ms:", "if False:"),
    ),
    "no grace after a silence of the reapers": (("settle", "if silence_ms > REAPER_SILENCE_MS:", "if False:"),),
    # ── keys ──
    "a unique key is never let go": (("lifecycle", "        store.unique.drop(unique.key)\n", "        pass\n"),),
    "a unique key is forgotten by a replay": (
        ("intake", "        store.unique[job.unique.key] = job.id\n    row = store.change(", "    row = store.change("),
    ),
    "an idempotency key ignores the content": (
        ("intake", "if kept.digest != job.digest and not is_follow_up:", "if False:"),
    ),
    "an idempotency key has no end": (("intake", "kept.expires_mono_ms <= store.mono_ms()", "False"),),
    # ── gates and needs ──
    "a gate leaks": (("lifecycle", "store.places[job.gate.key] - 1", "store.places[job.gate.key]"),),
    "a gate is let go by a retry": (
        (
            "settle",
            "        session_id=None,\n        ready_number=ready_number,",
            "        session_id=None,\n        has_place=False,\n        ready_number=ready_number,",
        ),
    ),
    "a need is counted twice": (
        ("lifecycle", "needs_left=child.needs_left - 1", "needs_left=max(0, child.needs_left - 2)"),
    ),
    "a need is met by any end": (("lifecycle", "if store.rows[parent_id].status not in edge.on:", "if False:"),),
    "a parent that has ended is not looked at": (("intake", "is_met = parent.status in need.on", "is_met = False"),),
    # ── operating ──
    "a pause is ignored": (("dequeue", "    if is_paused(limits, now_ms):\n        return 0\n", ""),),
    "one more than active_max": (("dequeue", "limits.active_max - active(", "limits.active_max + 1 - active("),),
    "a held job is delivered": (("dequeue", "row.held or (", "("),),
    "a cancel that was asked for is forgotten": (
        (
            "settle",
            "            row = with_error(store, row, error)\n            if row.cancel_requested:",
            "            row = with_error(store, row, error)\n            if False:",
        ),
    ),
    "prune deletes parents": (("maintenance", "return row.job.id in store.children", "return False"),),
    "a full queue takes one more": (("intake", ">= queue_limits.pending_max", "> queue_limits.pending_max"),),
    # ── shared state ──
    "a schedule fires twice": (("operating", " or (schedule.id, nominal_ms) in store.fires", ""),),
    "a put ignores the version": (("intake", "and write.expected != version:", "and False:"),),
    "anybody lets a lock go": (
        (
            "backend",
            "if found is not None and is_taken and found.holder != holder:",
            "if lease_ms and found is not None and is_taken and found.holder != holder:",
        ),
    ),
    "frozen takes jobs": (
        (
            "backend",
            "            fence.require_enqueue(store, (*jobs, *effects.jobs))\n            # Writes",
            "            # Writes",
        ),
    ),
    "filling starts jobs": (("fence", 'in ("filling", "frozen", "moved")', 'in ("frozen", "moved")'),),
    "draining takes no job at all": (("fence", "is_bound = store.mode", "is_bound = False and store.mode"),),
    "a holder of a closed window is told": (
        ("operating", "if k and k.expires_mono_ms > store.mono_ms() else None", "if k else None"),
    ),
}


def mutant(name: str) -> type[MemoryBackend]:
    """The backend class of a fresh copy of the package with the bug `name`."""
    package = f"mutant_{list(MUTANTS).index(name)}"
    changes = list(MUTANTS[name])
    for path in HOME.glob("*.py"):
        text = path.read_text()
        for change in [each for each in changes if each[0] == path.stem]:
            assert change[1] in text, f"mutant {name!r}: _memory/{path.name} no longer holds {change[1]!r}"
            text = text.replace(change[1], change[2])
            changes.remove(change)
        text = text.replace("psyqueue.backends._memory", package)
        _Source.texts[package if path.stem == "__init__" else f"{package}.{path.stem}"] = text
    assert not changes, f"mutant {name!r}: no such module: {changes}"
    backend: type[MemoryBackend] = importlib.import_module(f"{package}.backend").MemoryBackend
    return backend


class _Source:
    """Finds and runs the copies."""

    texts: ClassVar[dict[str, str]] = {}

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name not in cls.texts:
            return None
        return importlib.util.spec_from_loader(name, cls(), is_package="." not in name)  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.texts[module.__name__], module.__name__, "exec"), vars(module))


sys.meta_path.append(_Source)

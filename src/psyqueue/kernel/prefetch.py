"""How many deliveries a worker holds beyond its slots."""

from __future__ import annotations

WORK_MS = 20
"""Prefetched work should be done within this: more costs others fairness and latency, and brings no larger batches."""
PREFETCH_MAX = 400
"""Larger batches gain little, and a call takes 500 items at most (figures: docs/adr/0005)."""


class Prefetch:
    """As much as the measured run time makes finish within 20 ms; nothing for longer handlers. `fixed` overrides it."""

    def __init__(self, slots: int, fixed: int | None) -> None:
        self._slots = slots
        self._fixed = fixed
        self._run_ms: float | None = None

    @property
    def is_adaptive(self) -> bool:
        return self._fixed is None

    def note(self, run_ms: float) -> None:
        """A run ended after `run_ms`. Recent runs count most: a queue may change its character."""
        mean = self._run_ms
        self._run_ms = run_ms if mean is None else mean + (run_ms - mean) * 0.1

    def size(self) -> int:
        if self._fixed is not None:
            return self._fixed
        if self._run_ms is None or self._run_ms >= WORK_MS:
            return 0
        return min(PREFETCH_MAX, int(self._slots * WORK_MS / max(self._run_ms, 0.001)))

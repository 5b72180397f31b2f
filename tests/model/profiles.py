"""How long the machine runs: PSYQUEUE_MODEL=quick, ci (default) or nightly."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

_QUIET = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "print_blob": True,
}
_PROFILES = {
    "quick": settings(max_examples=30, stateful_step_count=40, derandomize=True, **_QUIET),  # type: ignore[arg-type]
    "ci": settings(max_examples=300, stateful_step_count=50, derandomize=True, **_QUIET),  # type: ignore[arg-type]
    "nightly": settings(max_examples=10_000, stateful_step_count=80, **_QUIET),  # type: ignore[arg-type]
}
PROFILE = _PROFILES[os.environ.get("PSYQUEUE_MODEL", "ci")]
HUNT = settings(
    PROFILE,
    max_examples=400,
    stateful_step_count=50,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),
    report_multiple_bugs=False,
)
"""For mutants: stop at the first difference, and do not shrink it."""


def share(parts: int) -> settings:
    """The profile's examples, dealt to `parts` tests that can run beside each other."""
    return settings(PROFILE, max_examples=max(1, PROFILE.max_examples // parts))

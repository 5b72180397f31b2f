"""How long to wait before the next attempt. Pure: randomness is handed in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

Strategy: TypeAlias = Literal["fixed", "linear", "exponential"]
BackoffFunction: TypeAlias = Callable[[int, BaseException], object]
"""An own back-off: `(attempt, error) -> duration`. It lives on the handler and is never stored."""

STRATEGIES: tuple[Strategy, ...] = ("fixed", "linear", "exponential")
BASE_MS_DEFAULT = 1_000
CAP_MS_DEFAULT = 300_000


def delay_ms(strategy: Strategy, attempt: int, base_ms: int, cap_ms: int) -> int:
    """The delay after the `attempt`-th run failed (1-based), never more than `cap_ms`.

    fixed: base · linear: base × attempt · exponential: base × 2^(attempt − 1).
    """
    if strategy == "fixed":
        return min(base_ms, cap_ms)
    if strategy == "linear":
        return min(base_ms * attempt, cap_ms)
    # Past 62 doublings any base has met its cap; without the bound the integer grows with the attempt.
    return min(base_ms << min(attempt - 1, 62), cap_ms)


def with_jitter(delay: int, cap_ms: int, chance: float) -> int:
    """Spread by ±25 %, so that a crowd does not come back as one; `chance` in [0, 1) decides. Never above the cap."""
    return min(cap_ms, max(0, round(delay * (0.75 + chance / 2))))

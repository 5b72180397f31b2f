"""Numbers in sentences for people."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """`1 job`, `2,000 jobs`; with `many` where an s does not make it: `counted(n, "job is", "jobs are")`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"

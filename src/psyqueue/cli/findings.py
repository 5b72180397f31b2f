"""What a check of `psyqueue doctor` found."""

from __future__ import annotations

from msgspec import Struct


class Finding(Struct, frozen=True):
    """One check: whether it is well, what was seen, and what to do if it is not."""

    name: str
    ok: bool
    detail: str
    advice: str = ""


def finding(name: str, ok: bool, detail: str, advice: str) -> Finding:
    """With the advice only where it is needed."""
    return Finding(name, ok, detail, "" if ok else advice)

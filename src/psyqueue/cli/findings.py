"""What a check of `psyqueue doctor` found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec import Struct

NAMES_SHOWN_MAX = 5


class Finding(Struct, frozen=True):
    """One check: whether it is well, what was seen, and what to do if it is not."""

    name: str
    ok: bool
    detail: str
    advice: str = ""


def finding(name: str, ok: bool, detail: str, advice: str) -> Finding:
    """With the advice only where it is needed."""
    return Finding(name, ok, detail, "" if ok else advice)


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - NAMES_SHOWN_MAX} more" if len(names) > NAMES_SHOWN_MAX else ""
    return ", ".join(names[:NAMES_SHOWN_MAX]) + more


@dataclass(slots=True)
class Seen:
    """A look at a server from outside. `warnings`: those of the store that are findings here."""

    findings: list[Finding] = field(default_factory=list)
    warnings: set[str] = field(default_factory=set)
    has_store: bool = False

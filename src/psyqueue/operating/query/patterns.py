"""Whether a text fits a pattern (`*` any text, `?` one character), in time that grows with both and no faster.

Each part between two stars is taken where it comes first. An expression of `re` would try all places of all parts, and
whoever may type a filter could let a server think for minutes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache


def fits(pattern: str, text: str) -> bool:
    """Whether the pattern describes all of `text`."""
    first, *others = pattern.split("*")
    if not others:
        return len(first) == len(text) and _find(first, text, 0, len(text)) == 0
    *between, last = others
    at, end = len(first), len(text) - len(last)
    if at > end or _find(first, text, 0, at) != 0 or _find(last, text, end, len(text)) != end:
        return False
    return _follow(between, text, at, end)


def is_in(pattern: str, text: str) -> bool:
    """Whether `text` contains what the pattern describes, in upper or lower case."""
    return _follow(pattern.lower().split("*"), text.lower(), 0, -1)


def _follow(parts: Sequence[str], text: str, at: int, end: int) -> bool:
    """Whether all parts come one after the other from `at` on, before `end`; -1 is the end of the text."""
    end = len(text) if end < 0 else end
    for part in parts:
        at = _find(part, text, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


def _find(part: str, text: str, at: int, end: int) -> int:
    """Where a part without stars comes first; -1 if it does not."""
    if "?" not in part:
        return text.find(part, at, end)
    found = _compiled(part).search(text, at, end)
    return -1 if found is None else found.start()


@lru_cache(1_024)
def _compiled(part: str) -> re.Pattern[str]:
    """Of one length only, so it never looks back."""
    return re.compile("".join("." if ch == "?" else re.escape(ch) for ch in part), re.DOTALL)

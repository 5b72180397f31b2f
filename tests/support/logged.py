"""What a program that sets up no logging says on standard error of jobs that died: Python shows errors by itself."""

from __future__ import annotations

import re

_END = r"[A-Za-z_][\w.]*(?:: .*)?\n"
_TRACE = rf"Traceback \(most recent call last\):\n(?:  .*\n)+{_END}"
_CHAINED = r"\n(?:The above exception was .*|During handling of .*)\n\n"
_DEAD = re.compile(
    rf"^run failed, the job is dead\n(?:(?:{_TRACE}{_CHAINED})*(?:{_TRACE}|{_END}(?:{_TRACE})?))?", re.MULTILINE
)


def without_dead_jobs(text: str) -> str:
    """The text without the records of dead jobs, with their tracebacks."""
    return _DEAD.sub("", text)

"""Numbers and values in sentences for people."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """`1 job`, `2,000 jobs`; with `many` where an s does not make it: `counted(n, "job is", "jobs are")`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def shown(option: str, value: object) -> str:
    """What was given for an option, cut to 80 characters; not that of a password."""
    if _is_secret(option):
        return "'***'"
    try:
        text = repr(value)
    except Exception as exc:  # noqa: BLE001 - a foreign __repr__, or a number of more digits than Python writes
        return f"<{type(value).__name__}, whose repr() fails: {type(exc).__name__}>"
    return text if len(text) <= 80 else text[:77] + "..."


def _is_secret(option: str) -> bool:
    """Also one that is misspelt: what was meant for it must not reach a log."""
    return any(word in option.lower() for word in ("pass", "word", "pwd", "secret"))

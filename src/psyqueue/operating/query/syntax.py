r"""From text to terms: `field:value`, several of which all hold. What a field means stands in `fields`.

query = { term }; all of them hold
term  = ["-"] field ":" [">" | ">=" | "<" | "<="] value { "," value }; any of the values, with "-" none of them
term  = value; short for text:value
value = '"' any text, with \" and \\ '"'; only itself
value = text without spaces, commas and quotes; * stands for any text in it, ? for one character
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct

from psyqueue.errors import InvalidOption
from psyqueue.operating.query.patterns import fits, is_in

TEXT_FIELD = "text"
FILTER_CHARS_MAX = 30_000
TERMS_MAX = 50
PATTERNS_MAX = 20
PATTERN_CHARS_MAX = 500
"""More than people type: each is looked for in each job, and in each of its errors."""
OPERATORS = (">=", "<=", ">", "<")
_HEAD = re.compile(r"(-?)([a-z_]+(?:\.[^\s:,\"]+)?):(>=|<=|>|<)?", re.IGNORECASE)
_VALUE = re.compile(r'"((?:[^"\\]|\\.)*)"|([^\s,"]+)')
_ESCAPED = re.compile(r"\\(.)")


class Value(Struct, frozen=True):
    """`is_literal`: it stood in quotes, so `*` and `?` in it are only themselves."""

    text: str
    is_literal: bool = False

    @property
    def is_pattern(self) -> bool:
        return not self.is_literal and ("*" in self.text or "?" in self.text)

    def matches(self, text: str) -> bool:
        """Whether all of `text` is what the value describes."""
        return fits(self.text, text) if self.is_pattern else self.text == text

    def is_in(self, text: str) -> bool:
        """Whether `text` contains it, in upper or lower case."""
        return is_in(self.text, text) if self.is_pattern else self.text.lower() in text.lower()


class Term(Struct, frozen=True):
    """`at`: the character where it begins, from 1; 0 for one that was no text. `operator` is "" for equality."""

    field: str
    values: tuple[Value, ...]
    operator: str = ""
    is_negated: bool = False
    at: int = 0

    def fits(self, text: str) -> bool:
        """Whether a text is one of its values, or none of them where it is negated."""
        return any(value.matches(text) for value in self.values) != self.is_negated

    def refuse(self, problem: str, way_out: str = "") -> InvalidOption:
        """What to raise for it; the spot is shown."""
        sign = "-" if self.is_negated else ""
        told = ",".join(value.text for value in self.values)
        place = f" (character {self.at})" if self.at else ""
        return InvalidOption("filter", f"{sign}{self.field}:{self.operator}{told}", f"{problem}{place}", way_out)


def read_terms(text: str) -> tuple[Term, ...]:
    """The terms in their order. Raises InvalidOption that points at the character which cannot be read."""
    if any("\ud800" <= ch <= "\udfff" for ch in text):
        raise InvalidOption("filter", ascii(text), "is no text: its bytes are not UTF-8")
    if len(text) > FILTER_CHARS_MAX:
        raise InvalidOption("filter", text, f"has more than {FILTER_CHARS_MAX:,} characters")
    terms: list[Term] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        begin = at
        head = _HEAD.match(text, at)
        if head is not None:
            at = head.end()
        values, at = _read_values(text, at, begin)
        if at < len(text) and not text[at].isspace():
            raise _unreadable(text, at, "a space belongs between two conditions")
        if head is None:
            terms.append(Term(TEXT_FIELD, values, at=begin + 1))
        else:
            field = head[2] if head[2].startswith("meta.") else head[2].lower()
            terms.append(Term(field, values, head[3] or "", head[1] == "-", begin + 1))
    _require_few(text, terms)
    return tuple(terms)


def _require_few(text: str, terms: Sequence[Term]) -> None:
    """Raises InvalidOption."""
    patterns = [value for term in terms for value in term.values if value.is_pattern]
    if len(terms) > TERMS_MAX or len(patterns) > PATTERNS_MAX:
        problem = f"has more than {TERMS_MAX} conditions, or more than {PATTERNS_MAX} values with * or ?"
        raise InvalidOption("filter", text, problem)
    if any(len(value.text) > PATTERN_CHARS_MAX for value in patterns):
        raise InvalidOption("filter", text, f"has a value with * or ? of more than {PATTERN_CHARS_MAX} characters")


def _read_values(text: str, at: int, begin: int) -> tuple[tuple[Value, ...], int]:
    values: list[Value] = []
    while True:
        found = _VALUE.match(text, at)
        if found is None:
            is_open = text[at : at + 1] == '"'
            raise _unreadable(text, at, "this quote is never closed" if is_open else "a value is missing", begin)
        is_literal = found[1] is not None
        values.append(Value(_ESCAPED.sub(r"\1", found[1]) if is_literal else found[2], is_literal))
        at = found.end()
        if text[at : at + 1] != ",":
            return tuple(values), at
        at += 1


def _unreadable(text: str, at: int, problem: str, begin: int | None = None) -> InvalidOption:
    spot = text[at if begin is None else begin :].split(maxsplit=1)[0]
    return InvalidOption("filter", spot, f"{problem} (character {at + 1})", 'Write field:value, or "text in quotes"')


def quoted(text: str) -> str:
    """A value that means this text and nothing else."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

"""What the fields of a filter mean: the store's part of a condition, and the part that is looked at here."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from psyqueue import JobView
from psyqueue.backend import Filter
from psyqueue.backend import JobView as StoredJob
from psyqueue.clock import to_at_ms, to_ms
from psyqueue.errors import InvalidOption
from psyqueue.job import STATUSES, Status
from psyqueue.operating.query.syntax import Term, Value, read_terms

Test: TypeAlias = Callable[[StoredJob, JobView], bool]

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "": operator.eq,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


class Query(Struct, frozen=True, kw_only=True):
    """`where` is what the store sorts out, `tests` what is sorted out here; `tested` names the fields of the tests.

    `queues` are conditions on the name of the queue that are no plain names; whoever walks resolves them first.
    `is_void`: conditions that exclude each other, so that no job can fit.
    """

    where: Filter = Filter()
    tests: tuple[Test, ...] = ()
    tested: tuple[str, ...] = ()
    queues: tuple[Term, ...] = ()
    is_void: bool = False

    def narrow(self, statuses: Iterable[Status]) -> Query:
        """The same, of jobs in these statuses."""
        wanted, had = frozenset(statuses), self.where.statuses or STATUSES
        kept = tuple(status for status in STATUSES if status in wanted and status in had)
        return replace(self, where=replace(self.where, statuses=kept), is_void=self.is_void or not kept)

    def ended_before(self, at_ms: int) -> Query:
        """The same, of jobs that had ended before that instant."""
        had_ms = self.where.ended_before_ms
        return replace(self, where=replace(self.where, ended_before_ms=at_ms if had_ms is None else min(had_ms, at_ms)))

    def fits(self, stored: StoredJob, view: JobView) -> bool:
        """Whether a job that the store found fits the rest too."""
        return all(test(stored, view) for test in self.tests)

    @property
    def is_counted(self) -> bool:
        """Whether the counts of queues tell how many jobs fit, without a look at any of them."""
        kept = replace(self.where, queues=(), statuses=())
        return not self.tests and kept == Filter()


def read_query(terms: Iterable[Term], now_ms: int) -> Query:
    """All conditions together; ages count from `now_ms`, the store's. Raises InvalidOption that lists the fields."""
    query = Query()
    for term in terms:
        query = with_term(query, term, now_ms)
    return query


def check_terms(text: str) -> tuple[Term, ...]:
    """The terms of a text, with nothing left that could be wrong in them. Raises InvalidOption."""
    terms = read_terms(text)
    read_query(terms, 0)
    return terms


def with_term(query: Query, term: Term, now_ms: int) -> Query:
    """The query and this condition too. Raises InvalidOption."""
    if any("\ud800" <= ch <= "\udfff" for value in term.values for ch in value.text):
        raise term.refuse("is no text: its bytes are not UTF-8")
    if term.field.startswith("meta."):
        return _of_text(query, _plain(term), _meta(term.field[5:]))
    reader = FIELDS.get(term.field)
    if reader is None:
        way_out = f"There are {', '.join(FIELDS)}, meta.KEY. Text with a colon belongs in quotes"
        raise term.refuse(f"there is no field {term.field!r}", way_out)
    return reader(query, term, now_ms)


# ── text ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
def _plain(term: Term) -> Term:
    if term.operator:
        raise term.refuse(f"{term.field} has no order, so {term.operator} means nothing")
    return term


def _tested(query: Query, term: Term, test: Test) -> Query:
    return replace(query, tests=(*query.tests, test), tested=(*query.tested, term.field))


def _of_text(query: Query, term: Term, value_of: Callable[[JobView], str | None]) -> Query:
    def test(_: StoredJob, view: JobView) -> bool:
        text = value_of(view)
        return (text is not None and any(value.matches(text) for value in term.values)) != term.is_negated

    return _tested(query, term, test)


def _text_field(attribute: str, stored_as: str = "") -> Callable[[Query, Term, int], Query]:
    """`stored_as`: the field of the seam's Filter that takes plain values of it."""

    def read(query: Query, term: Term, _: int) -> Query:
        _plain(term)
        is_exact = not term.is_negated and not any(value.is_pattern for value in term.values)
        if stored_as and is_exact and not getattr(query.where, stored_as):
            texts = tuple(value.text for value in term.values)
            if stored_as != "reason":
                return replace(query, where=replace(query.where, **{stored_as: texts}))
            if len(texts) == 1 and texts[0]:
                return replace(query, where=replace(query.where, reason=texts[0]))
        return _of_text(query, term, lambda view: getattr(view, attribute))

    return read


def _queue(query: Query, term: Term, _: int) -> Query:
    _plain(term)
    is_exact = not term.is_negated and not any(value.is_pattern for value in term.values)
    if is_exact and not query.where.queues:
        return replace(query, where=replace(query.where, queues=tuple(value.text for value in term.values)))
    return replace(query, queues=(*query.queues, term))


def _tenant(query: Query, term: Term, now_ms: int) -> Query:
    found = _text_field("tenant_id")(query, term, now_ms)
    (first, *others) = term.values
    if term.is_negated or others or first.is_pattern or query.where.text:
        return found
    # A tenant stands in the cold text only: the store narrows by that, the exact look is the test.
    return replace(found, where=replace(found.where, text=msgspec.json.encode(first.text).decode()))


def _text(query: Query, term: Term, _: int) -> Query:
    _plain(term)
    # Patterns are for whole values; of a text it is asked whether it is contained, as the store does it.
    texts = tuple(value.text for value in term.values)
    if not term.is_negated and len(texts) == 1 and not query.where.text:
        return replace(query, where=replace(query.where, text=texts[0]))
    return _tested(query, term, lambda stored, _: any(_contains(stored, text) for text in texts) != term.is_negated)


def _contains(stored: StoredJob, text: str) -> bool:
    job, raw = stored.job, text.encode()
    return text in job.id or text in job.name or raw in job.payload or raw in job.cold


def _error(query: Query, term: Term, _: int) -> Query:
    _plain(term)

    def test(_: StoredJob, view: JobView) -> bool:
        told = [f"{error.get('type', '')}: {error.get('message', '')}" for error in view.errors]
        return any(value.is_in(text) for text in told for value in term.values) != term.is_negated

    return _tested(query, term, test)


def _meta(key: str) -> Callable[[JobView], str | None]:
    def value_of(view: JobView) -> str | None:
        value = view.meta.get(key)
        return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()

    return value_of


def _status(query: Query, term: Term, _: int) -> Query:
    _plain(term)
    named: set[Status] = set()
    for value in term.values:
        found: list[Status] = [status for status in STATUSES if value.matches(status)]
        if not found:
            raise term.refuse(f"there is no status {value.text!r}", f"There are {', '.join(STATUSES)}")
        named.update(found)
    return query.narrow(set(STATUSES) - named if term.is_negated else named)


# ── numbers and times ─────────────────────────────────────────────────────────────────────────────────────────────────
def _number(attribute: str) -> Callable[[Query, Term, int], Query]:
    def read(query: Query, term: Term, _: int) -> Query:
        numbers = [_int(term, value) for value in _ordered(term)]
        compare = _COMPARISONS[term.operator]

        def test(_: StoredJob, view: JobView) -> bool:
            return any(compare(getattr(view, attribute), number) for number in numbers) != term.is_negated

        return _tested(query, term, test)

    return read


def _int(term: Term, value: Value) -> int:
    try:
        return int(value.text)
    except ValueError:
        raise term.refuse(f"{value.text!r} is no whole number") from None


def _ordered(term: Term) -> tuple[Value, ...]:
    """Its values, of which an order takes one. Raises InvalidOption."""
    if term.operator and len(term.values) > 1:
        raise term.refuse(f"{term.operator} takes one value")
    if term.operator and term.is_negated:
        raise term.refuse("an order is not negated: turn its sign round")
    return term.values


def _directed(term: Term) -> Value:
    """The one value of a field that is compared, never equal. Raises InvalidOption."""
    if not term.operator:
        raise term.refuse(f"{term.field} is compared", f"Write {term.field}:>{term.values[0].text} or <")
    return _ordered(term)[0]


def _duration_ms(term: Term, value: Value) -> int:
    try:
        return to_ms(term.field, value.text)
    except InvalidOption:
        raise term.refuse(f"{value.text!r} is no duration", "Write e.g. 30s, 5m, 24h, 7d") from None


def _between(where: Filter, sign: str, at_ms: int) -> Filter:
    """Created `sign` that instant. From is inclusive, to exclusive."""
    if sign in (">", ">="):
        from_ms = at_ms + (sign == ">")
        return replace(where, created_from_ms=max(from_ms, where.created_from_ms or from_ms))
    to_exclusive_ms = at_ms + (sign == "<=")
    return replace(where, created_to_ms=min(to_exclusive_ms, where.created_to_ms or to_exclusive_ms))


_MIRRORED = {">": "<", ">=": "<=", "<": ">", "<=": ">="}


def _age(query: Query, term: Term, now_ms: int) -> Query:
    at_ms = now_ms - _duration_ms(term, _directed(term))
    return replace(query, where=_between(query.where, _MIRRORED[term.operator], at_ms))


def _instant_ms(term: Term) -> int:
    value = _directed(term)
    try:
        return to_at_ms(term.field, datetime.fromisoformat(value.text))
    except (ValueError, InvalidOption):
        way_out = f"Write e.g. {term.field}:{term.operator}2026-12-01T09:00:00Z, with its zone"
        raise term.refuse(f"{value.text!r} is no instant", way_out) from None


def _created(query: Query, term: Term, _: int) -> Query:
    return replace(query, where=_between(query.where, term.operator, _instant_ms(term)))


def _completed(query: Query, term: Term, _: int) -> Query:
    at_ms, compare = _instant_ms(term), _COMPARISONS[term.operator]
    if term.operator == "<":
        return query.ended_before(at_ms)

    def test(stored: StoredJob, _: JobView) -> bool:
        return stored.completed_at_ms is not None and compare(stored.completed_at_ms, at_ms)

    return _tested(query, term, test)


def _since(field_ms: str, status: Status | None = None) -> Callable[[Query, Term, int], Query]:
    """How long ago something of it was, from what the store wrote down."""

    def read(query: Query, term: Term, now_ms: int) -> Query:
        limit_ms, compare = _duration_ms(term, _directed(term)), _COMPARISONS[term.operator]
        if status is not None:
            query = query.narrow((status,))
        if term.operator == ">" and field_ms == "completed_at_ms":
            return query.ended_before(now_ms - limit_ms)

        def test(stored: StoredJob, _: JobView) -> bool:
            at_ms = getattr(stored, field_ms)
            return at_ms is not None and compare(now_ms - at_ms, limit_ms)

        return _tested(query, term, test)

    return read


FIELDS: dict[str, Callable[[Query, Term, int], Query]] = {
    "id": _text_field("id", "ids"),
    "queue": _queue,
    "status": _status,
    "name": _text_field("name", "names"),
    "lane": _text_field("lane", "lanes"),
    "tenant": _tenant,
    "text": _text,
    "error": _error,
    "reason": _text_field("reason", "reason"),
    "worker": _text_field("worker"),
    "unique": _text_field("unique_key"),
    "order": _text_field("order_key"),
    "parent": _text_field("parent_id"),
    "schedule": _text_field("schedule_id"),
    "attempt": _number("attempt"),
    "lost": _number("lost"),
    "priority": _number("priority"),
    "age": _age,
    "created": _created,
    "completed": _completed,
    "ended": _since("completed_at_ms"),
    "running": _since("started_at_ms", "active"),
}
"""In the order in which they are told. Beside them `meta.KEY`."""

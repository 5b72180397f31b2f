"""How jobs move one by one: to pending, to their end, and what their end sets free.

The order of everything here is that of the in-memory model, which is the specification.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from psyqueue.backend.bounds import EXPIRE_MAX, FOLLOW_THROUGH_MAX, PROMOTE_MAX
from psyqueue.backends._sqlite.rows import (
    GATED,
    KEYED,
    NEEDED,
    NEEDY,
    Row,
    change,
    is_in,
    load,
    put_result,
)
from psyqueue.backends._sqlite.statements import SQL
from psyqueue.backends._sqlite.step import CANCELLED, COMPLETED, DEAD, PENDING, SCHEDULED, WAITING, Step

_NEXT = SQL["promote.next"]
_NOBODY = 0
"""No job has this number."""


def admit(step: Step, row: Row) -> Row:
    """Waiting (or new) → pending or scheduled, by run_at."""
    if row.run_at_ms > step.now_ms:
        return change(step, row, status=SCHEDULED)
    step.ready += 1
    return change(step, row, status=PENDING, ready_number=step.ready)


def end(step: Step, row: Row, status: int, *, reason: str = "", result: bytes | None = None) -> Row:
    """→ completed, dead or cancelled: keys and places are let go; who waited for it moves in `follow_through`."""
    assert status >= COMPLETED, status
    has_place, links = row.has_place, row.links
    change(
        step,
        row,
        status=status,
        reason=reason,
        completed_at_ms=step.now_ms,
        session=None,
        cancel_requested=0,
        has_place=0,
    )
    put_result(step, row, result)
    if links & KEYED:
        _let_go_unique(step, row)
    if links & GATED and has_place:
        assert row.gate is not None, row.id
        step.run(SQL["links.free_place"], (row.gate,))
        step.run(SQL["links.drop_gate"], (row.gate,))
        follow_later(step, gate=row.gate)
    if links & NEEDY:
        step.run(SQL["links.drop_edges"], (row.n,))
    if links & NEEDED and is_needed(step, row):
        follow_later(step, parent=row.n)
    step.ended.append(row.id)
    return row


def _let_go_unique(step: Step, row: Row) -> None:
    unique = row.extras.unique
    assert unique is not None, row.id
    if row.status_name not in unique.while_:
        step.run(SQL["links.drop_unique"], (unique.key, row.n))


def is_needed(step: Step, row: Row) -> bool:
    """A job that has not ended lists it among its needs."""
    return step.run(SQL["links.is_needed"], (row.n,)).fetchone() is not None


def follow_later(step: Step, *, parent: int | None = None, gate: str | None = None) -> None:
    step.has_followers = True
    step.follower += 1
    step.run(SQL["links.add_follower"], (step.follower, parent, gate))


# ── gates ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def enter_gate(step: Step, row: Row) -> Row:
    """Its needs are met: take a place of its gate and be admitted, or stand in line. First come, first served.

    A waiting job without unmet needs stands in line by what it is: the index of the line holds no other.
    """
    gate = row.extras.gate
    if gate is None:
        return admit(step, row)
    if _head_of_line(step, gate.key, row.n) is not None or places(step, gate.key) >= gate.capacity:
        return row
    return _take_place(step, row)


def _head_of_line(step: Step, key: str, except_n: int = _NOBODY) -> int | None:
    found = step.run(SQL["links.head_of_line"], (key, except_n)).fetchone()
    return None if found is None else int(found[0])


def places(step: Step, key: str) -> int:
    found = step.run(SQL["links.places"], (key,)).fetchone()
    return 0 if found is None else int(found[0])


def _take_place(step: Step, row: Row) -> Row:
    step.run(SQL["links.add_place"], (row.gate,))
    row.has_place = 1
    return admit(step, row)


# ── follow-through ────────────────────────────────────────────────────────────────────────────────────────────────────
def follow_through(step: Step, limit: int = FOLLOW_THROUGH_MAX) -> bool:
    """Move what ended jobs set free, oldest end first, at most `limit` jobs. True: some are left for the next step."""
    if not step.has_followers:
        return False
    moved = 0
    while (found := step.run(SQL["links.first_follower"]).fetchone()) is not None:
        ticket, parent, gate = found
        left = limit - moved
        for _ in _free_places(step, gate) if gate is not None else _meet_needs(step, parent, left):
            moved += 1
            if moved >= limit:
                return True
        step.run(SQL["links.drop_follower"], (ticket,))
    return False


def _free_places(step: Step, key: str) -> Iterator[None]:
    while (head := _head_of_line(step, key)) is not None:
        row = load(step, head)
        assert row.extras.gate is not None, row.id
        if places(step, key) >= row.extras.gate.capacity:
            return
        _take_place(step, row)
        yield


def _meet_needs(step: Step, parent: int, limit: int) -> Iterator[None]:
    children = step.run(SQL["links.children"], (parent, limit)).fetchall()
    ended_as = load(step, parent).status if children else WAITING
    for child, mask in children:
        meet_need(step, load(step, child), parent, is_met=is_in(ended_as, mask))
        yield


def meet_need(step: Step, child: Row, parent: int, *, is_met: bool) -> Row:
    """`parent` ended: count it, or give the child up if it ended in another way than the child needs."""
    if not is_met:
        return end(step, child, CANCELLED, reason="dependency")
    step.run(SQL["links.meet_edge"], (parent, child.n))
    change(step, child, needs_left=child.needs_left - 1)
    return enter_gate(step, child) if child.needs_left == 0 else child


# ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
def promote(step: Step, queues: Sequence[str], limit: int) -> tuple[list[str], bool]:
    """Due jobs → pending, earliest first, in the order of `queues`. (ids, whether the limit was reached)"""
    ids: list[str] = []
    for queue in queues:
        due = (
            step.run(SQL["promote.due"], (queue, step.now_ms, limit - len(ids))).fetchall() if len(ids) < limit else ()
        )
        if not due:
            continue
        first = step.ready + 1
        step.ready += len(due)
        numbers = [(first + place, n) for place, (n, _, _) in enumerate(due)]
        step.connection.executemany(SQL["promote.start"], numbers)
        for _, lane, job_id in due:
            step.count(queue, lane, SCHEDULED, -1)
            step.count(queue, lane, PENDING, 1)
            ids.append(job_id)
        step.touched.add(queue)
    return ids, len(ids) >= limit


def expire(step: Step, queues: Sequence[str], limit: int = EXPIRE_MAX) -> tuple[list[str], bool]:
    """Unstarted jobs whose time is over → dead(`expired`), in the order of `queues`, then of expiry."""
    ids: list[str] = []
    for queue in queues:
        if len(ids) < limit:
            over = step.run(SQL["promote.expired"], (queue, step.now_ms, limit - len(ids))).fetchall()
            ids += [end(step, load(step, n), DEAD, reason="expired").id for (n,) in over]
    return ids, len(ids) >= limit


def next_due_in_ms(step: Step, queues: Sequence[str]) -> int | None:
    """When the next scheduled job of `queues` is due; None = none is known."""
    instants = [step.run(_NEXT, (queue, queue)).fetchone()[0] for queue in queues]
    return max(0, min(found) - step.now_ms) if (found := [each for each in instants if each is not None]) else None


class Passed(NamedTuple):
    """`next_in_ms` is true as long as nothing else becomes scheduled; `is_known` says whether it was found out."""

    is_bounded: bool
    next_in_ms: int | None
    is_known: bool


def pass_time(step: Step, queues: Sequence[str]) -> Passed:
    """Expire and promote what is over or due in `queues`. One look for each when nothing is: nearly always."""
    now_ms, due_at_ms, is_over = step.now_ms, None, False
    for queue in queues:
        run_at_ms, expires_at_ms = step.run(_NEXT, (queue, queue)).fetchone()
        if run_at_ms is not None and (due_at_ms is None or run_at_ms < due_at_ms):
            due_at_ms = run_at_ms
        is_over |= expires_at_ms is not None and expires_at_ms <= now_ms
    is_due = due_at_ms is not None and due_at_ms <= now_ms
    if not is_over and not is_due:
        return Passed(is_bounded=False, next_in_ms=None if due_at_ms is None else due_at_ms - now_ms, is_known=True)
    _, more_expired = expire(step, queues)
    _, more_due = promote(step, queues, PROMOTE_MAX)
    return Passed(is_bounded=more_expired or more_due, next_in_ms=None, is_known=False)

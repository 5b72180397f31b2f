"""What comes back from a function, as the structs of the seam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from psyqueue.backend import (
    Amended,
    AnyOutcome,
    Delivery,
    Done,
    Enqueued,
    Holders,
    Item,
    JobView,
    Limits,
    Lock,
    NewJob,
    Page,
    QueueInfo,
    Renewal,
    Schedule,
    Session,
    SessionInfo,
    Settled,
    SettleReply,
    Stored,
    Verdict,
)
from psyqueue.backends._postgres.encoding import NO_EXTRAS, Outcomes, decode_extras
from psyqueue.errors import StaleOp
from psyqueue.job import STATUSES, Status

_parsed = msgspec.json.Decoder().decode
_VERDICTS: dict[str, Verdict] = {"o": "ok", "a": "already", "l": "lost", "c": "conflict"}
Rows = Sequence[Any]


def status_of(number: int | None) -> Status | None:
    return None if number is None else STATUSES[number]


# ── the hot path ──────────────────────────────────────────────────────────────────────────────────────────────────────
def enqueued_of(reply: str, jobs: Sequence[NewJob]) -> tuple[Enqueued, ...]:
    """A number instead of replies: all are new, and pending."""
    found = _parsed(reply)
    if not isinstance(found, int):
        return _enqueued(found)
    if found != len(jobs):
        raise StaleOp("another call was made with this op: its jobs are not those of this one")
    return tuple([Enqueued(job.id, True, "pending") for job in jobs])


def _enqueued(found: list[Any]) -> tuple[Enqueued, ...]:
    return tuple(Enqueued(job_id, created, status_of(number)) for job_id, created, number in found)


def settled_of(
    rows: Rows, outcomes: Sequence[AnyOutcome], sent: Outcomes, seed: str
) -> tuple[SettleReply, dict[str, dict[str, Any]] | None]:
    """The reply, and the marks of its queues."""
    head = _parsed(rows[-1][0])
    found = {row[1]: row for row in rows[:-1]}
    deliveries = tuple([_delivery_of(found[number], seed) for number in head["d"] if number in found])
    reply = SettleReply(
        _settled(head, outcomes, sent),
        deliveries,
        tuple(head["asked"]),
        more=head["more"],
        next_due_in_ms=head["next"],
        held=head["active"],
    )
    return reply, head["w"]


def _settled(head: dict[str, Any], outcomes: Sequence[AnyOutcome], sent: Outcomes) -> tuple[Settled, ...]:
    acks, others = head["a"], head["o"] or []
    if head["acks"] != len(sent.places) or head["acks"] + len(others) != len(outcomes):
        raise StaleOp("another call was made with this op: its outcomes are not those of this one")
    if acks is None and not others:
        return tuple([Settled(outcome.job_id, "ok", "completed") for outcome in outcomes])
    found: list[Any] = [None] * len(outcomes)
    for number, place in enumerate(sent.places):
        found[place] = ("o", 4, None) if acks is None else (*acks[number], None)
    rest = iter(others)
    return tuple(
        [
            _one_settled(outcome, *(each if each is not None else next(rest)))
            for outcome, each in zip(outcomes, found, strict=True)
        ]
    )


def _one_settled(outcome: AnyOutcome, verdict: str, number: int | None, followed: list[Any] | None) -> Settled:
    return Settled(outcome.job_id, _VERDICTS[verdict], status_of(number), _enqueued(followed) if followed else ())


def _delivery_of(row: Any, seed: str) -> Delivery:
    (
        _, number, job_id, queue, name, payload, cold, fence, attempt, lost, max_retries, priority, lane, created_ms,
        started_ms, run_at_ms, max_lost, generation, packed,
    ) = row  # fmt: skip
    token = f"{number}.{seed}"
    schedule_id: str | None = None
    needs: tuple[str, ...] = ()
    if packed is not None:
        extras = decode_extras(packed)
        schedule_id, needs = extras.schedule_id, tuple([need.job_id for need in extras.needs])
    return Delivery(
        job_id, queue, name, payload, cold, token, fence, attempt, lost, max_retries, priority, lane, created_ms,
        started_ms, run_at_ms, max_lost, generation, schedule_id, needs,
    )  # fmt: skip


def renewal_of(reply: str) -> Renewal:
    is_open, asked, paused, now_ms = _parsed(reply)
    return Renewal(is_open, tuple(asked or ()), tuple(paused or ()), now_ms)


def done_of(reply: str) -> Done:
    ids, more, *rest = _parsed(reply)
    return Done(tuple(ids or ()), more=more, next_in_ms=rest[0] if rest else None)


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def view_of(row: Any) -> JobView:
    extras = decode_extras(row["extras"]) if row["extras"] is not None else NO_EXTRAS
    status = STATUSES[row["status"]]
    result = row["result"]
    return JobView(
        job=NewJob(
            id=row["id"],
            queue=row["queue"],
            name=row["name"],
            payload=row["payload"],
            cold=row["cold"],
            digest=row["digest"],
            priority=row["priority"],
            max_retries=row["max_retries"],
            max_lost=row["max_lost"],
            lane=row["lane"],
            run_at_ms=row["run_at_ms"],
            schedule_id=extras.schedule_id,
            unique=extras.unique,
            idempotency=extras.idempotency,
            gate=extras.gate,
            needs=extras.needs,
        ),
        status=status,
        attempt=row["attempt"],
        lost=row["lost"],
        generation=row["generation"],
        fence=row["fence"],
        ready_number=row["ready_number"],
        session_id=row["session_id"],
        worker=row["worker"],
        held=row["held"],
        cancel_requested=row["cancel_requested"],
        reason=row["reason"],
        created_at_ms=row["created_at_ms"],
        started_at_ms=row["started_at_ms"],
        completed_at_ms=row["completed_at_ms"],
        run_at_ms=row["run_at_ms"],
        expires_at_ms=row["expires_at_ms"],
        result=b"null" if result is None and status == "completed" else result,
        errors=tuple(row["errors"]),
        blocked_by=tuple(row["blocked_by"]),
    )


def holders_of(row: Any) -> Holders:
    unique_ids, kept_ids, kept_digests = row
    pairs = zip(kept_ids or (), kept_digests or (), strict=True)
    return Holders(tuple(unique_ids), tuple(None if job_id is None else (job_id, digest) for job_id, digest in pairs))


def page_of(rows: Rows) -> Page:
    return Page(tuple(view_of(row) for row in rows[1:]), rows[0][0])


def queue_of(row: Any) -> QueueInfo:
    name = row["name"]
    return QueueInfo(
        queue=name,
        counts=dict(zip(STATUSES, row["counts"], strict=True)),
        oldest_pending_at_ms=row["oldest_pending_at_ms"],
        lanes=row["lanes"],
        limits=_settings_of(row, name) if row["has_limits"] else Limits(queue=name),
    )


def limits_of(row: Any) -> Limits:
    return _settings_of(row, row["queue"], row["lane"] if row["is_lane"] else None)


def _settings_of(row: Any, queue: str, lane: str | None = None) -> Limits:
    ended, dead = row["retain_ended"], row["retain_dead"]
    return Limits(
        queue=queue,
        lane=lane,
        paused_until_ms=row["paused_until_ms"],
        weight=row["weight"],
        active_max=row["active_max"],
        starts_per_minute=row["starts_per_minute"],
        starts_burst=row["starts_burst"],
        pending_max=row["pending_max"],
        retain_ended=(ended[0], ended[1]) if ended else None,
        retain_dead=(dead[0], dead[1]) if dead else None,
    )


def session_of(row: Any) -> SessionInfo:
    session_id, worker, queues, lease_ms, meta, held, opened_ms, left_ms = row
    session = Session(id=session_id, worker=worker, queues=tuple(queues), lease_ms=lease_ms, meta=meta)
    return SessionInfo(session, held, opened_ms, left_ms)


def amended_of(reply: str) -> Amended:
    changed, skipped, cursor = _parsed(reply)
    return Amended(
        tuple(changed),
        tuple((job_id, status_of(number)) for job_id, number in skipped),
        None if cursor is None else msgspec.json.encode(cursor).decode(),
    )


def schedule_of(row: Any) -> Schedule:
    schedule_id, spec, version, next_ms, last_ms, is_paused = row
    return Schedule(
        id=schedule_id, spec=spec, version=version, next_at_ms=next_ms, last_nominal_ms=last_ms, paused=is_paused
    )


def item_of(row: Any) -> Item:
    return Item(row[0], row[1], row[2])


def stored_of(row: Any) -> Stored:
    return Stored(row[0], row[1], row[2])


def numbers_of(reply: str) -> tuple[int, ...]:
    return tuple(int(text) for text in _parsed(reply))


def lock_of(reply: str) -> Lock:
    fence, holder, left_ms = _parsed(reply)
    return Lock(fence, holder, left_ms)


def checked_of(reply: str) -> tuple[tuple[str, ...], str | None]:
    words, cursor = _parsed(reply)
    return tuple(words or ()), cursor

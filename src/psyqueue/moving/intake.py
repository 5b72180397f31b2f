"""Enqueue into two stores as into one: what is known in the old store is found there, what is new goes to the new one.

The old store takes no new jobs by then, so what it knows only becomes less: looked at first, and then decided by the
new store in one step, nothing is taken twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from psyqueue.backend import Change, Effects, Enqueued, Filter, Idempotency, JobView, NewJob, Op, Unique
from psyqueue.errors import (
    IdConflict,
    InvalidState,
    KeyConflict,
    NamespaceFrozen,
    StoreBusy,
    StoreUnavailable,
    UnknownDependency,
)
from psyqueue.moving.routes import Routes

REPLACED = "replaced"


class Known(Struct, frozen=True):
    """What the old store knows of the jobs of a call. `found`: by position, None = new.

    `replaced`: the position of a job → the one in the old store whose place it takes.
    """

    found: tuple[Enqueued | None, ...]
    replaced: dict[int, str]


class Intake:
    """One for all callers of a process."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._unsure: dict[tuple[str, int], int] = {}
        """Channel → its turn that may have been done by the old store: the old store has to be asked again."""
        self._known: dict[tuple[str, int], tuple[int, Known]] = {}
        """Channel → its turn, and what was found for it: a repeat has to be the same call."""

    async def enqueue(self, op: Op, jobs: Sequence[NewJob], effects: Effects) -> tuple[Enqueued, ...]:
        """As `BackendAdapter.enqueue`. Raises also InvalidState for a job that needs jobs of both stores."""
        return await self._routes.patiently(lambda: self._enqueue(op, jobs, effects))

    async def _enqueue(self, op: Op, jobs: Sequence[NewJob], effects: Effects) -> tuple[Enqueued, ...]:
        routes = self._routes
        if routes.is_done and self._unsure.get((op.client, op.channel)) != op.turn:
            return await routes.new.enqueue(op, jobs, effects)
        if not routes.is_switched:
            return await self._ask_old(op, jobs, effects)
        every = (*jobs, *effects.jobs)
        may_be_bound = any(job.needs or job.gate is not None for job in every)
        if may_be_bound or self._unsure.get((op.client, op.channel)) == op.turn:
            try:
                return await self._ask_old(op, jobs, effects)
            except UnknownDependency:
                pass  # what it needs is in the new store
            except NamespaceFrozen:
                await self._require_lines(every)
        return await self._enqueue_new(op, jobs, effects)

    async def _require_lines(self, jobs: Sequence[NewJob]) -> None:
        """The old store did not take them: either nothing there is at their gates, or it takes nothing more.

        Raises NamespaceFrozen while it is copied: at a gate of the new store they would overtake who comes from there.
        """
        if any(job.gate is not None for job in jobs):
            await self._routes.learn()
            if self._routes.is_drained and not self._routes.is_done:
                raise NamespaceFrozen("jobs that come before these at their gates are just being moved")

    async def _ask_old(self, op: Op, jobs: Sequence[NewJob], effects: Effects) -> tuple[Enqueued, ...]:
        channel = (op.client, op.channel)
        try:
            reply = await self._routes.old.enqueue(op, jobs, effects)
        except StoreUnavailable as exc:
            if exc.outcome == "unknown":
                self._unsure[channel] = op.turn
            raise
        except NamespaceFrozen:
            self._unsure.pop(channel, None)  # its record of the op is looked at first: it was not done
            raise
        self._unsure.pop(channel, None)
        return reply

    async def _enqueue_new(self, op: Op, jobs: Sequence[NewJob], effects: Effects) -> tuple[Enqueued, ...]:
        known = await self._look(op, jobs)
        if known.replaced and self._routes.is_drained:
            raise StoreBusy("the job to replace is just being moved. Nothing was written: try again")
        rest = [job for job, found in zip(jobs, known.found, strict=True) if found is None]
        if not rest and not effects:
            return tuple(found for found in known.found if found is not None)
        try:
            replies = await self._routes.new.enqueue(op, rest, effects)
        except UnknownDependency as exc:
            raise await self._explained(exc, (*rest, *effects.jobs)) from exc
        fresh = iter(replies)
        merged = [next(fresh) if found is None else found for found in known.found]
        for position, holder in known.replaced.items():
            merged[position] = await self._replace(holder, merged[position])
        return (*merged, *fresh)

    # ── what the old store knows ──────────────────────────────────────────────────────────────────────────────────────
    async def _look(self, op: Op, jobs: Sequence[NewJob]) -> Known:
        channel = (op.client, op.channel)
        turn, known = self._known.get(channel, (0, None))
        if turn != op.turn or known is None:
            known = await self._look_up(jobs)
            self._known[channel] = (op.turn, known)
        return known

    async def _look_up(self, jobs: Sequence[NewJob]) -> Known:
        old = self._routes.old
        unique = [job.unique.key for job in jobs if job.unique is not None]
        idempotent = [job.idempotency.key for job in jobs if job.idempotency is not None]
        there = {view.job.id: view for view in await old.get([job.id for job in jobs]) if view is not None}
        if not (there or unique or idempotent):
            return Known((None,) * len(jobs), {})
        holders = await old.holders(unique, idempotent)
        of_unique = dict(zip(unique, holders.unique, strict=True))
        of_window = dict(zip(idempotent, holders.idempotency, strict=True))
        others = [*(holder for holder in holders.unique if holder), *(each[0] for each in holders.idempotency if each)]
        there |= {view.job.id: view for view in await old.get(others) if view is not None}
        found: list[Enqueued | None] = []
        replaced: dict[int, str] = {}
        for position, job in enumerate(jobs):
            found.append(
                _same_id(job, there)
                or _same_window(job.idempotency, job.digest, of_window, there)
                or _same_unique(job.unique, of_unique, there)
            )
            if found[-1] is None and job.unique is not None and (holder := of_unique[job.unique.key]) is not None:
                replaced[position] = holder
        return Known(tuple(found), replaced)

    async def _replace(self, holder: str, made: Enqueued) -> Enqueued:
        """The new job takes the place of one in the old store, unless that one was started meanwhile."""
        where, cancel = Filter(ids=(holder,)), Change(kind="cancel", reason=REPLACED)
        (view,) = await self._routes.old.get((holder,))
        if view is not None and view.status != "active":
            await self._routes.change_old(lambda op: self._routes.old.amend(op, where, cancel, None, 1))
            (view,) = await self._routes.old.get((holder,))
        if view is None or view.status != "active":
            return made
        # Nothing starts in the new store before the old one is done: the newcomer can still be taken back.
        newcomer = Filter(ids=(made.job_id,))
        await self._routes.change_new(lambda op: self._routes.new.amend(op, newcomer, cancel, None, 1))
        return Enqueued(holder, created=False, status="active")

    async def _explained(self, error: UnknownDependency, jobs: Sequence[NewJob]) -> Exception:
        """Raises for needs that are in the old store what says so; else `error` is right."""
        ids = list(dict.fromkeys(need.job_id for job in jobs for need in job.needs))
        if self._routes.is_done or not any(await self._routes.old.get(ids)):
            return error
        if self._routes.is_drained:
            return StoreBusy("what the job needs is just being moved. Nothing was written: try again")
        return InvalidState(
            f"{error.message} in the new store: the call needs jobs of both stores of a move. Enqueue it when the move "
            "is over, or its jobs one by one"
        )


def _same_id(job: NewJob, there: Mapping[str, JobView]) -> Enqueued | None:
    view = there.get(job.id)
    if view is None:
        return None
    if view.job.digest != job.digest:
        raise IdConflict(job.id)
    return Enqueued(job.id, created=False, status=view.status)


def _same_window(
    asked: Idempotency | None,
    digest: bytes,
    windows: Mapping[str, tuple[str, bytes] | None],
    there: Mapping[str, JobView],
) -> Enqueued | None:
    if asked is None or (first := windows[asked.key]) is None:
        return None
    if first[1] != digest:
        raise KeyConflict(asked.key, first[0], "idempotency")
    view = there.get(first[0])
    return Enqueued(first[0], created=False, status=None if view is None else view.status)


def _same_unique(
    asked: Unique | None, holders: Mapping[str, str | None], there: Mapping[str, JobView]
) -> Enqueued | None:
    """None also for a holder that is to be replaced."""
    if asked is None or (holder := holders[asked.key]) is None:
        return None
    if asked.on_conflict == "reject":
        raise KeyConflict(asked.key, holder, "unique")
    view = there.get(holder)
    status = None if view is None else view.status
    if asked.on_conflict == "replace" and status != "active":
        return None
    return Enqueued(holder, created=False, status=status)

"""A worker's session in two stores: it drains the old one, then it takes the new one.

A delivery is settled where it came from. The session in the new store is opened when the first job is asked for there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from msgspec.structs import replace

from psyqueue.backend import (
    AnyOutcome,
    BackendAdapter,
    Delivery,
    Done,
    Fetch,
    Keep,
    Op,
    Renewal,
    Session,
    SessionKeeper,
    Settled,
    SettleReply,
)
from psyqueue.backend.compose import all_sessions
from psyqueue.errors import NamespaceFrozen, SessionLost, StoreError
from psyqueue.moving.routes import Routes

ASK_AGAIN_MS = 200
"""While the old store gives nothing any more and the new one nothing yet."""


class Held:
    """Where a session is open, and which of its deliveries are the new store's."""

    def __init__(self, session: Session | None) -> None:
        self.session = session
        self.is_at_old = False
        self.is_at_new = False
        self.new_tokens: set[str] = set()

    def has_from_new(self, outcome: AnyOutcome) -> bool:
        return not self.is_at_old or outcome.completion_token in self.new_tokens


class Sessions:
    """Those of this process."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._held: dict[str, Held] = {}

    # ── open and closed ───────────────────────────────────────────────────────────────────────────────────────────────
    async def open(self, op: Op, session: Session) -> Renewal:
        """As `BackendAdapter.open_session`, in the store that gives jobs now."""
        held = Held(session)
        if self._routes.is_done:
            renewal = await self._routes.new.open_session(op, session)
            held.is_at_new = True
        else:
            renewal = await self._routes.old.open_session(op, session)
            held.is_at_old = True
        self._held[session.id] = held
        return renewal

    async def close(self, op: Op, session_id: str) -> Done:
        """As `BackendAdapter.close_session`, wherever it is open."""
        held = self._held.get(session_id)
        done = Done()
        if held is None:
            for store in self._routes.homes:
                done = merged((done, await store.close_session(op, session_id)))
            return done
        if held.is_at_new:
            done = await self._routes.new.close_session(op, session_id)
        if held.is_at_old:
            try:
                done = merged((done, await self._routes.old.close_session(op, session_id)))
            except StoreError:
                if not self._routes.is_done:
                    raise  # else it holds nothing there, and the store may be gone
        if not done.more:
            self._held.pop(session_id, None)
        return done

    def keeper(self) -> SessionKeeper:
        return _Keeper(self._routes, self._held)

    def store_of(self, session_id: str, outcome: AnyOutcome) -> BackendAdapter:
        """Where the delivery came from."""
        held = self._held.get(session_id)
        return self._routes.new if held is not None and held.has_from_new(outcome) else self._routes.old

    # ── outcomes and deliveries ───────────────────────────────────────────────────────────────────────────────────────
    async def settle(self, op: Op, session_id: str, outcomes: Sequence[AnyOutcome], fetch: Fetch | None) -> SettleReply:
        """As `BackendAdapter.settle`. Fetches from the old store until that is still, then from the new one."""
        routes = self._routes
        held = self._held.get(session_id)
        if not routes.is_drained:
            try:
                return await routes.old.settle(op, session_id, outcomes, fetch)
            except NamespaceFrozen:
                await routes.learn()
                if not routes.is_drained:
                    raise
        if held is None:
            held = await self._found(session_id)
        at_new = [held.has_from_new(each) for each in outcomes]
        of_old = [outcome for outcome, is_new in zip(outcomes, at_new, strict=True) if not is_new]
        of_new = [outcome for outcome, is_new in zip(outcomes, at_new, strict=True) if is_new]
        first = await routes.old.settle(op, session_id, of_old, None) if of_old else SettleReply()
        second = SettleReply()
        if fetch is not None or of_new or not of_old:
            second = await self._settle_new(op, held, session_id, of_new, fetch)
        held.new_tokens.difference_update(_ended(of_new, second.settled))
        held.new_tokens.update(delivery.completion_token for delivery in second.deliveries)
        reply = _joined(at_new, first, second)
        return reply if held.is_at_old else replace(reply, held=second.held)

    async def _settle_new(
        self, op: Op, held: Held, session_id: str, outcomes: Sequence[AnyOutcome], fetch: Fetch | None
    ) -> SettleReply:
        new = self._routes.new
        if not held.is_at_new:
            session = held.session
            if session is None:
                raise SessionLost(session_id)
            await self._routes.change_new(lambda op: new.open_session(op, session))
            held.is_at_new = True
        try:
            return await new.settle(op, session_id, outcomes, fetch)
        except NamespaceFrozen:
            # It gives nothing yet; or the move is being taken back, and the old store gives again.
            await self._routes.learn()
            if self._routes.is_done and (await new.info()).mode != "filling":
                raise  # it is on its way to a third place
            return SettleReply(next_due_in_ms=ASK_AGAIN_MS)

    async def _found(self, session_id: str) -> Held:
        """A session that another client opened, or that is not there: that is for the store to say."""
        held = Held(None)
        held.is_at_new = self._routes.is_done
        for store in self._routes.homes:
            infos = [info for info in await all_sessions(store) if info.session.id == session_id]
            if infos:
                held.session = infos[0].session
                held.is_at_old |= store is self._routes.old
                held.is_at_new |= store is self._routes.new
                self._held[session_id] = held
        return held


class _Keeper:
    """Renews in the lease thread wherever the session is open."""

    def __init__(self, routes: Routes, held: dict[str, Held]) -> None:
        self._routes = routes
        self._held = held
        self._keepers: dict[int, SessionKeeper] = {}

    def renew(self, session_id: str) -> Renewal:
        held = self._held.get(session_id)
        if held is None:
            return self._of(self._routes.intake).renew(session_id)
        renewals = []
        if held.is_at_old and not self._routes.is_done:
            renewals.append(self._of(self._routes.old).renew(session_id))
        if held.is_at_new:
            renewals.append(self._of(self._routes.new).renew(session_id))
        if not renewals:
            return Renewal(open=True, cancel_requested=(), paused=(), now_ms=self._routes.clock.now_ms())
        return Renewal(
            open=all(each.open for each in renewals),
            cancel_requested=tuple(job_id for each in renewals for job_id in each.cancel_requested),
            paused=tuple(dict.fromkeys(queue for each in renewals for queue in each.paused)),
            now_ms=renewals[-1].now_ms,
        )

    def close(self) -> None:
        for keeper in self._keepers.values():
            keeper.close()

    def _of(self, store: BackendAdapter) -> SessionKeeper:
        if id(store) not in self._keepers:
            self._keepers[id(store)] = store.keeper()
        return self._keepers[id(store)]


async def in_each(stores: Iterable[BackendAdapter], call: Callable[[BackendAdapter], Awaitable[Done]]) -> Done:
    """A bounded step in each store, told as one."""
    return merged([await call(store) for store in stores])


def merged(parts: Sequence[Done]) -> Done:
    nexts = [part.next_in_ms for part in parts if part.next_in_ms is not None]
    return Done(
        tuple(job_id for part in parts for job_id in part.ids),
        more=any(part.more for part in parts),
        next_in_ms=min(nexts, default=None),
    )


def _ended(outcomes: Sequence[AnyOutcome], settled: Sequence[Settled]) -> list[str]:
    return [
        outcome.completion_token
        for outcome, verdict in zip(outcomes, settled, strict=True)
        if not isinstance(outcome, Keep) and verdict.verdict != "conflict"
    ]


def _joined(at_new: Sequence[bool], old: SettleReply, new: SettleReply) -> SettleReply:
    """Verdicts in the order of the outcomes."""
    of_old, of_new = iter(old.settled), iter(new.settled)
    deliveries: tuple[Delivery, ...] = (*old.deliveries, *new.deliveries)
    return SettleReply(
        settled=tuple(next(of_new) if is_new else next(of_old) for is_new in at_new),
        deliveries=deliveries,
        cancel_requested=(*old.cancel_requested, *new.cancel_requested),
        more=old.more or new.more,
        next_due_in_ms=new.next_due_in_ms,
    )

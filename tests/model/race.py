"""A race: the same history on the model and on a store, compared reply by reply and state by state."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, ClassVar

from hypothesis.stateful import RuleBasedStateMachine, initialize
from msgspec import Struct

from model.sides import Call, Refusal, Side, differences
from model.vocabulary import FAR, LEASE_MS, NOBODY, Also, Spec
from psyqueue.backend import (
    Dependency,
    Effects,
    Gate,
    Idempotency,
    NewJob,
    Op,
    Session,
    SettleReply,
    Unique,
)
from psyqueue.job import LIVE, TERMINAL, TRANSITIONS, Status
from psyqueue.testing.conformance import BackendFactory

BEFORE_START: tuple[Status, ...] = ("waiting", "scheduled", "pending")
CAPACITY = {"g1": 1, "g2": 2}
STORY_LINES = 80


def _reach() -> dict[str, set[str]]:
    """Status → statuses that legal moves lead to; one call may make several moves."""
    reach: dict[str, set[str]] = {before: {before, *moves} for before, moves in TRANSITIONS.items()}
    for _ in reach:
        reach = {before: set().union(*(reach[each] for each in moves)) for before, moves in reach.items()}
    return reach


REACH = _reach()


class Ticket(Struct, frozen=True):
    """One delivery: its token on each side."""

    job_id: str
    session: str
    tokens: tuple[str, str]


class Race(RuleBasedStateMachine):
    """The parts of the machine that no rule can do without; the rules are in `machine`."""

    model: ClassVar[BackendFactory]
    store: ClassVar[BackendFactory]

    def __init__(self) -> None:
        super().__init__()
        # Not asyncio.Runner: what it does about signals on each call costs as much as the stores do.
        self.loop = asyncio.new_event_loop()
        self.sides: tuple[Side, ...] = ()
        self.ids: list[str] = []
        self.sessions: list[str] = []
        self.tickets: list[Ticket] = []
        self.turns: dict[int, int] = {}
        self.last: dict[int, tuple[str, Call, Op]] = {}
        self.seeds = 0
        self.story: list[str] = []
        self.dumps: list[dict[str, Any]] = [{}, {}]
        self.is_refused = False
        self.holder = "s0"
        """The session whose call is under way."""
        self.anew: set[str] = set()
        """Ids of jobs that the call under way makes, and may have taken from jobs that it deletes."""

    @initialize()
    def connect(self) -> None:
        async def sides() -> tuple[Side, ...]:
            pairs = (("model", self.model), ("store", self.store))
            return tuple([Side(name, factory, await factory.fresh()) for name, factory in pairs])

        self.sides = self.loop.run_until_complete(sides())
        self.open_session()
        self.open_session()
        self.look()

    def open_session(self) -> None:
        session = Session(id=f"s{len(self.sessions)}", worker="w", queues=("q", "r"), lease_ms=LEASE_MS)
        self.sessions.append(session.id)
        self.do(f"open_session({session.id})", lambda side, op: side.backend.open_session(op, session))

    def teardown(self) -> None:
        async def leave() -> None:
            for side in self.sides:
                await side.backend.disconnect()

        try:
            self.loop.run_until_complete(leave())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
        finally:
            self.loop.close()

    # ── both sides ────────────────────────────────────────────────────────────────────────────────────────────────────
    def op(self, channel: int) -> Op:
        self.turns[channel] = self.turns.get(channel, 0) + 1
        return Op("client", channel, self.turns[channel])

    def do(self, words: str, call: Call, channel: int = 0) -> Any:
        """A mutating verb under the next op of a channel; the raw reply of the store under test, None if refused."""
        op = self.op(channel)
        self.last[channel] = (words, call, op)
        return self.same(f"[{channel}:{op.turn}] {words}", call, op)

    def same(self, words: str, call: Call, op: Op = Op("", 0, 0)) -> Any:  # noqa: B008 - frozen
        """The same call on both sides has to bring the same reply; deliveries in it become tickets."""

        async def both() -> tuple[tuple[Any, Any], ...]:
            return tuple([await side.answer(call, op) for side in self.sides])

        (raw_model, plain_model), (raw_store, plain_store) = self.loop.run_until_complete(both())
        self.story.append(f"{words} -> {plain_store!r}"[:400])
        self.agree(f"replies to {words}", plain_model, plain_store)
        self.is_refused = isinstance(plain_store, Refusal)
        if isinstance(raw_model, SettleReply):
            self._keep_tickets(raw_model, raw_store)
        return raw_store

    def _keep_tickets(self, of_model: SettleReply, of_store: SettleReply) -> None:
        known = {ticket.tokens[1] for ticket in self.tickets}
        for one, two in zip(of_model.deliveries, of_store.deliveries, strict=True):
            if two.completion_token not in known:
                holder = self.holder
                self.tickets.append(Ticket(one.id, holder, (one.completion_token, two.completion_token)))

    def agree(self, what: str, model: Any, store: Any) -> None:
        if model == store:
            return
        lines = differences(model, store) or [f": model {model!r}, store {store!r}"]
        story = "\n  ".join(self.story[-STORY_LINES:])
        raise AssertionError(f"{what} differ\n" + "\n".join(lines[:12]) + f"\nafter\n  {story}")

    # ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def look(self) -> None:
        """Everything that can be seen is the same on both sides, and nothing that must never be true is."""

        async def both() -> list[dict[str, Any]]:
            return [await side.dump(tuple(self.ids)) for side in self.sides]

        before, self.dumps = self.dumps[1], self.loop.run_until_complete(both())
        self.agree("states", *self.dumps)
        self._watch(before, self.dumps[1])

    def _watch(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Invariants over time, of the store under test alone: they would hold without a model, too."""
        problems = list(after["broken"])
        for job_id, new in after["jobs"].items():
            old = before.get("jobs", {}).get(job_id)
            is_same = old is not None and old["created_at_ms"] == new["created_at_ms"] and job_id not in self.anew
            if old is not None and is_same:
                problems += [f"{job_id}: {problem}" for problem in _illegal(old, new)]
            problems += [f"{job_id}: {problem}" for problem in _impossible(new)]
        held = sum(info["held"] for info in after["sessions"])
        active = sum(view["status"] == "active" for view in after["jobs"].values())
        if held > active:
            problems.append(f"open sessions hold {held} jobs, {active} are active")
        self.anew.clear()
        self.agree("invariants", [], problems)

    # ── from descriptions to what the seam takes ──────────────────────────────────────────────────────────────────────
    def picked(self, pick: int, fitting: Collection[str] = ()) -> str:
        """The id of a job in one of the statuses, if there is one and the pick is not a far one; the newest first."""
        views = self.dumps[0].get("jobs", {})
        fit = [job_id for job_id in self.ids if job_id in views and views[job_id]["status"] in fitting]
        some = (fit if pick < FAR else []) or self.ids or ["nobody"]
        return some[-1 - pick % len(some)]

    def new_job(self, spec: Spec) -> NewJob:
        is_new = spec.again is None or not self.ids
        job_id = f"j{len(self.ids)}" if is_new else self.picked(spec.again or 0)
        parents = {self._parent(pick): on for pick, on in spec.needs}
        if job_id not in self.ids:
            self.ids.append(job_id)
        while_: tuple[Status, ...] = BEFORE_START if spec.is_freed_at_start else (*BEFORE_START, "active")
        return NewJob(
            id=job_id,
            queue=spec.queue,
            name="work",
            payload=b'{"of":"%b"}' % job_id.encode(),
            digest=spec.digest,
            lane=spec.lane,
            priority=spec.priority,
            delay_ms=spec.delay_ms,
            run_at_ms=None if spec.run_in_ms is None else self.now_ms() + spec.run_in_ms,
            expires_in_ms=spec.expires_in_ms,
            max_retries=spec.max_retries,
            max_lost=spec.max_lost,
            unique=Unique(spec.unique, while_, spec.on_conflict) if spec.unique else None,
            idempotency=Idempotency(spec.idempotency, 20_000) if spec.idempotency else None,
            gate=Gate(spec.gate, CAPACITY[spec.gate]) if spec.gate else None,
            needs=tuple(Dependency(parent, on) for parent, on in parents.items()),
        )

    def _parent(self, pick: int) -> str:
        return "nobody" if pick == NOBODY else self.picked(pick, TERMINAL if pick in (6, 7) else LIVE)

    def effects(self, also: Also) -> Effects:
        return Effects(tuple(self.new_job(spec) for spec in also.jobs), also.writes, also.records)

    def now_ms(self) -> int:
        now_ms: int = self.dumps[0]["namespace"]["now_ms"]
        return now_ms


def _illegal(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Moves that no call can make."""
    is_replayed = new["generation"] > old["generation"]
    problems = {
        f"moved from {old['status']} to {new['status']}": new["status"] in REACH[old["status"]],
        "ended, and moved without a replay": old["status"] not in ("completed", "cancelled", "dead")
        or new["status"] == old["status"]
        or is_replayed,
        "its fence went back": new["fence"] >= old["fence"],
        "it lost errors": is_replayed or len(new["errors"]) >= len(old["errors"]),
        "its generation went back": new["generation"] >= old["generation"],
        "it ended twice": old["completed_at_ms"] in (None, new["completed_at_ms"]) or is_replayed,
    }
    return [words for words, holds in problems.items() if not holds]


def _impossible(view: dict[str, Any]) -> list[str]:
    problems = {
        "more attempts than retries allow": view["attempt"] <= view["job"].max_retries + 1,
        "more losses than allowed": view["lost"] <= view["job"].max_lost + 1,
        "an active job without a session": (view["status"] == "active") == (view["session_id"] is not None),
        "an ended job without its time of end": (view["status"] in ("completed", "dead", "cancelled"))
        == (view["completed_at_ms"] is not None),
        "held while active": not (view["held"] and view["status"] == "active"),
        "another payload than it was given": view["job"].payload.startswith(b'{"of":"j'),
    }
    return [words for words, holds in problems.items() if not holds]

"""The rules: every verb of the seam, with arguments right and wrong, in any order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import rule
from msgspec.structs import replace

from model.race import Race, Ticket
from model.sides import Side
from model.vocabulary import (
    ALSO,
    CHANGES,
    ENDS,
    FAR,
    FETCHES,
    FILTERS,
    LEASE_MS,
    LIMITS,
    MAYBE_ALSO,
    PICK,
    PLAIN,
    RICH,
    SOME_SETTINGS,
    STEPS_MS,
    Also,
    End,
    Spec,
)
from psyqueue.backend import (
    PARTS,
    Ack,
    AnyOutcome,
    Cancelled,
    Change,
    Dead,
    Effects,
    Fetch,
    Filter,
    Keep,
    Limits,
    Mode,
    Op,
    Part,
    Release,
    Retry,
    Schedule,
    Snooze,
)
from psyqueue.backends._memory import MemoryBackend
from psyqueue.job import LIVE, TERMINAL, UNSTARTED

F = TypeVar("F", bound=Callable[..., None])

FITTING: dict[str, Collection[str]] = {
    "cancel": LIVE,
    "replay": ("dead",),
    "delete": TERMINAL,
    "priority": UNSTARTED,
    "run_at": UNSTARTED,
}
LIMIT = st.sampled_from([500, 500, 2])
CHANNEL = st.sampled_from([0, 0, 1])


ACTIONS: dict[str, tuple[int, dict[str, Any]]] = {}


def action(weight: int, **arguments: Any) -> Callable[[F], F]:
    """Declare a method as one of the actions of `Machine.step`, `weight` times as likely as one of weight 1.

    One rule for all, since Hypothesis leaves rules out of a history at random: without an enqueue it is worth little.
    """

    def declare(method: F) -> F:
        ACTIONS[method.__name__] = (weight, arguments)
        return method

    return declare


@dataclass(frozen=True)
class Step:
    name: str
    arguments: dict[str, Any]

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


def steps() -> st.SearchStrategy[Step]:
    names = [name for name, (weight, _) in ACTIONS.items() for _ in range(weight)]
    made = {name: st.builds(Step, st.just(name), st.fixed_dictionaries(args)) for name, (_, args) in ACTIONS.items()}
    return st.sampled_from(names).flatmap(made.__getitem__)


class Actions(Race):
    # ── in ────────────────────────────────────────────────────────────────────────────────────────────────────────────
    @action(8, specs=st.lists(PLAIN, min_size=1, max_size=4), channel=CHANNEL)
    def enqueue(self, specs: list[Spec], channel: int) -> None:
        self._enqueue(specs, Also(), channel)

    @action(9, specs=st.lists(RICH, min_size=1, max_size=3), also=MAYBE_ALSO, channel=CHANNEL)
    def enqueue_anything(self, specs: list[Spec], also: Also, channel: int) -> None:
        self._enqueue(specs, also, channel)

    @action(3, lanes=st.lists(st.sampled_from(["", "t", "u"]), min_size=5, max_size=9))
    def enqueue_crowd(self, lanes: list[str]) -> None:
        """Enough for lanes to take turns."""
        self._enqueue([Spec(lane=lane) for lane in lanes], Also(), 0)

    def _enqueue(self, specs: list[Spec], also: Also, channel: int) -> None:
        jobs, effects = tuple(self.new_job(spec) for spec in specs), self.effects(also)
        self.changes(f"enqueue({specs}, {also})", lambda side, op: side.backend.enqueue(op, jobs, effects), channel)

    def changes(self, words: str, call: Any, channel: int = 0) -> Any:
        """A mutating verb; what it refuses leaves no trace (the state is compared with the one before)."""
        reply = self.do(words, call, channel)
        before = self.dumps[1]
        self.look()
        if self.is_refused:
            self.agree(f"states before and after the refused {words}", before, self.dumps[1])
        return reply

    # ── work ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    @action(4, session=PICK, wanted=FETCHES, channel=CHANNEL)
    def dequeue(self, session: int, wanted: tuple[Any, ...] | None, channel: int) -> None:
        self._settle(self.session(session), [], wanted or (("q", "r"), 2, 1 << 20, True), channel)

    @action(10, session=PICK, count=st.integers(1, 5))
    def dequeue_some(self, session: int, count: int) -> None:
        """The usual turn of a worker; without it few histories would get anywhere."""
        self._settle(self.session(session), [], (("q", "r"), count, 1 << 20, count % 2 == 0), 0)

    @action(
        12,
        ends=st.lists(ENDS, min_size=1, max_size=3),
        wanted=FETCHES,
        channel=CHANNEL,
        is_foreign=st.sampled_from([False] * 7 + [True]),
    )
    def settle(self, ends: list[End], wanted: tuple[Any, ...] | None, channel: int, is_foreign: bool) -> None:
        """Through the session of the first, or of somebody else; what others hold is tried all the same."""
        if not self.tickets:
            self.dequeue(0, wanted, channel)
            return
        session = self.session(1) if is_foreign else self.ticket(ends[0].pick).session
        self._settle(session, ends, wanted, channel)

    @action(5, wanted=FETCHES)
    def ack_all(self, wanted: tuple[Any, ...] | None) -> None:
        live = self.live_tickets()
        if not live:
            self.dequeue(0, wanted, 0)
            return
        ends = [End(pick=pick) for pick, ticket in enumerate(live[::-1][:7]) if ticket.session == live[-1].session]
        self._settle(live[-1].session, ends, wanted, 0)

    def live_tickets(self) -> list[Ticket]:
        """The newest delivery of each job that is active, as far as one can see."""
        views = self.dumps[0]["jobs"]
        newest = {each.job_id: each for each in self.tickets}
        return [each for each in newest.values() if views.get(each.job_id, {}).get("session_id") == each.session]

    def ticket(self, pick: int) -> Ticket:
        """Small numbers mean one that is live, if there is one; great ones an old one of an active job, or any."""
        live = self.live_tickets()
        if pick == FAR:
            active = {each.job_id for each in live}
            live = [each for each in self.tickets if each.job_id in active and each not in live]
        some = (live if pick <= FAR else []) or self.tickets
        return some[-1 - pick % len(some)]

    def session(self, pick: int) -> str:
        """As `ticket`."""
        opened = [info["session"]["id"] for info in self.dumps[0]["sessions"]] if pick < FAR else []
        some = opened or self.sessions
        return some[-1 - pick % len(some)]

    def _settle(self, session: str, ends: list[End], wanted: tuple[Any, ...] | None, channel: int) -> None:
        self.seeds += 1
        fetch = None
        if wanted is not None:
            queues, count, bytes_max, counts = wanted
            seed = f"{self.seeds:032x}"
            fetch = Fetch(queues=queues, count=count, bytes_max=bytes_max, counts=counts, token_seed=seed)
        made = [(self.ticket(end.pick), end, self.effects(end.also)) for end in ends]
        self.holder = session
        words = f"settle({session}, {[(ticket.job_id, end) for ticket, end, _ in made]}, {wanted})"

        def call(side: Side, op: Op) -> Any:
            number = self.sides.index(side)
            outcomes = [outcome(end, ticket.job_id, ticket.tokens[number], effects) for ticket, end, effects in made]
            return side.backend.settle(op, session, outcomes, fetch)

        self.changes(words, call, channel)

    @action(4, channel=CHANNEL)
    def repeat(self, channel: int) -> None:
        """The reply was lost: the same op once more."""
        if channel in self.last:
            words, call, op = self.last[channel]
            self.same(f"again [{channel}:{op.turn}] {words}", call, op)
            self.look()

    @action(1, back=st.integers(1, 3))
    def come_late(self, back: int) -> None:
        """A duplicate of a call that was answered long ago.

        Not under the last op that changed something: that is no duplicate but another call, to which a store may say
        what was said then, or that this is another one.
        """
        if self.turns[0] == 1:
            return
        effects = Effects(writes=())
        op = Op("client", 0, max(0, self.turns[0] - back))
        model = self.sides[0].backend
        assert isinstance(model, MemoryBackend)
        last = model.store.turns.get((op.client, op.channel))
        if last is not None and last.op == op:
            return
        jobs = (self.new_job(Spec(again=0)),)
        self.same(f"late {op.turn}", lambda side, _: side.backend.enqueue(op, jobs, effects))
        self.look()

    # ── sessions ──────────────────────────────────────────────────────────────────────────────────────────────────────
    @action(1)
    def open_another_session(self) -> None:
        self.open_session()
        self.look()

    @action(1, session=PICK)
    def renew(self, session: int) -> None:
        name = self.session(session)

        async def call(side: Side, _: Op) -> Any:
            keeper = side.backend.keeper()
            try:
                renewal = await asyncio.to_thread(keeper.renew, name)
            finally:
                await asyncio.to_thread(keeper.close)
            return replace(
                renewal,
                cancel_requested=tuple(sorted(renewal.cancel_requested)),
                paused=tuple(sorted(renewal.paused)),
            )

        self.same(f"renew({name})", call)
        self.look()

    @action(2, session=PICK)
    def close_session(self, session: int) -> None:
        name = self.session(session)

        async def call(side: Side, op: Op) -> Any:
            done = await side.backend.close_session(op, name)
            return sorted(done.ids), done.more

        self.changes(f"close_session({name})", call)
        self.open_another_session()

    @action(1, limit=LIMIT)
    def reap(self, limit: int) -> None:
        self.same(f"reap({limit})", lambda side, _: side.drained(side.backend.reap, limit))
        self.look()

    @action(3, limit=LIMIT)
    def lose_all(self, limit: int) -> None:
        self.reap(500)
        self.advance(LEASE_MS + 1)
        self.reap(limit)
        self.open_another_session()

    # ── maintenance ───────────────────────────────────────────────────────────────────────────────────────────────────
    @action(2, queues=st.sampled_from([("q",), ("q", "r")]), limit=LIMIT)
    def promote(self, queues: tuple[str, ...], limit: int) -> None:
        async def call(side: Side, _: Op) -> Any:
            return await side.drained(lambda each: side.backend.promote(queues, each), limit)

        self.same(f"promote({queues}, {limit})", call)
        self.look()

    @action(2, limit=LIMIT)
    def prune(self, limit: int) -> None:
        self.same(f"prune({limit})", lambda side, _: side.drained(side.backend.prune, limit))
        self.look()

    @action(7, by_ms=STEPS_MS)
    def advance(self, by_ms: int) -> None:
        self.same(f"advance({by_ms})", lambda side, _: side.backend.advance_clock(by_ms))
        self.look()

    # ── operating ─────────────────────────────────────────────────────────────────────────────────────────────────────
    @action(
        8,
        change=CHANGES,
        picks=st.lists(PICK, min_size=1, max_size=3),
        run_in_ms=st.sampled_from([-1, 0, 2_000]),
        also=MAYBE_ALSO,
    )
    def amend(self, change: Change, picks: list[int], run_in_ms: int, also: Also) -> None:
        if not self.ids:
            return
        fitting = FITTING.get(change.kind, ())
        if change.kind == "cancel" and picks[0] % 2:
            fitting = ("active",)
        where = Filter(ids=tuple({self.picked(pick, fitting): None for pick in picks}))
        self._amend(where, change, run_in_ms, also)

    @action(2, change=CHANGES, where=FILTERS, run_in_ms=st.sampled_from([0, 2_000]))
    def amend_what_matches(self, change: Change, where: dict[str, Any], run_in_ms: int) -> None:
        self._amend(Filter(**where), change, run_in_ms, Also())

    def _amend(self, where: Filter, change: Change, run_in_ms: int, also: Also) -> None:
        if change.kind == "run_at":
            change = replace(change, run_at_ms=self.now_ms() + run_in_ms)
        effects = self.effects(also)
        if change.kind == "delete":
            self.anew.update(job.id for job in effects.jobs)

        async def call(side: Side, op: Op) -> Any:
            amended = await side.backend.amend(op, where, change, None, 500, effects)
            return sorted(amended.changed), sorted(amended.skipped, key=repr), amended.cursor is None

        self.changes(f"amend({where}, {change}, {also})", call)

    @action(3, limits=st.lists(LIMITS, min_size=1, max_size=2), only=SOME_SETTINGS)
    def put_limits(self, limits: list[Limits], only: tuple[str, ...]) -> None:
        words = f"put_limits({limits}, only={only})"
        self.changes(words, lambda side, op: side.backend.put_limits(op, limits, only=only))

    @action(2)
    def lift_limits(self) -> None:
        limits = [Limits(queue=queue, lane=lane) for queue in "qr" for lane in (None, "", "t")]
        self.changes("put_limits(none)", lambda side, op: side.backend.put_limits(op, limits))

    @action(
        1,
        mode=st.sampled_from(["open", "open", "open", "draining", "filling", "frozen"]),
        skew=st.sampled_from([1, 1, 1, 1, 0, 2]),
    )
    def set_mode(self, mode: Any, skew: int) -> None:
        epoch = self.dumps[0]["namespace"]["epoch"] + skew

        async def call(side: Side, op: Op) -> Any:
            info = await side.backend.set_mode(op, mode, epoch)
            return info.mode, info.epoch, info.moved_to

        self.changes(f"set_mode({mode}, {epoch})", call)
        if mode != "open":
            self.enqueue([Spec()], 0)
            self._enqueue([Spec(), Spec(gate="g1")], Also(), 0)
            self._enqueue([Spec(gate="g2")], Also(jobs=(Spec(gate="g1"),)), 0)
            self._enqueue([Spec(), Spec(needs=((0, ("completed",)),))], Also(), 0)
            self.dequeue(0, None, 0)
            self.changes("thaw", partial(_switch, "open"))

    @action(1)
    def move_out_and_in(self) -> None:
        """Everything leaves the store and comes back: whatever happens next, nobody can tell."""
        self.changes("freeze", partial(_switch, "frozen"))
        self.changes("what is left over", self._follow_through)
        before = self.dumps[1]
        for part in PARTS:
            self.same(f"export {part}", partial(_export, part))
        for part in reversed(PARTS):
            self.do(f"drop {part}", partial(_drop, part))
        self.look()
        for part in PARTS:
            self.do(f"import {part}", partial(_import, part))  # jobs are not whole before their needs are there
        self.look()
        self.agree("states before and after a move", _unrated(before), _unrated(self.dumps[1]))
        self.changes("thaw", partial(_switch, "open"))

    async def _follow_through(self, side: Side, _: Op) -> None:
        while (await side.backend.promote((), 500)).more:
            pass

    # ── schedules ─────────────────────────────────────────────────────────────────────────────────────────────────────
    @action(
        2,
        name=st.sampled_from(["n", "n", "m"]),
        skew=st.sampled_from([0, 0, 0, 1]),
        is_deleted=st.sampled_from([False, False, True]),
    )
    def put_schedule(self, name: str, skew: int, is_deleted: bool) -> None:
        schedule = replace(self.schedule(name), spec=b"[%d]" % len(self.story))
        schedule = replace(schedule, version=schedule.version + skew)

        async def call(side: Side, op: Op) -> Any:
            saved = await side.backend.put_schedule(op, schedule, delete=is_deleted)
            return None if is_deleted else saved

        self.changes(f"put_schedule({schedule}, delete={is_deleted})", call)

    @action(
        3,
        name=st.sampled_from(["n", "n", "m"]),
        nominal_ms=st.sampled_from([1_000, 1_000, 2_000]),
        specs=st.lists(RICH, max_size=2),
        skew=st.sampled_from([0, 0, 0, 1]),
    )
    def fire(self, name: str, nominal_ms: int, specs: list[Spec], skew: int) -> None:
        if not self.schedule(name).version:
            self.put_schedule(name, 0, is_deleted=False)
        schedule = self.schedule(name)
        schedule = replace(schedule, version=schedule.version + skew)
        jobs = tuple(self.new_job(spec) for spec in specs)
        words = f"fire({name} v{schedule.version}, {nominal_ms}, {specs})"
        self.changes(words, lambda side, op: side.backend.fire(op, schedule, nominal_ms, jobs, nominal_ms + 1_000))

    def schedule(self, name: str) -> Schedule:
        """As it is now, or as it would be put for the first time."""
        found = {each["id"]: each for each in self.dumps[0]["schedules"]}
        return Schedule(**found[name]) if name in found else Schedule(id=name, spec=b"{}")

    # ── shared state ──────────────────────────────────────────────────────────────────────────────────────────────────
    @action(4, also=ALSO, channel=CHANNEL)
    def write_state(self, also: Also, channel: int) -> None:
        effects = self.effects(also)
        self.changes(f"write_state({also})", lambda side, op: side.backend.write_state(op, effects), channel)

    @action(2, holder=st.sampled_from(["me", "you"]), lease_ms=st.sampled_from([0, 1_000, 1_000]))
    def lock(self, holder: str, lease_ms: int) -> None:
        self.changes(f"lock({holder}, {lease_ms})", lambda side, op: side.backend.lock(op, "l", holder, lease_ms))

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────
    @action(1, where=FILTERS)
    def list_jobs(self, where: dict[str, Any]) -> None:
        async def call(side: Side, _: Op) -> Any:
            return [view.job.id for view in await side.listed(Filter(**where))]

        self.same(f"list_jobs({where})", call)

    @action(1, prefix=st.sampled_from(["", "k", "n"]), stream=st.sampled_from(["r", "audit"]), after=st.integers(0, 3))
    def scan(self, prefix: str, stream: str, after: int) -> None:
        self.same(f"scan({prefix})", lambda side, _: side.walk(lambda c: side.backend.scan_state(prefix, c, 1)))
        self.same(f"records({stream}, {after})", lambda side, _: side.backend.read_records(stream, after, 2))

    @action(1)
    def reconnect(self) -> None:
        """The store's process is started anew; what was acknowledged is still there."""

        async def call(side: Side, _: Op) -> None:
            if side.factory.again is not None:
                old, side.backend = side.backend, await side.factory.again(side.backend)
                await old.disconnect()

        self.same("reconnect", call)
        self.look()


class Machine(Actions):
    @rule(step=steps())
    def step(self, step: Step) -> None:
        getattr(self, step.name)(**step.arguments)


def outcome(end: End, job_id: str, token: str, effects: Effects) -> AnyOutcome:
    fields: dict[str, Any] = {
        "job_id": job_id,
        "completion_token": f"{token}x" if end.is_forged else token,
        "effects": effects,
    }
    match end.kind:
        case "ack":
            return Ack(**fields, result=b'"done"')
        case "retry":
            return Retry(**fields, error=b'"failed"', delay_ms=end.delay_ms)
        case "dead":
            return Dead(**fields, error=b'"fatal"', reason="fatal")
        case "snooze":
            return Snooze(**fields, delay_ms=end.delay_ms, reason="later")
        case "release":
            return Release(**fields)
        case "cancelled":
            return Cancelled(**fields, reason="asked")
        case _:
            return Keep(**fields)


def _unrated(dump: dict[str, Any]) -> dict[str, Any]:
    """Without what rates hold back: each begins anew."""
    jobs = {
        job_id: {**view, "blocked_by": [code for code in view["blocked_by"] if not code.startswith("rate:")]}
        for job_id, view in dump["jobs"].items()
    }
    return {**dump, "jobs": jobs}


async def _switch(mode: Mode, side: Side, op: Op) -> Any:
    epoch = (await side.backend.info()).epoch
    return (await side.backend.set_mode(op, mode, epoch + 1)).mode


def _export(part: Part, side: Side, _: Op) -> Any:
    return side.exported(part)


def _drop(part: Part, side: Side, op: Op) -> Any:
    return side.backend.drop_part(op, side.moved[part])


def _import(part: Part, side: Side, op: Op) -> Any:
    return side.backend.import_part(op, side.moved[part])

"""The seam on PostgreSQL: each verb is one function of the server, one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from msgspec.structs import replace

from psyqueue.backend import (
    NO_EFFECTS,
    Amended,
    AnyOutcome,
    Bound,
    Capabilities,
    Change,
    Done,
    Effects,
    Enqueued,
    Exported,
    Fetch,
    Filter,
    Holders,
    Info,
    Item,
    JobView,
    Limits,
    Lock,
    Mode,
    Moved,
    NewJob,
    Op,
    Page,
    Part,
    QueueInfo,
    Renewal,
    Schedule,
    Session,
    SessionInfo,
    SessionKeeper,
    SettleReply,
    Stored,
    Transaction,
)
from psyqueue.backend.bounds import (
    ITEMS_MAX,
    check_bodies,
    check_jobs,
    check_keys,
    check_limit,
    check_moved,
    check_outcomes,
)
from psyqueue.backend.losses import lost_error
from psyqueue.backend.reading import limits_over
from psyqueue.backends._postgres import binding, decoding, moving
from psyqueue.backends._postgres.client import Client
from psyqueue.backends._postgres.encoding import (
    Cargo,
    Outcomes,
    add_jobs,
    effects_of,
    filter_of,
    intake_of,
    json_text,
    limits_arrays,
    lone_of,
    place_of,
)
from psyqueue.backends._postgres.marks import Marks
from psyqueue.backends._postgres.older import older_steps_ended
from psyqueue.backends._postgres.options import PostgresOptions
from psyqueue.backends._postgres.schema import Release, this_release
from psyqueue.errors import InvalidState


class PostgresBackend:
    """All jobs in one schema of a database. Any number of processes and machines may use it."""

    def __init__(self, options: PostgresOptions, marks: Marks | None = None, *, release: Release | None = None) -> None:
        """`release`: which one to be, for tests of two side by side; by default this one."""
        self.options = options
        self._client = Client(options, release or this_release())
        self._marks = marks or Marks()
        self._capabilities = Capabilities(
            enqueues_at_once=2,
            wakes_across_processes=options.prepared,
            binds=binding.BINDS,
            has_transactions=True,
            test_clock=options.test_clock,
        )

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def connect(self) -> Info:
        await self._client.connect()
        try:
            return await self.info()
        except BaseException:
            await self._client.disconnect()
            raise

    async def disconnect(self) -> None:
        await self._client.disconnect()

    async def info(self) -> Info:
        return await self._client.info()

    # ── the hot path ──────────────────────────────────────────────────────────────────────────────────────────────────
    async def enqueue(self, op: Op, jobs: Sequence[NewJob], effects: Effects = NO_EFFECTS) -> tuple[Enqueued, ...]:
        check_jobs(jobs, effects)
        if (lone := lone_of(jobs, effects)) is not None:
            return decoding.enqueued_of(await self._once("enqueue_lone", op, *lone), jobs)
        return decoding.enqueued_of(await self._once("enqueue", op, *intake_of(jobs, effects)), jobs)

    async def settle(
        self, op: Op, session_id: str, outcomes: Sequence[AnyOutcome], fetch: Fetch | None = None
    ) -> SettleReply:
        check_outcomes(outcomes, fetch)
        sent = Outcomes(outcomes)
        seed = fetch.token_seed if fetch is not None else ""
        known = self._marks.asked(fetch) if fetch is not None else None
        if fetch is not None and not outcomes and known is None and fetch.count > 0 and len(fetch.queues) == 1:
            name, wish = "dequeue_lone", (fetch.queues[0], fetch.count, seed, fetch.bytes_max, fetch.counts)
        elif fetch is not None:
            asked = (fetch.queues, fetch.count, seed, fetch.bytes_max, known, fetch.counts)
            name, wish = "settle", (*sent.arguments, *asked)
        else:
            name, wish = "settle", (*sent.arguments, None, 0, seed, 0, None, False)
        rows = await self._client.rows(name, op.client, op.channel, op.turn, session_id, *wish)
        reply, marks = decoding.settled_of(rows, outcomes, sent, seed)
        if fetch is None or fetch.count == 0:
            return reply
        whole_in_ms = self._marks.noted(fetch.queues, marks)
        if whole_in_ms is None or len(reply.deliveries) >= fetch.count:
            return reply
        next_ms = whole_in_ms if reply.next_due_in_ms is None else min(whole_in_ms, reply.next_due_in_ms)
        return replace(reply, next_due_in_ms=next_ms)

    async def wait(self, queues: Sequence[str], job_ids: Sequence[str], timeout_ms: int) -> bool:
        return await self._client.listening.wait(queues, job_ids, timeout_ms)

    def bind(self, connection: object) -> Bound:
        return binding.bind(self._client, connection)

    async def begin(self) -> Transaction:
        return await self._client.begin()

    # ── worker sessions ───────────────────────────────────────────────────────────────────────────────────────────────
    async def open_session(self, op: Op, session: Session) -> Renewal:
        # The store writes the rest of it when the session is lost: the attempt and the instant.
        lost = lost_error(session.worker, session.id, 0, 0).partition(b',"attempt":')[0]
        about = (session.id, session.worker, session.queues, session.lease_ms, session.meta, lost)
        return decoding.renewal_of(await self._once("open_session", op, *about))

    def keeper(self) -> SessionKeeper:
        return self._client.keeper()

    async def close_session(self, op: Op, session_id: str) -> Done:
        return decoding.done_of(await self._once("close_session", op, session_id, ITEMS_MAX))

    # ── bounded maintenance ───────────────────────────────────────────────────────────────────────────────────────────
    async def reap(self, limit: int) -> Done:
        check_limit(limit)
        return decoding.done_of(await self._client.value("reap", limit))

    async def promote(self, queues: Sequence[str], limit: int) -> Done:
        check_limit(limit)
        return decoding.done_of(await self._client.value("promote", queues, limit))

    async def prune(self, limit: int) -> Done:
        check_limit(limit)
        return decoding.done_of(await self._client.value("prune", limit))

    # ── reading and operating ─────────────────────────────────────────────────────────────────────────────────────────
    async def get(self, ids: Sequence[str]) -> tuple[JobView | None, ...]:
        if not ids:
            return ()
        found = {row["id"]: row for row in await self._client.rows("get", list(dict.fromkeys(ids)))}
        return tuple(decoding.view_of(found[each]) if each in found else None for each in ids)

    async def holders(self, unique: Sequence[str], idempotency: Sequence[str]) -> Holders:
        check_keys(unique, idempotency)
        return decoding.holders_of((await self._client.rows("holders", unique, idempotency))[0])

    async def list_jobs(self, where: Filter, cursor: str | None, limit: int) -> Page:
        check_limit(limit)
        return decoding.page_of(await self._client.rows("list_jobs", filter_of(where), place_of(cursor), limit))

    async def queues(self, prefix: str, cursor: str | None, limit: int) -> tuple[tuple[QueueInfo, ...], str | None]:
        check_limit(limit)
        found = await self._client.rows("queues", prefix, cursor, limit + 1)
        page = tuple(decoding.queue_of(row) for row in found[:limit])
        return page, page[-1].queue if len(found) > limit else None

    async def lane_limits(
        self, queue: str, prefix: str, cursor: str | None, limit: int
    ) -> tuple[tuple[Limits, ...], str | None]:
        check_limit(limit)
        found = await self._client.rows("lane_limits", queue, prefix, cursor, limit + 1)
        page = tuple(decoding.limits_of(row) for row in found[:limit])
        return page, page[-1].lane if len(found) > limit else None

    async def sessions(self, cursor: str | None, limit: int) -> tuple[tuple[SessionInfo, ...], str | None]:
        check_limit(limit)
        found = await self._client.rows("sessions", cursor, limit + 1)
        page = tuple(decoding.session_of(row) for row in found[:limit])
        return page, page[-1].session.id if len(found) > limit else None

    async def amend(
        self, op: Op, where: Filter, change: Change, cursor: str | None, limit: int, effects: Effects = NO_EFFECTS
    ) -> Amended:
        check_limit(limit)
        check_jobs((), effects)
        cargo = Cargo()
        how = (change.kind, change.priority, change.run_at_ms, change.result, change.reason)
        also = effects_of(effects, cargo)
        reply = await self._once(
            "amend", op, filter_of(where), *how, place_of(cursor), limit, also, cargo.parts or None, cargo.keys
        )
        return decoding.amended_of(reply)

    async def put_limits(
        self, op: Op, limits: Sequence[Limits], effects: Effects = NO_EFFECTS, *, only: Sequence[str] = ()
    ) -> None:
        check_jobs((), effects)
        cargo = Cargo()
        also = effects_of(effects, cargo)
        whole = [limits_over(None, each, only) for each in limits]
        await self._once("put_limits", op, *limits_arrays(whole), list(only), also, cargo.parts or None, cargo.keys)

    # ── schedules ─────────────────────────────────────────────────────────────────────────────────────────────────────
    async def put_schedule(self, op: Op, schedule: Schedule, *, delete: bool = False) -> Schedule:
        about = (schedule.spec, schedule.next_at_ms, schedule.last_nominal_ms, schedule.paused)
        version = await self._once("put_schedule", op, schedule.id, schedule.version, delete, *about)
        return Schedule(
            id=schedule.id,
            spec=schedule.spec,
            version=int(version),
            next_at_ms=schedule.next_at_ms,
            last_nominal_ms=schedule.last_nominal_ms,
            paused=schedule.paused,
        )

    async def list_schedules(self, cursor: str | None, limit: int) -> tuple[tuple[Schedule, ...], str | None]:
        check_limit(limit)
        found = await self._client.rows("list_schedules", cursor, limit + 1)
        page = tuple(decoding.schedule_of(row) for row in found[:limit])
        return page, page[-1].id if len(found) > limit else None

    async def fire(
        self, op: Op, schedule: Schedule, nominal_ms: int, jobs: Sequence[NewJob], next_at_ms: int | None
    ) -> bool:
        check_jobs(jobs, NO_EFFECTS)
        cargo = Cargo()
        made = json_text(add_jobs(jobs, cargo))
        when = (schedule.id, schedule.version, nominal_ms, next_at_ms)
        return bool(await self._once("fire", op, *when, made, cargo.parts, cargo.keys) == "t")

    # ── shared memory of plugins ──────────────────────────────────────────────────────────────────────────────────────
    async def write_state(self, op: Op, effects: Effects) -> tuple[int, ...]:
        check_jobs((), effects)
        cargo = Cargo()
        also = effects_of(effects, cargo) or "{}"
        return decoding.numbers_of(await self._once("write_state", op, also, cargo.parts, cargo.keys))

    async def read_state(self, keys: Sequence[str]) -> tuple[Item | None, ...]:
        found = {row[0]: decoding.item_of(row) for row in await self._client.rows("read_state", keys)}
        return tuple(found.get(key) for key in keys)

    async def scan_state(self, prefix: str, cursor: str | None, limit: int) -> tuple[tuple[Item, ...], str | None]:
        check_limit(limit)
        found = await self._client.rows("scan_state", prefix, cursor, limit + 1)
        page = tuple(decoding.item_of(row) for row in found[:limit])
        return page, page[-1].key if len(found) > limit else None

    async def read_records(self, stream: str, after_seq: int, limit: int) -> tuple[Stored, ...]:
        check_limit(limit)
        return tuple(
            decoding.stored_of(row) for row in await self._client.rows("read_records", stream, after_seq, limit)
        )

    async def lock(self, op: Op, name: str, holder: str, lease_ms: int) -> Lock:
        return decoding.lock_of(await self._once("lock", op, name, holder, lease_ms))

    # ── best-effort messages ──────────────────────────────────────────────────────────────────────────────────────────
    async def publish(self, topic: str, bodies: Sequence[bytes]) -> None:
        check_bodies(bodies)
        await self._client.listening.publish(topic, bodies)

    def subscribe(self, topics: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        return self._client.listening.subscribe(topics)

    # ── the fence ─────────────────────────────────────────────────────────────────────────────────────────────────────
    async def set_mode(self, op: Op, mode: Mode, epoch: int, moved_to: str = "") -> Info:
        await self._once("set_mode", op, mode, epoch, moved_to)
        if mode != "open":
            await older_steps_ended(self._client, self.options.statement_timeout_ms)
        return await self.info()

    # ── moving house ──────────────────────────────────────────────────────────────────────────────────────────────────
    async def export_part(self, part: Part, cursor: str | None, limit: int) -> Exported:
        check_limit(limit)
        place = moving.place_in(part, cursor)
        return moving.page_of(part, await self._client.rows("export_part", part, place, limit))

    async def import_part(self, op: Op, items: Sequence[Moved]) -> int:
        check_moved(items)
        return int(await self._once("import_part", op, *moving.import_arguments(items)))

    async def drop_part(self, op: Op, items: Sequence[Moved]) -> int:
        check_moved(items)
        return int(await self._once("drop_part", op, *moving.drop_arguments(items)))

    # ── proof ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def check(self, cursor: str | None, limit: int) -> tuple[tuple[str, ...], str | None]:
        return decoding.checked_of(await self._client.value("check", cursor, limit))

    async def advance_clock(self, by_ms: int) -> None:
        if not self.options.test_clock:
            raise InvalidState("this store was not opened with test_clock=True: its clock cannot be moved")
        await self._client.value("advance_clock", by_ms)

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def _once(self, name: str, op: Op, *args: Any) -> Any:
        """A verb with an op and one value as reply."""
        return await self._client.value(name, op.client, op.channel, op.turn, *args)

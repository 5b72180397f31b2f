"""The seam on Redis and Valkey: each verb is one script, one atomic step."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from psyqueue.backend import (
    NO_EFFECTS,
    SETTINGS,
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
    CALL_BYTES_MAX,
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
from psyqueue.backend.transactions import no_transactions
from psyqueue.backends._redis import decoding
from psyqueue.backends._redis.client import Client
from psyqueue.backends._redis.encoding import (
    Cargo,
    add_effects,
    add_job,
    add_outcomes,
    cursor_of,
    filter_of,
    flat_jobs,
    op_of,
    pack,
    settings_of,
    wish_of,
)
from psyqueue.backends._redis.moving import add_dropped, add_moved, exported_of, position_of
from psyqueue.backends._redis.options import RedisOptions
from psyqueue.errors import InvalidOption, InvalidState


class RedisBackend:
    """All jobs below one key prefix of a Redis or Valkey server. Any number of processes and machines may use it."""

    def __init__(self, options: RedisOptions) -> None:
        self._options = options
        self._client = Client(options)
        self._capabilities = Capabilities(enqueues_at_once=2, test_clock=options.test_clock)

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def options(self) -> RedisOptions:
        """Where it is; for whoever looks at the server without opening the store."""
        return self._options

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def connect(self) -> Info:
        await self._client.connect()
        return await self.info()

    async def disconnect(self) -> None:
        await self._client.disconnect()

    async def info(self) -> Info:
        return await self._client.info()

    # ── the hot path ──────────────────────────────────────────────────────────────────────────────────────────────────
    async def enqueue(self, op: Op, jobs: Sequence[NewJob], effects: Effects = NO_EFFECTS) -> tuple[Enqueued, ...]:
        check_jobs(jobs, effects)
        flat = None if effects else flat_jobs(jobs)
        if flat is not None:
            reply = await self._once("enqueue", op, *flat)
        else:
            cargo = Cargo(4)
            headers = pack([add_job(job, cargo) for job in jobs])
            also = pack(add_effects(effects, cargo))
            reply = await self._once("enqueue", op, headers, also, *cargo.arguments)
        return decoding.enqueued_of(reply, jobs)

    async def settle(
        self, op: Op, session_id: str, outcomes: Sequence[AnyOutcome], fetch: Fetch | None = None
    ) -> SettleReply:
        check_outcomes(outcomes, fetch)
        cargo = Cargo(5)
        headers = pack(add_outcomes(outcomes, cargo))
        if fetch is not None:
            self._client.signals.looked(fetch.queues)
        reply = await self._once("settle", op, session_id, headers, wish_of(fetch), *cargo.arguments)
        return decoding.settled_of(reply, outcomes, fetch.token_seed if fetch is not None else "")

    async def wait(self, queues: Sequence[str], job_ids: Sequence[str], timeout_ms: int) -> bool:
        return await self._client.signals.wait(queues, job_ids, timeout_ms)

    def bind(self, connection: object) -> Bound:
        raise InvalidOption("conn", connection, "Redis has no transactions that a job could join", "Leave conn out")

    async def begin(self) -> Transaction:
        raise no_transactions("Redis")

    # ── worker sessions ───────────────────────────────────────────────────────────────────────────────────────────────
    async def open_session(self, op: Op, session: Session) -> Renewal:
        # The store writes the rest of it when the session is lost: the attempt and the instant.
        lost = lost_error(session.worker, session.id, 0, 0).partition(b',"attempt":')[0]
        reply = await self._once(
            "open_session",
            op,
            session.id,
            session.worker,
            pack(session.queues),
            session.lease_ms,
            session.meta,
            lost,
        )
        return decoding.renewal_of(reply)

    def keeper(self) -> SessionKeeper:
        return self._client.keeper()

    async def close_session(self, op: Op, session_id: str) -> Done:
        return decoding.done_of(await self._once("close_session", op, session_id, ITEMS_MAX))

    # ── bounded maintenance ───────────────────────────────────────────────────────────────────────────────────────────
    async def reap(self, limit: int) -> Done:
        check_limit(limit)
        return decoding.done_of(await self._run("reap", limit))

    async def promote(self, queues: Sequence[str], limit: int) -> Done:
        check_limit(limit)
        return decoding.done_of(await self._run("promote", pack(queues), limit))

    async def prune(self, limit: int) -> Done:
        check_limit(limit)
        return decoding.done_of(await self._run("prune", limit))

    # ── reading and operating ─────────────────────────────────────────────────────────────────────────────────────────
    async def get(self, ids: Sequence[str]) -> tuple[JobView | None, ...]:
        if not ids:
            return ()
        found = await self._run("get", *ids)
        return tuple(None if each is None else decoding.view_of(each) for each in found)

    async def holders(self, unique: Sequence[str], idempotency: Sequence[str]) -> Holders:
        check_keys(unique, idempotency)
        return decoding.holders_of(await self._run("holders", pack(unique), pack(idempotency)))

    async def list_jobs(self, where: Filter, cursor: str | None, limit: int) -> Page:
        check_limit(limit)
        return decoding.page_of(await self._run("list_jobs", filter_of(where), cursor_of(cursor, where), limit, "", ""))

    async def queues(self, prefix: str, cursor: str | None, limit: int) -> tuple[tuple[QueueInfo, ...], str | None]:
        check_limit(limit)
        return decoding.queues_of(await self._run("queues", prefix, cursor or "", limit))

    async def lane_limits(
        self, queue: str, prefix: str, cursor: str | None, limit: int
    ) -> tuple[tuple[Limits, ...], str | None]:
        check_limit(limit)
        place = ("", "") if cursor is None else ("1", cursor)
        return decoding.lane_limits_of(queue, await self._run("lane_limits", queue, prefix, *place, limit))

    async def sessions(self, cursor: str | None, limit: int) -> tuple[tuple[SessionInfo, ...], str | None]:
        check_limit(limit)
        return decoding.sessions_of(await self._run("sessions", cursor or "", limit))

    async def amend(
        self, op: Op, where: Filter, change: Change, cursor: str | None, limit: int, effects: Effects = NO_EFFECTS
    ) -> Amended:
        check_limit(limit)
        check_jobs((), effects)
        packed = filter_of(where)
        ids: Sequence[str | bytes] = tuple(dict.fromkeys(where.ids))
        next_cursor: bytes | None = None
        if not where.ids:
            # Found first and changed in a second step, which looks at each of them again.
            backward = "" if change.kind in ("replay", "run_at", "unhold") else "1"
            found, next_cursor = await self._run("list_jobs", packed, cursor_of(cursor, where), limit, "1", backward)
            ids = [each.decode() for each in found]
        cargo = Cargo(8)
        also = pack(add_effects(effects, cargo))
        words = pack((change.kind, change.priority, change.run_at_ms, change.reason))
        reply = await self._once(
            "amend", op, packed, words, pack(ids), also, next_cursor or b"", change.result, *cargo.arguments
        )
        return decoding.amended_of(reply)

    async def put_limits(
        self, op: Op, limits: Sequence[Limits], effects: Effects = NO_EFFECTS, *, only: Sequence[str] = ()
    ) -> None:
        check_jobs((), effects)
        cargo = Cargo(5)
        also = pack(add_effects(effects, cargo))
        whole = [limits_over(None, each, only) for each in limits]
        settings = [(each.queue, False if each.lane is None else each.lane, settings_of(each)) for each in whole]
        places = [SETTINGS.index(name) + 1 for name in only]
        await self._once("put_limits", op, pack(settings), also, pack(places), *cargo.arguments)

    # ── schedules ─────────────────────────────────────────────────────────────────────────────────────────────────────
    async def put_schedule(self, op: Op, schedule: Schedule, *, delete: bool = False) -> Schedule:
        next_at_ms = False if schedule.next_at_ms is None else schedule.next_at_ms
        fields = pack((next_at_ms, schedule.last_nominal_ms, schedule.paused))
        is_deleted = "1" if delete else ""
        reply = await self._once("put_schedule", op, schedule.id, schedule.version, is_deleted, fields, schedule.spec)
        return Schedule(
            id=schedule.id,
            spec=schedule.spec,
            version=reply[0],
            next_at_ms=schedule.next_at_ms,
            last_nominal_ms=schedule.last_nominal_ms,
            paused=schedule.paused,
        )

    async def list_schedules(self, cursor: str | None, limit: int) -> tuple[tuple[Schedule, ...], str | None]:
        check_limit(limit)
        return decoding.schedules_of(await self._run("list_schedules", cursor or "", limit))

    async def fire(
        self, op: Op, schedule: Schedule, nominal_ms: int, jobs: Sequence[NewJob], next_at_ms: int | None
    ) -> bool:
        check_jobs(jobs, NO_EFFECTS)
        cargo = Cargo(7)
        headers = pack([add_job(job, cargo) for job in jobs])
        next_text = "" if next_at_ms is None else next_at_ms
        reply = await self._once(
            "fire", op, schedule.id, schedule.version, nominal_ms, next_text, headers, *cargo.arguments
        )
        return bool(reply[0])

    # ── shared memory of plugins ──────────────────────────────────────────────────────────────────────────────────────
    async def write_state(self, op: Op, effects: Effects) -> tuple[int, ...]:
        check_jobs((), effects)
        cargo = Cargo(3)
        header = add_effects(effects, cargo) or ((), (), 3, ())
        return tuple([int(each) for each in await self._once("write_state", op, pack(header), *cargo.arguments)])

    async def read_state(self, keys: Sequence[str]) -> tuple[Item | None, ...]:
        found = await self._run("read_state", *keys)
        return tuple(decoding.item_of(key, each) for key, each in zip(keys, found, strict=True))

    async def scan_state(self, prefix: str, cursor: str | None, limit: int) -> tuple[tuple[Item, ...], str | None]:
        check_limit(limit)
        return decoding.items_of(await self._run("scan_state", prefix, cursor or "", limit))

    async def read_records(self, stream: str, after_seq: int, limit: int) -> tuple[Stored, ...]:
        check_limit(limit)
        return decoding.records_of(await self._run("read_records", stream, after_seq, limit))

    async def lock(self, op: Op, name: str, holder: str, lease_ms: int) -> Lock:
        return decoding.lock_of(await self._once("lock", op, name, holder, lease_ms))

    # ── best-effort messages ──────────────────────────────────────────────────────────────────────────────────────────
    async def publish(self, topic: str, bodies: Sequence[bytes]) -> None:
        check_bodies(bodies)
        await self._client.topics.publish(topic, bodies)

    def subscribe(self, topics: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        return self._client.topics.subscribe(topics)

    # ── the fence of the namespace ────────────────────────────────────────────────────────────────────────────────────
    async def set_mode(self, op: Op, mode: Mode, epoch: int, moved_to: str = "") -> Info:
        await self._once("set_mode", op, mode, epoch, moved_to)
        return await self.info()

    # ── moving house ──────────────────────────────────────────────────────────────────────────────────────────────────
    async def export_part(self, part: Part, cursor: str | None, limit: int) -> Exported:
        check_limit(limit)
        return exported_of(part, await self._run("export_part", part, position_of(part, cursor), limit, CALL_BYTES_MAX))

    async def import_part(self, op: Op, items: Sequence[Moved]) -> int:
        check_moved(items)
        cargo = Cargo(3)
        headers = pack(add_moved(items, cargo))
        return int(await self._once("import_part", op, headers, *cargo.arguments))

    async def drop_part(self, op: Op, items: Sequence[Moved]) -> int:
        check_moved(items)
        cargo = Cargo(3)
        headers = pack(add_dropped(items, cargo))
        return int(await self._once("drop_part", op, headers, *cargo.arguments))

    # ── proof ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def check(self, cursor: str | None, limit: int) -> tuple[tuple[str, ...], str | None]:
        words, next_cursor = await self._run("check", cursor_of(cursor, Filter()), limit)
        return tuple(each.decode() for each in words), None if next_cursor is None else next_cursor.decode()

    async def advance_clock(self, by_ms: int) -> None:
        if not self._options.test_clock:
            raise InvalidState("this store was not opened with test_clock=True: its clock cannot be moved")
        await self._run("advance_clock", by_ms)

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def _run(self, name: str, *args: bytes | str | int) -> Any:
        return await self._client.run(name, *args)

    async def _once(self, name: str, op: Op, *args: bytes | str | int) -> Any:
        """A verb with an op. Raises what the script refused."""
        return decoding.unless_refused(await self._client.run(name, op_of(op), *args))

"""The two stores of a race, and what their replies look like when everything that may differ is taken out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from psyqueue.backend import BackendAdapter, Delivery, Filter, JobView, Moved, Op, Part, QueueInfo, SettleReply
from psyqueue.errors import Refused
from psyqueue.job import STATUSES
from psyqueue.testing.conformance import BackendFactory

PAGE = 7
"""Small, so that every listing has several pages."""
ERROR_FACTS = ("existing_job_id", "key", "found", "retry_after", "parent_id", "moved_to")
_NO_NUMBERS = {"number": 0, "ready_number": 0, "made": 0, "ready": 0}
STREAMS = ("r", "audit")
STATE_KEYS = ("k1", "k2", "n1", "t1")
UNIQUE_KEYS, IDEMPOTENCY_KEYS = ("u1", "u2"), ("i1",)
Call = Callable[["Side", Op], Awaitable[Any]]


class Refusal(msgspec.Struct, frozen=True):
    """What matters of an error: its class and the values that callers act on. The words are each store's own."""

    name: str
    facts: dict[str, Any]


class Side:
    """One store of the race. Completion tokens get numbers in the order in which they appear."""

    def __init__(self, name: str, factory: BackendFactory, backend: BackendAdapter) -> None:
        self.name = name
        self.factory = factory
        self.backend = backend
        self.tokens: dict[str, int] = {}
        self.moved: dict[Part, list[Moved]] = {}

    def number(self, token: str) -> int:
        return self.tokens.setdefault(token, len(self.tokens))

    async def answer(self, call: Call, op: Op) -> tuple[Any, Any]:
        """(the raw reply or None, the reply in a form that can be compared)."""
        try:
            raw = await call(self, op)
        except Refused as exc:
            facts = {fact: getattr(exc, fact) for fact in ERROR_FACTS if hasattr(exc, fact)}
            return None, Refusal(type(exc).__name__, facts)
        return raw, self.plain(raw)

    def plain(self, value: Any) -> Any:
        """`value` as built-in types; what has no promised order is sorted."""
        match value:
            case Delivery():
                fields = msgspec.structs.asdict(value)
                return {**fields, "completion_token": self.number(value.completion_token)}
            case JobView():
                fields = msgspec.structs.asdict(value)
                return {**fields, "blocked_by": sorted(value.blocked_by)}
            case QueueInfo():
                fields = msgspec.structs.asdict(value)
                return {**fields, "counts": {status: count for status, count in value.counts.items() if count}}
            case SettleReply():
                fields = {name: self.plain(each) for name, each in msgspec.structs.asdict(value).items()}
                return {**fields, "cancel_requested": sorted(value.cancel_requested)}
            case msgspec.Struct():
                return {name: self.plain(each) for name, each in msgspec.structs.asdict(value).items()}
            case tuple() | list():
                return [self.plain(each) for each in value]
            case _:
                return value

    # ── walks ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def walk(self, page: Callable[[str | None], Awaitable[tuple[tuple[Any, ...], str | None]]]) -> list[Any]:
        found: list[Any] = []
        cursor: str | None = None
        while True:
            items, cursor = await page(cursor)
            assert len(items) <= PAGE, f"{self.name}: a page of {len(items)}, asked for {PAGE}"
            found += items
            if cursor is None:
                return found

    async def exported(self, part: Part) -> list[Any]:
        """What was exported, kept as it came; the reply is without the numbers, which are each store's own."""

        async def page(cursor: str | None) -> tuple[tuple[Any, ...], str | None]:
            found = await self.backend.export_part(part, cursor, PAGE)
            return found.items, found.cursor

        self.moved[part] = await self.walk(page)
        unnumbered = [{**self.plain(item), **_NO_NUMBERS} for item in self.moved[part]]
        return sorted(unnumbered, key=repr)

    async def listed(self, where: Filter) -> list[JobView]:
        """Every job of a listing; the promised order is checked here, the rest of it is the store's own."""

        async def page(cursor: str | None) -> tuple[tuple[Any, ...], str | None]:
            found = await self.backend.list_jobs(where, cursor, PAGE)
            return found.jobs, found.cursor

        views = await self.walk(page)
        places = [(view.job.queue, STATUSES.index(view.status)) for view in views]
        assert places == sorted(places), f"{self.name}: listed out of order: {places}"
        ids = [view.job.id for view in views]
        assert len(ids) == len(set(ids)), f"{self.name}: listed twice: {ids}"
        return sorted(views, key=lambda view: view.job.id)

    async def lanes_of(self, queue: str) -> list[Any]:
        """Settings of its lanes."""
        return await self.walk(lambda cursor: self.backend.lane_limits(queue, "", cursor, PAGE))

    async def drained(self, verb: Callable[[int], Awaitable[Any]], limit: int) -> list[str]:
        """Bounded maintenance until nothing is left: which step takes what is not promised."""
        ids: list[str] = []
        for _ in range(200):
            done = await verb(limit)
            assert len(done.ids) <= 2 * limit, f"{self.name}: {len(done.ids)} ids with limit {limit}"
            ids += done.ids
            if not done.more:
                return sorted(ids)
        raise AssertionError(f"{self.name}: there is always more")

    # ── everything ────────────────────────────────────────────────────────────────────────────────────────────────────
    async def dump(self, ids: tuple[str, ...]) -> dict[str, Any]:
        """All that can be seen of the store. Ready numbers become ranks: only their order is promised."""
        backend = self.backend
        views = await backend.get(ids)
        seen = {job_id: self.plain(view) for job_id, view in zip(ids, views, strict=True) if view is not None}
        _rank(seen)
        items = await backend.read_state(STATE_KEYS)
        info = await backend.info()
        return {
            "jobs": seen,
            "queues": {each.queue: self.plain(each) for each in await self.walk(lambda c: backend.queues("", c, PAGE))},
            "lanes": [self.plain(await self.lanes_of(queue)) for queue in ("q", "r")],
            "state": {key: self.plain(item) for key, item in zip(STATE_KEYS, items, strict=True) if item is not None},
            "holders": self.plain(await backend.holders(UNIQUE_KEYS, IDEMPOTENCY_KEYS)),
            "sessions": self.plain(await self.walk(lambda c: backend.sessions(c, PAGE))),
            "schedules": self.plain(await self.walk(lambda c: backend.list_schedules(c, PAGE))),
            "records": {name: self.plain(await backend.read_records(name, 0, 500)) for name in STREAMS},
            "namespace": {"mode": info.mode, "epoch": info.epoch, "moved_to": info.moved_to, "now_ms": info.now_ms},
            "broken": await self.walk_check(),
        }

    async def walk_check(self) -> list[str]:
        problems: list[str] = []
        cursor: str | None = None
        while True:
            words, cursor = await self.backend.check(cursor, 500)
            problems += words
            if cursor is None:
                return problems


def _rank(views: Mapping[str, dict[str, Any]]) -> None:
    lines: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for view in views.values():
        if view["status"] == "pending":
            job = view["job"]
            lines.setdefault((job.queue, job.lane, job.priority), []).append(view)
        else:
            view["ready_number"] = None
    for line in lines.values():
        for rank, view in enumerate(sorted(line, key=lambda view: view["ready_number"])):
            view["ready_number"] = rank


def differences(left: Any, right: Any, path: str = "") -> list[str]:
    """Where two plain values differ, one line each."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        found: list[str] = []
        for key in [*left, *(key for key in right if key not in left)]:
            if key not in left or key not in right:
                missing = "the model" if key not in left else "the store"
                found.append(f"{path}.{key}: not in {missing}: {(left if key in left else right)[key]!r}")
            else:
                found += differences(left[key], right[key], f"{path}.{key}")
        return found
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        return [
            line
            for number, pair in enumerate(zip(left, right, strict=True))
            for line in differences(*pair, f"{path}[{number}]")
        ]
    return [] if left == right else [f"{path}: model {left!r}, store {right!r}"]

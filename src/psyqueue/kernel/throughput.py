"""How much gets done, for everybody who looks: each worker counts the runs that ended, and adds them up in the store.

The counts of jobs cannot tell: on a busy queue, retention deletes what ended as fast as it ends. The sums are of spans
of time by the store's clock, and run out by themselves; nothing depends on them. A worker that is killed takes those of
its last `WRITE_MS` with it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec import Struct

from psyqueue.backend import AnyOutcome, Effects, Item, Retry, Settled, StateWrite
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.backend.compose import every_page
from psyqueue.errors import NamespaceFrozen, StoreError
from psyqueue.job import TERMINAL, Status

if TYPE_CHECKING:
    from psyqueue.backend import BackendAdapter
    from psyqueue.kernel.core import Core
    from psyqueue.kernel.slots import Entry

log: logging.Logger = logging.getLogger(__name__)

WRITE_MS: Final = 2_000
SPAN_MS: Final = 10_000
"""For rates, by queue."""
SPANS: Final = 2
"""A rate is of so many whole spans: those before the one that goes on."""
KEPT_MS: Final = 120_000
MINUTE_MS: Final = 60_000
"""For a history, of all queues together."""
MINUTES_KEPT: Final = 24 * 60
CLOCK_MS: Final = 60_000
"""So often the store is asked for its clock."""
RETRIED: Final = "retried"
ENDED: Final = ("completed", "dead", "cancelled")

Ended: TypeAlias = "tuple[str, Status | None, type[AnyOutcome]]"
"""Its queue, what the job is now, and the outcome of the run."""


class Throughput:
    """Of one worker. `note` is called for each batch of outcomes that the store took, `work` writes now and then."""

    def __init__(self, core: Core, give_up_ms: float) -> None:
        self._core = core
        self._channel = core.new_channel(give_up_ms)
        self._counts: dict[int, Counter[Ended]] = {}
        self._ahead_ms = 0
        """The store's clock, of this process's."""
        self._asked_ms: float | None = None

    def note(self, entries: Sequence[Entry], settled: Sequence[Settled]) -> None:
        """Runs, and what became of each; called for every batch, so what it means is found out when it is written."""
        span = (self._core.clock.now_ms() + self._ahead_ms) // SPAN_MS
        counts = self._counts.get(span)
        if counts is None:
            counts = self._counts[span] = Counter()
        counts.update(
            [
                (run.delivery.queue, each.status, outcome.__class__)
                for (run, outcome), each in zip(entries, settled, strict=True)
                if each.verdict == "ok"
            ]
        )

    async def work(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._ask_clock()
            await self._core.clock.sleep_ms(WRITE_MS)
            await self.write()

    async def write(self) -> None:
        """Add what was counted. What the store does not take is let go: nothing is worth to wait for it."""
        counts, self._counts = self._counts, {}
        writes = list(_writes(counts))
        try:
            for at in range(0, len(writes), ITEMS_MAX):
                effects = Effects(writes=tuple(writes[at : at + ITEMS_MAX]))
                await self._channel.run(lambda op, effects=effects: self._core.backend.write_state(op, effects))  # type: ignore[misc]
        except (StoreError, NamespaceFrozen) as exc:
            log.debug("what was done is not counted", extra={"error": str(exc)})

    async def _ask_clock(self) -> None:
        now_ms = self._core.clock.mono_ms()
        if self._asked_ms is not None and now_ms - self._asked_ms < CLOCK_MS:
            return
        try:
            store_ms = (await self._core.backend.info()).now_ms
        except StoreError:
            return
        self._asked_ms = now_ms
        self._ahead_ms = store_ms - self._core.clock.now_ms()


def _writes(counts: Mapping[int, Counter[Ended]]) -> Iterable[StateWrite]:
    minutes: Counter[tuple[int, str]] = Counter()
    for span, ended in counts.items():
        for (queue, status, outcome), number in ended.items():
            kind: str | None = status if status in TERMINAL else RETRIED if outcome is Retry else None
            if kind is not None:
                minutes[span * SPAN_MS // MINUTE_MS, kind] += number
                yield StateWrite(kind="add", key=f"{_span_key(span)}{kind}:{queue}", number=number, ttl_ms=KEPT_MS)
    for (minute, kind), number in minutes.items():
        key = f"{_hour_key(minute // 60)}{minute}:{kind}"
        yield StateWrite(kind="add", key=key, number=number, ttl_ms=(MINUTES_KEPT + 1) * MINUTE_MS)


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────
class Rates(Struct, frozen=True):
    """Runs that ended a second, by queue and kind: completed, dead, cancelled, or "retried"."""

    of_queues: dict[tuple[str, str], float]

    def of(self, queue: str, kinds: Iterable[str] = ENDED) -> float:
        """Of jobs that ended, or of some kinds."""
        return round(sum(self.of_queues.get((queue, kind), 0.0) for kind in kinds), 1)


class Minute(Struct, frozen=True, kw_only=True):
    """What was done in all queues within a minute that began at `at_ms`, by the store's clock."""

    at_ms: int
    completed: int
    retried: int
    dead: int


async def rates_at(backend: BackendAdapter, now_ms: int) -> Rates:
    """Over the last whole spans before `now_ms`, the store's clock. Raises StoreError."""
    last = now_ms // SPAN_MS
    sums: Counter[tuple[str, str]] = Counter()
    for span in range(last - SPANS, last):
        prefix = _span_key(span)
        for item in await _all_items(backend, prefix):
            kind, _, queue = item.key.removeprefix(prefix).partition(":")
            sums[queue, kind] += _number(item)
    return Rates({key: number / (SPANS * SPAN_MS / 1_000) for key, number in sums.items()})


async def minutes_until(backend: BackendAdapter, now_ms: int, count: int) -> list[Minute]:
    """The last `count` whole minutes before `now_ms`, in order; 1,440 are kept. Raises StoreError."""
    end = now_ms // MINUTE_MS
    sums: Counter[tuple[int, str]] = Counter()
    for hour in range((end - count) // 60, end // 60 + 1):
        for item in await _all_items(backend, _hour_key(hour)):
            minute, _, kind = item.key.removeprefix(_hour_key(hour)).partition(":")
            sums[int(minute), kind] = _number(item)
    return [
        Minute(
            at_ms=minute * MINUTE_MS,
            completed=sums[minute, "completed"],
            retried=sums[minute, RETRIED],
            dead=sums[minute, "dead"],
        )
        for minute in range(end - count, end)
    ]


async def _all_items(backend: BackendAdapter, prefix: str) -> Sequence[Item]:
    return await every_page(lambda cursor: backend.scan_state(prefix, cursor, ITEMS_MAX))


def _number(item: Item) -> int:
    return int(item.value)


def _span_key(span: int) -> str:
    return f"done:{span}:"


def _hour_key(hour: int) -> str:
    return f"done-in:{hour}:"

"""One queue: how it is doing, its pause, its limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from psyqueue.backend import UNTIL_RESUMED, Limits, QueueInfo
from psyqueue.backend.compose import all_sessions
from psyqueue.clock import to_datetime
from psyqueue.dashboard.desk import Desk
from psyqueue.dashboard.forms import one
from psyqueue.dashboard.visit import Done, Page, Visit
from psyqueue.errors import InvalidOption
from psyqueue.job import STATUSES
from psyqueue.kernel.options import read_name
from psyqueue.operating.queues import state_of
from psyqueue.operating.workers import worker_lines

LANES_MAX: Final = 100
_NUMBERS: Final = ("active_max", "starts_per_minute", "starts_burst", "pending_max")
_BURST_MIN: Final = 1
_RETENTIONS: Final = ("retain_ended", "retain_dead")


async def show(desk: Desk, visit: Visit) -> Page:
    """`name` is the queue's; one without jobs may have limits all the same."""
    name, store = read_name("name", visit.asked("name")), desk.store
    found, _ = await store.queues(name, None, 1)  # a name sorts before everything that it is the beginning of
    limits = await desk.queue.limits(name)
    info = found[0] if found and found[0].queue == name else QueueInfo(name, {}, None, 0, limits)
    now_ms = (await store.info()).now_ms
    sessions = [each for each in await all_sessions(store) if name in each.session.queues]
    served = {name} if any(each.expires_in_ms >= 0 for each in sessions) else set()
    lanes, rest = await store.lane_limits(name, "", None, LANES_MAX)
    until_ms = limits.paused_until_ms
    return Page(
        "queue.html",
        {
            "info": info,
            "state": state_of(info, served, now_ms),
            "paused_until": None if until_ms in (None, UNTIL_RESUMED) else to_datetime(until_ms),
            "oldest_ms": None if info.oldest_pending_at_ms is None else max(0, now_ms - info.oldest_pending_at_ms),
            "statuses": STATUSES,
            "limits": dict(_as_fields(limits)),
            "lanes": lanes,
            "has_more_lanes": rest is not None,
            "workers": await worker_lines(store, sessions),
        },
    )


async def pause(desk: Desk, visit: Visit, form: Mapping[str, list[str]]) -> Done:
    name = one(form, "name")
    await desk.queue.pause(name)
    return Done(f"Queue {name} is paused: what runs goes on.", visit.back_to(form))


async def resume(desk: Desk, visit: Visit, form: Mapping[str, list[str]]) -> Done:
    name = one(form, "name")
    await desk.queue.resume(name)
    return Done(f"Queue {name} is no longer paused.", visit.back_to(form))


async def limits(desk: Desk, visit: Visit, form: Mapping[str, list[str]]) -> Done:
    """Only what was changed on the page is written: somebody else may have changed the rest meanwhile."""
    name = one(form, "name")
    changes = {field: _value_of(field, one(form, field)) for field in _fields() if _is_changed(form, field)}
    await desk.queue.limits(name, **changes)
    done = ", ".join(changes) or "nothing, since nothing was changed"
    return Done(f"Limits of queue {name} were written: {done}.", visit.back_to(form))


def _fields() -> tuple[str, ...]:
    return (*_NUMBERS, *_RETENTIONS)


def _is_changed(form: Mapping[str, list[str]], field: str) -> bool:
    return one(form, field).strip() != one(form, f"was_{field}")


def _as_fields(limits: Limits) -> Iterator[tuple[str, str]]:
    """Each limit as it stands in its field; empty is none."""
    for field in _NUMBERS:
        value = getattr(limits, field)
        yield field, "" if value is None else str(value)
    for field in _RETENTIONS:
        kept = getattr(limits, field)
        yield field, "" if kept is None else f"{_short(kept[0])}:{kept[1]}"


def _short(age_ms: int) -> str:
    """`1d`, `90s`: as durations are written."""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if age_ms % size == 0:
            return f"{age_ms // size}{unit}"
    return f"{age_ms}ms"


def _value_of(field: str, given: str) -> Any:
    """What `limits()` takes. Raises InvalidOption."""
    text = given.strip()
    if not text:
        return _BURST_MIN if field == "starts_burst" else None
    if field in _RETENTIONS:
        age, _, count = text.partition(":")
        return age, _whole(field, text, count)
    return _whole(field, text, text)


def _whole(field: str, given: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        if field in _RETENTIONS:
            raise InvalidOption(field, given, "is no AGE:COUNT", "Write e.g. 7d:10000, or nothing: keep all") from None
        raise InvalidOption(field, given, "is no whole number", "Leave it empty for none") from None

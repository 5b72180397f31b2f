"""Reading and operating: jobs, one or pages of them, pauses, limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypedDict, cast

import msgspec

from psyqueue.backend import UNTIL_RESUMED, Filter, Limits
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.backend.compose import limits_of
from psyqueue.clock import Duration, to_at_ms
from psyqueue.errors import InvalidOption
from psyqueue.job import STATUSES, Status, name_problem
from psyqueue.kernel.context import progress_key
from psyqueue.kernel.options import read_choice, read_int, read_name, read_positive_ms
from psyqueue.kernel.views import JobView, Page, view_of

if TYPE_CHECKING:
    from psyqueue.kernel.core import Core

RATE_MAX = 1_000_000_000
WEIGHT_MAX = 10_000
"""A start costs a lane 2^20 by its weight, in whole numbers: up to here shares are true to one in a hundred."""


class JobChoice(TypedDict, total=False):
    """Which jobs are meant; all given conditions hold. Names and statuses: one, or several of which any."""

    queue: str | Iterable[str]
    status: Status | Iterable[Status]
    name: str | Iterable[str]
    tenant: str
    text: str
    created_after: datetime
    created_before: datetime


class JobFilters(JobChoice, total=False):
    """What `jobs()` takes: which jobs, and which page of them."""

    limit: int
    cursor: str | None


CHOICE: Final = tuple(JobChoice.__annotations__)
_FILTERS: Final = tuple(JobFilters.__annotations__)


class QueueLimits(TypedDict, total=False):
    """What `limits()` takes; None lifts a limit. Retention is (age, count), only for a whole queue."""

    weight: int
    active_max: int | None
    starts_per_minute: int | None
    starts_burst: int
    pending_max: int | None
    retain_ended: tuple[Duration, int] | None
    retain_dead: tuple[Duration, int] | None


async def get_view(core: Core, job_id: str) -> JobView | None:
    """The job as it is now, None if there is none, as of what is no id at all: a store could not even look for it."""
    core.require_running()
    if name_problem(job_id):
        return None
    (stored,) = await core.backend.get((job_id,))
    if stored is None:
        return None
    (progress,) = await core.backend.read_state((progress_key(job_id),))
    return view_of(stored, None if progress is None else progress.value)


async def find_jobs(core: Core, filters: JobFilters) -> Page[JobView]:
    """One page. Raises InvalidOption."""
    core.require_running()
    where = read_filters(filters)
    page = await core.backend.list_jobs(where, read_cursor(filters.get("cursor")), read_limit(filters.get("limit", 50)))
    tenant = filters.get("tenant")
    views = map(view_of, page.jobs)
    return Page(tuple(view for view in views if tenant is None or view.tenant_id == tenant), page.cursor)


def read_filters(filters: Mapping[str, Any], known: Sequence[str] = _FILTERS, verb: str = "jobs()") -> Filter:
    """What the store can narrow by. Of a tenant that is its text alone: look at each job. Raises InvalidOption."""
    for option, value in filters.items():
        if option not in known:
            raise InvalidOption(option, value, f"is no filter of {verb}", f"There are {', '.join(known)}")
    tenant, text = filters.get("tenant"), filters.get("text", "")
    if not isinstance(text, str):
        raise InvalidOption("text", text, f"is {type(text).__name__}, not text")
    if tenant is not None:
        text = text or msgspec.json.encode(read_name("tenant", tenant)).decode()
    return Filter(
        queues=_names("queue", filters.get("queue")),
        statuses=_statuses(filters.get("status")),
        names=_names("name", filters.get("name")),
        created_from_ms=_instant("created_after", filters),
        created_to_ms=_instant("created_before", filters),
        text=_without_surrogates("text", text),
    )


async def read_limits(core: Core, queue: str, lane: str | None = None) -> Limits:
    """The settings of a queue or lane; the defaults for one that was given none."""
    core.require_running()
    return await limits_of(core.backend, read_name("queue", queue), _lane(lane))


async def change_limits(core: Core, queue: str, lane: str | None, changes: QueueLimits) -> Limits:
    """Change what is named and keep the rest; nothing is written where nothing is named. Raises InvalidOption."""
    core.require_running()
    changed: dict[str, Any] = {}
    for option, value in changes.items():
        reader = _LIMITS.get(option)
        if reader is None:
            raise InvalidOption(option, value, "is no limit of a queue", f"There are {', '.join(_LIMITS)}")
        if lane is not None and option.startswith("retain_"):
            raise InvalidOption(option, value, "is for a whole queue", "Leave lane out")
        changed[option] = reader(option, value)
    if changed:
        await _put(core, Limits(queue=read_name("queue", queue), lane=_lane(lane), **changed), changed)
    return await read_limits(core, queue, lane)


async def pause(core: Core, queue: str, until: datetime | None) -> None:
    """No dequeue from `queue` until then, or until `resume`."""
    until_ms = UNTIL_RESUMED if until is None else to_at_ms("until", until)
    await _pause(core, queue, until_ms)


async def resume(core: Core, queue: str) -> None:
    """Undo a pause."""
    await _pause(core, queue, None)


def checked_limit(option: str, value: Any) -> Any:
    """The value of an option that `limits()` has, as it takes it. Raises InvalidOption."""
    return _LIMITS[option](option, value)


def read_limit(limit: Any) -> int:
    """Items of a page."""
    return read_int("limit", limit, 1, ITEMS_MAX)


def read_cursor(given: Any) -> str | None:
    """Where a page begins."""
    if given is not None and not isinstance(given, str):
        raise InvalidOption("cursor", given, "is not the cursor of a page")
    return None if given is None else _without_surrogates("cursor", given)


async def _pause(core: Core, queue: str, until_ms: int | None) -> None:
    core.require_running()
    await _put(core, Limits(queue=read_name("queue", queue), paused_until_ms=until_ms), ("paused_until_ms",))


async def _put(core: Core, limits: Limits, only: Iterable[str]) -> None:
    """The store keeps what is not named: somebody else may be changing that."""
    await core.operate(lambda op: core.backend.put_limits(op, (limits,), only=tuple(only)))


def _lane(lane: str | None) -> str | None:
    """None is the queue itself, "" its default lane."""
    return lane if lane is None or (isinstance(lane, str) and not lane) else read_name("lane", lane)


def _names(option: str, given: Any) -> tuple[str, ...]:
    return tuple(read_name(option, name) for name in _several(option, given))


def _statuses(given: Any) -> tuple[Status, ...]:
    return tuple(cast("Status", read_choice("status", status, STATUSES)) for status in _several("status", given))


def _several(option: str, given: Any) -> tuple[Any, ...]:
    if given is None:
        return ()
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, Iterable):
        raise InvalidOption(option, given, "is neither text nor a list of texts")
    return tuple(given)


def _instant(option: str, filters: Any) -> int | None:
    value = filters.get(option)
    return None if value is None else to_at_ms(option, value)


def _without_surrogates(option: str, text: str) -> str:
    if any("\ud800" <= ch <= "\udfff" for ch in text):
        raise InvalidOption(option, text, "holds a lone surrogate, which no store does")
    return str.__str__(text)


def _read_count(option: str, value: Any) -> int | None:
    return None if value is None else read_int(option, value, 0, RATE_MAX)


def _read_positive(option: str, value: Any) -> int:
    return read_int(option, value, 1, RATE_MAX)


def _read_weight(option: str, value: Any) -> int:
    return read_int(option, value, 1, WEIGHT_MAX)


def _read_retention(option: str, value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise InvalidOption(option, value, 'is not (age, count), e.g. ("1d", 10_000); None keeps all')
    return read_positive_ms(option, value[0]), read_int(option, value[1], 0, RATE_MAX)


_LIMITS = {
    "weight": _read_weight,
    "active_max": _read_count,
    "starts_per_minute": _read_count,
    "starts_burst": _read_positive,
    "pending_max": _read_count,
    "retain_ended": _read_retention,
    "retain_dead": _read_retention,
}

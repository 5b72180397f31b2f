"""Is there such a job? And if not: which came near, and what was wrong with them?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import Any, TypedDict

import msgspec

from psyqueue import codec
from psyqueue.clock import Duration, to_ms
from psyqueue.errors import InvalidOption, PayloadError
from psyqueue.job import Status
from psyqueue.kernel.views import JobView

NEAR_MAX = 5
"""Near misses that a message shows."""


class Expected(TypedDict, total=False):
    """What the assertions compare besides name and payload: fields of the job, by the names of the enqueue options."""

    id: str
    queue: str
    status: Status
    priority: int
    delay: Duration
    run_at: datetime
    expires: Duration
    deadline: datetime
    max_retries: int
    timeout: Duration
    tenant: str
    idempotency_key: str
    unique_key: str
    order_key: str
    lane: str
    meta: Mapping[str, Any]
    depends_on: Sequence[Any]
    parent: Any
    attempt: int
    result: Any
    reason: str


class Wanted(msgspec.Struct, frozen=True):
    """A name, a payload (UNSET: any) and fields; what is not named may be anything."""

    name: str | None
    payload: Any
    fields: dict[str, Any]

    def __str__(self) -> str:
        said = "a job" if self.name is None else f"job {self.name!r}"
        facts = [] if self.payload is msgspec.UNSET else [f"payload={self.payload!r}"]
        facts += [f"{field}={value!r}" for field, value in self.fields.items()]
        return f"{said} with {', '.join(facts)}" if facts else said


def wanted(name: object, payload: Any, fields: Mapping[str, Any]) -> Wanted:
    """`name` may be a handler. Raises InvalidOption for a field that jobs do not have."""
    for field in fields:
        if field not in Expected.__annotations__:
            close = get_close_matches(field, Expected.__annotations__, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"There are {', '.join(Expected.__annotations__)}"
            raise InvalidOption(field, fields[field], "is nothing that jobs are compared by", hint)
    return Wanted(None if name is None else str(getattr(name, "name", name)), payload, dict(fields))


def matching(jobs: Sequence[JobView], what: Wanted) -> list[JobView]:
    """The jobs that are as wanted, in order."""
    return [job for job in jobs if not differences(job, what)]


def differences(job: JobView, what: Wanted) -> list[str]:
    """Each way in which the job is not as wanted, in words."""
    found = [] if what.name in (None, job.name) else [f"name is {job.name!r}, not {what.name!r}"]
    if what.payload is not msgspec.UNSET:
        found += _unlike("payload", job.payload, what.payload)
    for field, value in what.fields.items():
        actual, asked = _pair(job, field, value)
        found += _unlike(field, actual, asked)
    return found


def missing_text(jobs: Sequence[JobView], what: Wanted) -> str:
    """For an assertion that found no job, or too few."""
    near = sorted(((differences(job, what), job) for job in jobs), key=lambda pair: len(pair[0]))
    same_name = [(unlike, job) for unlike, job in near if unlike and what.name in (None, job.name)]
    lines = [f"{what} was not enqueued"]
    if same_name:
        lines.append("near misses:")
        lines += [f"  {_shown(job)}: {'; '.join(unlike)}" for unlike, job in same_name[:NEAR_MAX]]
        if len(same_name) > NEAR_MAX:
            lines.append(f"  and {len(same_name) - NEAR_MAX} more")
    elif not jobs:
        lines.append("no job was")
    else:
        names = Counter(job.name for job in jobs)
        lines.append(f"enqueued were: {', '.join(f'{name!r} ({count})' for name, count in names.items())}")
        close = get_close_matches(what.name or "", names, n=1)
        lines += [f"did you mean {close[0]!r}?"] if close and close[0] != what.name else []
    return "\n".join(lines)


def found_text(found: Sequence[JobView], what: Wanted, problem: str) -> str:
    """For an assertion that found jobs which it did not want."""
    shown = [f"  {_shown(job)} payload={job.payload!r}" for job in found[:NEAR_MAX]]
    more = [f"  and {len(found) - NEAR_MAX} more"] if len(found) > NEAR_MAX else []
    return "\n".join((f"{what}: {problem}", *shown, *more))


def _shown(job: JobView) -> str:
    return f"{job.id} {job.name!r} on {job.queue!r}, {job.status}"


def _pair(job: JobView, field: str, value: Any) -> tuple[Any, Any]:
    """The job's own value of a field, and what was asked, both in the same terms."""
    match field:
        case "delay":
            return _ms(job.run_at, job.created_at), to_ms(field, value)
        case "expires":
            return _ms(job.expires_at, job.created_at), to_ms(field, value)
        case "timeout":
            return job.timeout_ms, to_ms(field, value)
        case "tenant":
            return job.tenant_id, value
        case "parent":
            return job.parent_id, str(getattr(value, "id", value))
        case "depends_on":
            listed = [value] if isinstance(value, str) or hasattr(value, "id") else list(value)
            return sorted(job.needs), sorted(str(getattr(parent, "id", parent)) for parent in listed)
        case _:
            return getattr(job, field), value


def _ms(later: datetime | None, earlier: datetime) -> int | None:
    return None if later is None else round((later - earlier).total_seconds() * 1000)


def _unlike(path: str, actual: Any, asked: Any) -> list[str]:
    """Where `actual` lacks something of `asked`: mappings may have more keys, everything else has to be equal."""
    if isinstance(asked, Mapping):
        if not isinstance(actual, Mapping):
            return [f"{path} is {actual!r}, no mapping"]
        found: list[str] = []
        for key, value in asked.items():
            found += _unlike(f"{path}.{key}", actual[key], value) if key in actual else [f"{path} has no {key!r}"]
        return found
    if isinstance(asked, list | tuple) and isinstance(actual, list | tuple):
        if len(asked) != len(actual):
            return [f"{path} has {len(actual)} items, not {len(asked)}: {actual!r}"]
        return [
            text
            for index, pair in enumerate(zip(actual, asked, strict=True))
            for text in _unlike(f"{path}[{index}]", *pair)
        ]
    return [] if asked == actual or _as_json(asked) == actual else [f"{path} is {actual!r}, not {asked!r}"]


def _as_json(value: Any) -> Any:
    """What the store would keep of it: a datetime as text, for example."""
    try:
        return codec.decode(codec.encode(value))
    except PayloadError:
        return value

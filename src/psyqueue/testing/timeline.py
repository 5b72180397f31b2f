"""What happened in a test, in order: `t.history`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, overload

from msgspec import Struct

from psyqueue.events import Event


class Moment(Struct, frozen=True, kw_only=True):
    """One event of one job. `what` is the event without its "job:"; `after` is the time since the test began.

    `data` are the event's own facts: `attempt`, `delay_ms`, `error`, `reason`, `result`.
    """

    what: str
    job_id: str
    name: str
    queue: str
    at: datetime
    after: timedelta
    data: dict[str, Any]

    def __str__(self) -> str:
        facts = [f"{key}={_short(value)}" for key, value in self.data.items()]
        return " ".join((f"+{self.after}", self.what, f"{self.name!r}", self.job_id, *facts))


class History:
    """A sequence of moments. `str(history)` is one line each."""

    def __init__(self, moments: list[Moment] | None = None) -> None:
        self._moments: list[Moment] = [] if moments is None else moments

    def of(self, job: object) -> History:
        """Those of one job, given as its handle, its view or its id; or those of all jobs of that name."""
        wanted = str(getattr(job, "id", job))
        return History([each for each in self._moments if wanted in (each.job_id, each.name)])

    @property
    def events(self) -> list[str]:
        """What happened, without when and to whom: `["enqueued", "started", "completed"]`."""
        return [each.what for each in self._moments]

    def add(self, event: Event, began_at: datetime) -> None:
        """Events that concern no single job are passed by."""
        data = dict(event.data)
        if not event.type.startswith("job:") or "job_id" not in data:
            return
        moment = Moment(
            what=event.type.removeprefix("job:"),
            job_id=data.pop("job_id"),
            name=data.pop("name"),
            queue=data.pop("queue"),
            at=event.at,
            after=event.at - began_at,
            data=data,
        )
        self._moments.append(moment)

    @overload
    def __getitem__(self, index: int) -> Moment: ...
    @overload
    def __getitem__(self, index: slice) -> list[Moment]: ...
    def __getitem__(self, index: int | slice) -> Moment | list[Moment]:
        return self._moments[index]

    def __iter__(self) -> Iterator[Moment]:
        return iter(self._moments)

    def __len__(self) -> int:
        return len(self._moments)

    def __str__(self) -> str:
        return "\n".join(map(str, self._moments)) or "nothing happened"

    def __repr__(self) -> str:
        return f"<History of {len(self._moments)} moments>"


def _short(value: Any) -> str:
    """An error by its type and text, anything else by its repr, both cut."""
    if isinstance(value, dict) and "traceback" in value:
        value = f"{value.get('type')}: {value.get('message')}"
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."

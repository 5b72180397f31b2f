"""Lines of a history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

Kind: TypeAlias = Literal["invoke", "ok", "fail", "unknown", "start", "end", "fault"]


class Enqueuing(Struct, frozen=True, array_like=True):
    """A job that a call wants to put in. `key` is its idempotency key, `gate` its place in line where it has one.

    `is_due`: it may run at once, or as soon as it is its turn at its gate.
    """

    job_id: str
    queue: str = "q"
    lane: str = ""
    priority: int = 0
    key: str = ""
    is_due: bool = True
    gate: str = ""


class Run(Struct, frozen=True, array_like=True):
    """One delivery of one job."""

    job_id: str
    generation: int
    fence: int


class Ending(Struct, frozen=True, array_like=True):
    """An outcome on its way: `kind` as the names of the outcomes, in small letters."""

    run: Run
    kind: str


class Event(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One line. `call` joins what was invoked with what came of it; `at_ns` is the machine's monotone clock.

    invoke: `verb`, and of an enqueue `jobs`, of a settle `endings`, with `jobs` for follow-ups and the identity (`op`)
    under which it may be repeated. ok: `replies` of the jobs (id, whether it is new), `verdicts` of the endings,
    `deliveries`; of a reap `reaped`. start, end: `run`.
    fault: what was done to process `victim` (killed, stopped). fail: `problem`, the code of what was raised.

    `store`: where the call went to, of a run with several stores. A look (`verb`) brings `startable`: the ids of jobs
    that could have been started there at some instant between the two lines.
    """

    kind: Kind
    process: str
    at_ns: int
    call: int = 0
    verb: str = ""
    op: str = ""
    jobs: tuple[Enqueuing, ...] = ()
    endings: tuple[Ending, ...] = ()
    replies: tuple[tuple[str, bool], ...] = ()
    verdicts: tuple[str, ...] = ()
    deliveries: tuple[Run, ...] = ()
    reaped: tuple[str, ...] = ()
    store: str = ""
    startable: tuple[str, ...] = ()
    run: Run | None = None
    victim: str = ""
    problem: str = ""


_decoder = msgspec.json.Decoder(Event)


def read_events(files: Iterable[Path]) -> list[Event]:
    """All events in order of time. A last line without its end is the mark of a killed writer and is left out."""
    events = [event for file in files for event in _read(file)]
    events.sort(key=lambda event: event.at_ns)
    return events


def _read(file: Path) -> Iterator[Event]:
    *lines, _torn = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            yield _decoder.decode(line)
        except msgspec.DecodeError as exc:
            raise ValueError(f"{file}:{number} is no line of a history: {exc}") from exc

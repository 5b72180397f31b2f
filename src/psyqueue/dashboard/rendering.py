"""From a page to HTML. Every value is text: the templates escape all of them, and nothing is marked as safe."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from msgspec import Struct

from psyqueue import clock
from psyqueue.kernel.presence import own_version

if TYPE_CHECKING:
    from psyqueue.dashboard.desk import Desk
    from psyqueue.dashboard.visit import Page, Visit

JSON_CHARS_MAX: Final = 20_000
_MENU: Final = (
    ("/", "Overview"),
    ("/jobs", "Jobs"),
    ("/failures", "Failures"),
    ("/workers", "Workers"),
    ("/schedules", "Schedules"),
    ("/workflows", "Workflows"),
    ("/circuits", "Circuits"),
)
_UNDER: Final = {"/queue": "/", "/job": "/jobs", "/jobs/sure": "/jobs", "/workflow": "/workflows"}
"""Pages that are not in the menu, and the entry that they belong to."""


class Entry(Struct, frozen=True):
    """Of the menu."""

    url: str
    title: str
    is_here: bool


def render(desk: Desk, visit: Visit, page: Page, *, token: str, note: str) -> str:
    """The whole page. `note`: what was done, told once."""
    template = _environment().get_template(page.template)
    return template.render(
        **page.shown,
        visit=visit,
        token=token,
        note=note,
        menu=list(_menu(visit)),
        name=desk.title,
        version=own_version(),
    )


def _menu(visit: Visit) -> Iterator[Entry]:
    path = visit.here.partition("?")[0]
    here = _UNDER.get(path, path)
    for each, title in _MENU:
        if each == "/failures" and visit.hides:
            continue
        yield Entry(visit.url(each), title, each == here)


# ── how values look ───────────────────────────────────────────────────────────────────────────────────────────────────
def ago(at: datetime) -> str:
    """By the clock of this machine: for people only."""
    return clock.age(at, clock.SystemClock().now_ms())


def iso(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds")


def number(value: float) -> str:
    return f"{value:,}"


def as_json(value: Any) -> str:
    """Indented; of what is too long the beginning."""
    text = msgspec.json.format(_encode(value), indent=2).decode()
    left = len(text) - JSON_CHARS_MAX
    return text if left <= 0 else f"{text[:JSON_CHARS_MAX]}\n… and {left:,} characters more"


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("psyqueue.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "ago": ago,
        "at": clock.to_datetime,
        "iso": iso,
        "number": number,
        "json": as_json,
        "span": clock.span,
    }
    return made


_encode = msgspec.json.Encoder(decimal_format="string", enc_hook=str).encode

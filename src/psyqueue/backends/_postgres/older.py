"""Steps that began before the mode of the namespace was set: no copy may begin while one of them can still commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from psyqueue.backoff import delay_ms
from psyqueue.clock import SystemClock
from psyqueue.errors import StoreBusy

if TYPE_CHECKING:
    from psyqueue.backends._postgres.client import Client

_PAUSE_MS: Final = 5
_PAUSE_MAX_MS: Final = 500
_NAMED_MAX: Final = 5
_clock = SystemClock()


async def older_steps_ended(client: Client, limit_ms: int) -> None:
    """Holds no transaction while it waits. Raises StoreBusy if some are there for longer than `limit_ms`."""
    until_ms = _clock.mono_ms() + limit_ms
    known: list[str] | None = None
    attempt = 0
    while found := await client.rows("older_steps", known):
        # Those that came later saw the mode.
        known = [row["transaction"] for row in found] if known is None else known
        if _clock.mono_ms() >= until_ms:
            raise _still_open(client.place, found)
        attempt += 1
        await _clock.sleep_ms(delay_ms("exponential", attempt, _PAUSE_MS, _PAUSE_MAX_MS))


def _still_open(place: str, found: Sequence[Any]) -> StoreBusy:
    named = [_name_of(row) for row in found[:_NAMED_MAX]]
    if len(found) > _NAMED_MAX:
        named.append(f"{len(found) - _NAMED_MAX} more")
    what = "1 transaction that" if len(found) == 1 else f"{len(found)} transactions that"
    text = (
        f"{place}: the mode is set, but {what} used the store before may still commit what the mode forbids: "
        f"{'; '.join(named)}. End them, and make the same call again: it goes on waiting"
    )
    return StoreBusy(text, server=place, transactions=len(found))


def _name_of(row: Any) -> str:
    if row["pid"] is None:
        return f"a prepared one ({row['transaction']}; see pg_prepared_xacts)"
    about = [f"pid {row['pid']}"]
    if row["application"]:
        about.append(repr(row["application"]))
    if row["since"] is not None:
        about.append(f"since {row['since']:%Y-%m-%d %H:%M:%S %Z}")
    return ", ".join(about)

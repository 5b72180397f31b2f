"""How a run ended, as its span tells it: one word, and the failure if it was one."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from psyqueue import codec
from psyqueue.errors import HandlerTimeout, PsyQueueError, SessionLost
from psyqueue.outcome import Cancel, Retry, Snooze, Verdict, error_json


class Failure(Struct, frozen=True):
    """`kind` is the name of a class. A verdict has no traceback: its reason, the `text`, says all."""

    kind: str
    text: str
    traceback: str = ""


class End(Struct, frozen=True):
    """`outcome` is what the run came to."""

    outcome: str
    failure: Failure | None = None


def end_of(raised: BaseException | None, stop_reason: str | None) -> End:
    """`raised`: what came out of the run, a verdict that it returned, or None. Whoever stopped it has the say."""
    match stop_reason:
        case "timeout":
            return End("timeout", Failure(_name(HandlerTimeout), "it took longer than its timeout"))
        case "lease-lost":
            return End("lost", Failure(_name(SessionLost), "its lease was lost: nothing of this run counts"))
        case "cancel" | "release" if raised is not None:
            return End(stop_reason)
    match raised:
        case None:
            return End("completed")
        case Snooze():
            return End("snooze")
        case Cancel():
            return End("cancel")
        case Retry():
            return End("retry", failure_of(raised))
        case Verdict():
            return End("dead_letter", failure_of(raised))
        case _:
            return End("failed", failure_of(raised))


def failure_of(error: BaseException) -> Failure:
    """As the errors of a job have it: bounded; of another process's exception, too, and of one without a text."""
    fields: dict[str, Any] = codec.decode(error_json(error, 0, 0))
    return Failure(*(str(fields.get(key, "")) for key in ("type", "message", "traceback")))


def _name(kind: type[PsyQueueError]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"

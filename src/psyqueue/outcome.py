"""How a run ends: the verdicts of handlers, the policy of a job, the pure decision that makes an outcome of them."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from msgspec import Struct

from psyqueue import codec
from psyqueue.backend import NO_EFFECTS, Ack, AnyOutcome, Cancelled, Dead, Delivery, Effects
from psyqueue.backend import Retry as RetryOutcome
from psyqueue.backend import Snooze as SnoozeOutcome
from psyqueue.backoff import (
    BASE_MS_DEFAULT,
    CAP_MS_DEFAULT,
    BackoffFunction,
    Strategy,
    delay_ms,
    with_jitter,
)
from psyqueue.clock import Duration, to_ms
from psyqueue.errors import PayloadError, PsyQueueError
from psyqueue.job import ERROR_BYTES_MAX

MESSAGE_CHARS_MAX = 2_000
"""Of an error's text, since the traceback needs the rest of the room; and of the reason of a verdict."""


class Verdict(Exception):
    """What a handler (or a middleware around it) decides about its run."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Retry(Verdict):
    """Failed, run it again: after `after`, or after the job's back-off. Counts as an attempt."""

    def __init__(self, after: Duration | None = None, reason: str = "") -> None:
        super().__init__(reason)
        self.after_ms: int | None = None if after is None else to_ms("after", after)


class Snooze(Verdict):
    """Not now: again after `after`, no attempt used."""

    def __init__(self, after: Duration) -> None:
        super().__init__("snoozed")
        self.after_ms: int = to_ms("after", after)


class Cancel(Verdict):
    """Nobody needs this any more: cancelled."""


class DeadLetter(Verdict):
    """It cannot work, however often: dead, with `reason`."""


class Misfit(PayloadError):
    """The payload does not fit the handler's parameters. Repeating cannot help."""

    CODE: ClassVar[str] = "PAYLOAD_MISFIT"


class BadResult(Exception):
    """What a handler returned in another process is not JSON."""


class NotBegun(Exception):
    """No thread or process could be had for a run: trouble of the machine, none of the handler's."""


class RemoteError(Exception):
    """A handler's exception in another process: its class is known by name only, its text is what that process said."""

    def __init__(self, kinds: Sequence[str], fields: Mapping[str, Any]) -> None:
        super().__init__(f"{fields.get('type')}: {fields.get('message')}")
        self.kinds: frozenset[str] = frozenset(kinds)
        self.fields: dict[str, Any] = dict(fields)


class Policy(Struct, frozen=True, kw_only=True):
    """What happens to a run that fails or takes long. `max_retries` is not here: the store counts and decides."""

    strategy: Strategy = "exponential"
    base_ms: int = BASE_MS_DEFAULT
    cap_ms: int = CAP_MS_DEFAULT
    jitter: bool = True
    timeout_ms: int | None = None
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    fatal: tuple[type[BaseException], ...] = ()
    own_backoff: BackoffFunction | None = None


def decide(
    delivery: Delivery,
    policy: Policy,
    *,
    chance: Callable[[], float],
    at_ms: int,
    result: Any = None,
    error: BaseException | None = None,
    effects: Effects = NO_EFFECTS,
) -> AnyOutcome:
    """The outcome of one run that returned `result` or raised `error`.

    A verdict counts the same returned or raised. `effects` ride on success only. `chance()` in [0, 1) spreads the
    back-off. A cancelled run that nobody asked to cancel is a failure: releasing it would run it for ever.
    """
    if error is None:
        if not isinstance(result, Verdict):
            return _succeeded(delivery, result, at_ms, effects)
        error = result
    if isinstance(error, Verdict):
        return _decided(delivery, policy, error, chance, at_ms)
    if is_one_of(error, (Misfit,)):
        return _dead(delivery, "payload", error, at_ms)
    if is_one_of(error, (BadResult,)):
        return _dead(delivery, "result", error, at_ms)
    if is_fatal(error, policy):
        return _dead(delivery, "fatal", error, at_ms)
    return _again(delivery, policy, error, chance, at_ms)


def is_fatal(error: BaseException, policy: Policy) -> bool:
    """Whether repeating cannot help, by the type of a handler's own error."""
    return is_one_of(error, policy.fatal) or not is_one_of(error, (*policy.retry_on, asyncio.CancelledError))


def is_one_of(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    """isinstance, also for an exception of another process."""
    if isinstance(error, RemoteError):
        return any(f"{kind.__module__}.{kind.__qualname__}" in error.kinds for kind in kinds)
    return isinstance(error, kinds)


def error_json(error: BaseException, attempt: int, at_ms: int, note: str = "") -> bytes:
    """`{type, message, traceback, attempt, at_ms}` in at most 8 KB, without the values of local variables."""
    if isinstance(error, RemoteError):
        return _fitted(dict(error.fields))
    kind = type(error)
    fields: dict[str, Any] = {
        "type": _clean(
            kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        ),
        "message": _message(error),
        "traceback": "",
        "attempt": attempt,
        "at_ms": at_ms,
    }
    if isinstance(error, PsyQueueError):
        fields["code"] = error.code
    if note:
        fields["note"] = _clean(note)[:MESSAGE_CHARS_MAX]
    if not isinstance(error, Verdict):
        fields["traceback"] = _clean(_printed(error))
    return _fitted(fields)


def _succeeded(delivery: Delivery, result: Any, at_ms: int, effects: Effects) -> AnyOutcome:
    try:
        body = codec.encode(result, what="result")
    except PsyQueueError as exc:
        # What the handler returns will not be JSON next time either: a repeat would only repeat its side effects.
        return _dead(delivery, "result", exc, at_ms)
    return Ack(job_id=delivery.id, completion_token=delivery.completion_token, effects=effects, result=body)


def _decided(
    delivery: Delivery, policy: Policy, verdict: Verdict, chance: Callable[[], float], at_ms: int
) -> AnyOutcome:
    job_id, token = delivery.id, delivery.completion_token
    match verdict:
        case Snooze():
            return SnoozeOutcome(
                job_id=job_id, completion_token=token, delay_ms=verdict.after_ms, reason=verdict.reason
            )
        case Cancel():
            return Cancelled(job_id=job_id, completion_token=token, reason=_kept(verdict.reason))
        case Retry(after_ms=int(after_ms)):
            error = error_json(verdict, delivery.attempt, at_ms)
            return RetryOutcome(job_id=job_id, completion_token=token, error=error, delay_ms=after_ms)
        case Retry():
            return _again(delivery, policy, verdict, chance, at_ms)
        case _:
            return _dead(delivery, _kept(verdict.reason) or "dead_letter", verdict, at_ms)


def _dead(delivery: Delivery, reason: str, error: BaseException, at_ms: int) -> Dead:
    body = error_json(error, delivery.attempt, at_ms)
    return Dead(job_id=delivery.id, completion_token=delivery.completion_token, error=body, reason=reason)


def _again(
    delivery: Delivery, policy: Policy, error: BaseException, chance: Callable[[], float], at_ms: int
) -> RetryOutcome:
    wait_ms, note = _own_delay(policy, delivery.attempt, error)
    if wait_ms is None:
        wait_ms = delay_ms(policy.strategy, delivery.attempt, policy.base_ms, policy.cap_ms)
    if policy.jitter:
        wait_ms = with_jitter(wait_ms, policy.cap_ms, chance())
    body = error_json(error, delivery.attempt, at_ms, note)
    return RetryOutcome(job_id=delivery.id, completion_token=delivery.completion_token, error=body, delay_ms=wait_ms)


def _own_delay(policy: Policy, attempt: int, error: BaseException) -> tuple[int | None, str]:
    """The delay of the handler's own back-off; when that raises, None and a note that is kept with the job's error."""
    if policy.own_backoff is None:
        return None, ""
    try:
        wanted: Any = policy.own_backoff(attempt, error)
        return min(to_ms("backoff", wanted), policy.cap_ms), ""
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - the job's own failure must not be lost behind its back-off's
        return None, f"the handler's own back-off failed, {policy.strategy} was used: {exc!r}"


def _message(error: BaseException) -> str:
    try:
        text = str(error.message if isinstance(error, PsyQueueError) else error)
    except (Exception, SystemExit):  # noqa: BLE001 - any code may run in a foreign __str__
        text = "(its text cannot be made: __str__ raises)"
    return _clean(text)[:MESSAGE_CHARS_MAX]


def _printed(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - it reads what foreign code left in the error
        frames = "".join(traceback.format_tb(error.__traceback__))
        return f"(the error itself cannot be printed: {type(exc).__name__})\n{frames}"


def _clean(text: str) -> str:
    """Lone surrogates (undecodable file names, for example) are no JSON."""
    return text.encode(errors="backslashreplace").decode()


def _kept(reason: str) -> str:
    """As every store can keep it: PostgreSQL has no text with a NUL, and it is read with every look at the job."""
    return _clean(reason[:MESSAGE_CHARS_MAX]).replace("\0", "\\x00")[:MESSAGE_CHARS_MAX]


def _fitted(fields: dict[str, Any]) -> bytes:
    """The JSON of `fields` within the limit: the outermost frames go first, then the ends of the other texts."""
    body = codec.encode_trusted(fields)
    for key in ("traceback", "note", "message"):
        while len(body) > ERROR_BYTES_MAX and fields.get(key):
            text: str = fields[key]
            room = len(text) // 2
            fields[key] = text[len(text) - room :] if key == "traceback" else text[:room]
            body = codec.encode_trusted(fields)
    return body

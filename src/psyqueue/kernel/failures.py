"""What the log says of runs that failed: each one, with its traceback; of the last one that its job is dead."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any

from psyqueue.backend import AnyOutcome, Dead, Delivery, Retry
from psyqueue.outcome import RemoteError, Verdict

log: logging.Logger = logging.getLogger(__name__)


def log_failure(delivery: Delivery, outcome: AnyOutcome, error: BaseException | None) -> None:
    """Nothing for a run that did not fail, and for one whose handler asked to be run again.

    INFO where the job runs again, ERROR where it does not: that is what somebody has to look at.
    """
    is_dead = isinstance(outcome, Dead) or (isinstance(outcome, Retry) and delivery.attempt > delivery.max_retries)
    if not is_dead and (not isinstance(outcome, Retry) or isinstance(error, Verdict)):
        return
    about: dict[str, Any] = {
        "job_id": delivery.id,
        "queue": delivery.queue,
        "job_name": delivery.name,
        "attempt": delivery.attempt,
        "max_retries": delivery.max_retries,
    }
    if is_dead:
        about["reason"] = outcome.reason if isinstance(outcome, Dead) else "exhausted"
        log.error("run failed, the job is dead", exc_info=_trace_of(error), extra=about)
    elif isinstance(outcome, Retry):
        about["retry_in_ms"] = outcome.delay_ms
        log.info("run failed, it will be tried again", exc_info=_trace_of(error), extra=about)


def _trace_of(error: BaseException | None) -> Any:
    """For `exc_info`. Of a verdict the reason says all; of another process's exception its own traceback counts."""
    if error is None or isinstance(error, Verdict):
        return None
    if isinstance(error, RemoteError):
        error.add_note(str(error.fields.get("traceback", "")).rstrip())
        return type(error), error, None
    return type(error), error, _outside(error.__traceback__)


def _outside(trace: TracebackType | None) -> TracebackType | None:
    """From the first frame on that is not ours: middleware, a provider, the handler."""
    first = trace
    while first is not None and first.tb_frame.f_globals.get("__name__", "").startswith("psyqueue."):
        first = first.tb_next
    return first or trace

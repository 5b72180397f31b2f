"""Logging of the worker process: a line a record on standard error, with what came in `extra` and the job it is of."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

from psyqueue.cli.output import clean
from psyqueue.kernel.context import running_job

FORMATS = ("text", "json")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_encode = msgspec.json.Encoder(decimal_format="string", enc_hook=str).encode


class _OfJob(logging.Filter):
    """Gives a record that was logged while a handler runs the job it belongs to, whoever logged it."""

    def filter(self, record: logging.LogRecord) -> bool:
        job = running_job.get()
        if job is not None and not hasattr(record, "job_id"):
            record.job_id, record.queue, record.job_name, record.attempt = job
        return True


def _values(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told = "".join(f" {key}={value}" for key, value in _values(record).items())
        line = f"{self.formatTime(record)} {record.levelname} {record.name}: {record.getMessage()}{told}"
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return clean(line) + trace


class _Json(logging.Formatter):
    """`at`, `level`, `logger`, `text`, then what came in `extra`; `error` is the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        own = {"at": at, "level": record.levelname.lower(), "logger": record.name, "text": record.getMessage()}
        if record.exc_info:
            own["error"] = self.formatException(record.exc_info)
        try:
            return _encode({**_values(record), **own}).decode()
        except (TypeError, ValueError, msgspec.MsgspecError, RecursionError):
            return _encode({**{key: repr(value) for key, value in _values(record).items()}, **own}).decode()


def start_logging(level: str, log_format: str = "text") -> None:
    """Log to standard error from `level` on, unless the application set logging up by itself."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    handler.addFilter(_OfJob())
    root.addHandler(handler)
    root.setLevel(level.upper())

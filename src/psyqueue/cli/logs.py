"""Logging of the worker process: one line a record on standard error, with the values that came in `extra`."""

from __future__ import annotations

import logging
import sys

from psyqueue.cli.output import clean

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        values = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        told = "".join(f" {key}={value}" for key, value in values.items())
        line = f"{self.formatTime(record)} {record.levelname} {record.name}: {record.getMessage()}{told}"
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return clean(line) + trace


def start_logging(level: str) -> None:
    """Log to standard error from `level` on, unless the application set logging up by itself."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    root.addHandler(handler)
    root.setLevel(level.upper())

"""Handlers that run in processes of their own: these import them by name."""

from __future__ import annotations

from psyqueue import Snooze


def fail() -> None:
    raise ConnectionError("down")


def snooze() -> None:
    raise Snooze("1h")

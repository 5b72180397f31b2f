"""Renewing leases from the lease thread."""

from __future__ import annotations

from collections.abc import Callable

from psyqueue.backend import Renewal


class Keeper:
    """`renew` locks the store for itself: it may be called in any thread."""

    def __init__(self, renew: Callable[[str], Renewal]) -> None:
        self._renew = renew

    def renew(self, session_id: str) -> Renewal:
        return self._renew(session_id)

    def close(self) -> None: ...

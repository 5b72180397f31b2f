"""The lease thread: renews the worker's session, and watches that the event loop still turns.

It lives outside the loop, on a connection of its own, so that a handler that blocks the loop loses nothing. A handler
that holds the GIL for longer than the lease does stop it: `mode="process"` is for those.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from psyqueue.backend import Renewal, SessionKeeper
from psyqueue.clock import Clock
from psyqueue.errors import StoreError

log = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 3
RETRY_MS_MAX = 1_000


class LeaseKeeper:
    """`on_renewal` and `on_hang` are called in the lease thread. `turns()` must grow while the loop lives."""

    def __init__(
        self,
        keeper: SessionKeeper,
        session_id: str,
        *,
        lease_ms: int,
        hang_ms: int,
        clock: Clock,
        turns: Callable[[], int],
        on_renewal: Callable[[Renewal], None],
        on_hang: Callable[[], None],
    ) -> None:
        self._keeper = keeper
        self._session_id = session_id
        self._period_ms = lease_ms / RENEWALS_PER_LEASE
        self._hang_ms = hang_ms
        self._clock = clock
        self._turns = turns
        self._on_renewal = on_renewal
        self._on_hang = on_hang
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"psyqueue-lease-{session_id[:8]}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns at once; the thread ends after the renewal it may be in."""
        self._stopped.set()

    def _work(self) -> None:
        seen, seen_at_ms = self._turns(), self._clock.mono_ms()
        wait_ms = self._period_ms
        try:
            while not self._stopped.wait(wait_ms / 1000):
                turns, now_ms = self._turns(), self._clock.mono_ms()
                if turns != seen:
                    seen, seen_at_ms = turns, now_ms
                elif now_ms - seen_at_ms >= self._hang_ms:
                    # Whoever hangs must not keep its jobs: no more renewals, others take them back.
                    log.critical("event loop hangs, lease is given up", extra={"session": self._session_id})
                    self._on_hang()
                    return
                wait_ms = self._period_ms if self._renew() else min(RETRY_MS_MAX, self._period_ms / 4)
        finally:
            self._keeper.close()

    def _renew(self) -> bool:
        try:
            renewal = self._keeper.renew(self._session_id)
        except StoreError as exc:
            log.warning("lease not renewed, trying again", extra={"session": self._session_id, "error": str(exc)})
            return False
        if not self._stopped.is_set():
            self._on_renewal(renewal)
        return True

"""The lease thread: renews the worker's session, and watches that the event loop still turns.

It lives outside the loop, on a connection of its own, so that a handler that blocks the loop loses nothing. A handler
that holds the GIL for longer than the lease does stop it: `mode="process"` is for those.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable

from psyqueue.backend import Renewal, SessionKeeper
from psyqueue.clock import Clock
from psyqueue.kernel.aio import call_in
from psyqueue.kernel.troubles import Repeats

log: logging.Logger = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 3
RETRY_MS_MAX = 1_000
GAP_MS_MIN = 2_000
"""Between two renewals: a store that is a little slow all the time must not keep a worker from ever reaping."""


class LeaseKeeper:
    """`on_renewal` is called in the loop that made it, until `stop`; `on_hang` in the lease thread.

    `turns()` must grow while the loop lives. A loop that stands still for `hang_ms` loses its lease, and gets it back
    if it turns again before anybody took its jobs.
    """

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
        self._half_ms = lease_ms / 2
        self._gap_ms = max(self._half_ms, GAP_MS_MIN)
        self._hang_ms = hang_ms
        self._clock = clock
        self._turns = turns
        self._repeats = Repeats(clock)
        self._on_renewal = on_renewal
        self._on_hang = on_hang
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._seen = turns()
        self._looked_ms = clock.mono_ms()
        self._stood_ms = 0.0
        self._renewed_ms = clock.mono_ms()
        self._resumed_ms = -math.inf
        """The last renewal that came after half a lease without one."""
        self._thread = threading.Thread(target=self._work, name=f"psyqueue-lease-{session_id[:8]}", daemon=True)
        self.ended: asyncio.Event = asyncio.Event()
        """The thread let go of its connection."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns at once; the thread ends after the renewal it may be in."""
        self._stopped.set()

    @property
    def is_steady(self) -> bool:
        """No gap of half a lease in the renewals, for half a lease by now.

        Whatever made the gap (a store that was away, a machine that slept) made it for others, too: leases ended whose
        workers live, and will be renewed in a moment.
        """
        now_ms = self._clock.mono_ms()
        return now_ms - self._renewed_ms < self._gap_ms and now_ms - self._resumed_ms >= self._half_ms

    # ── in the lease thread ───────────────────────────────────────────────────────────────────────────────────────────
    def _work(self) -> None:
        wait_ms = self._period_ms
        try:
            # A loop that was closed without a stop runs nothing any more: its lease is not to be kept.
            while not self._stopped.wait(wait_ms / 1000) and not self._loop.is_closed():
                if self._is_hanging(wait_ms):
                    wait_ms = self._period_ms
                    continue
                wait_ms = self._period_ms if self._renew() else min(RETRY_MS_MAX, self._period_ms / 4)
        finally:
            try:
                self._keeper.close()
            finally:
                call_in(self._loop, self.ended.set)

    def _is_hanging(self, waited_ms: float) -> bool:
        """Whoever hangs must not keep its jobs: no more renewals, others take them back."""
        turns, now_ms = self._turns(), self._clock.mono_ms()
        passed_ms, self._looked_ms = now_ms - self._looked_ms, now_ms
        if turns != self._seen:
            self._seen, self._stood_ms = turns, 0.0
            return False
        was_hanging = self._stood_ms >= self._hang_ms
        # A machine that slept, a process that was stopped: that gap is not the loop's fault.
        self._stood_ms += min(passed_ms, 2 * waited_ms)
        if self._stood_ms < self._hang_ms:
            return False
        if not was_hanging:
            log.critical("event loop hangs, lease is given up", extra={"session": self._session_id})
            self._on_hang()
        return True

    def _renew(self) -> bool:
        try:
            renewal = self._keeper.renew(self._session_id)
        except Exception as exc:  # noqa: BLE001 - whatever it is, a lease thread that ends loses every job of the worker
            error = repr(exc)
            if not self._stopped.is_set() and (times := self._repeats.times(error)):
                about = {"session": self._session_id, "error": error, "times": times}
                log.warning("lease not renewed, trying again", extra=about)
            return False
        now_ms = self._clock.mono_ms()
        if now_ms - self._renewed_ms >= self._gap_ms:
            self._resumed_ms = now_ms
        self._renewed_ms = now_ms
        call_in(self._loop, self._tell, renewal)
        return True

    # ── back in the loop ──────────────────────────────────────────────────────────────────────────────────────────────
    def _tell(self, renewal: Renewal) -> None:
        if not self._stopped.is_set():
            self._on_renewal(renewal)

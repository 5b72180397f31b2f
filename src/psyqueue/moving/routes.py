"""Where things live while two stores are one queue: the stores say it, what is remembered here only saves asking.

The fences of the two namespaces decide (docs/adr/0020). Whoever remembers an older state is refused by the store that
is asked, and looks again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from secrets import SystemRandom
from typing import Final, TypeVar

from psyqueue.backend import BackendAdapter, Op
from psyqueue.clock import Clock, SystemClock
from psyqueue.errors import NamespaceFrozen, StoreBusy, StoreError
from psyqueue.ids import new_token
from psyqueue.kernel.aio import spawn
from psyqueue.kernel.ops import SharedChannel
from psyqueue.moving.journal import is_ours

T = TypeVar("T")
log: logging.Logger = logging.getLogger(__name__)

PATIENCE_MS = 2_000
"""How long a call waits for a switch by itself; whoever called it may call again."""
LOOK_AGAIN_MS = 50


class Routes:
    """`old` and `new`, and how far the move is.

    `is_switched`: new jobs go to the new store. `is_drained`: jobs are taken from there, too, as soon as it gives any;
    the old one only takes outcomes. `is_done`: the old one is closed.
    """

    def __init__(self, old: BackendAdapter, new: BackendAdapter, clock: Clock | None = None) -> None:
        self.old: Final = old
        self.new: Final = new
        self.clock: Clock = clock or SystemClock()
        self.is_switched: bool = False
        self.is_drained: bool = False
        self.is_done: bool = False
        self._is_old_there = self._is_new_there = False
        chance = SystemRandom().random
        self._loop: asyncio.AbstractEventLoop | None = None
        self._looking: asyncio.Task[bool] | None = None
        self._one_by_one = asyncio.Lock()
        self._at_old = SharedChannel(new_token(), 0, clock=self.clock, chance=chance)
        self._at_new = SharedChannel(new_token(), 0, clock=self.clock, chance=chance)

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def connect(self) -> None:
        """Raises what the store raises that has to be there: the old one, until the move is over."""
        self._loop, self._one_by_one = asyncio.get_running_loop(), asyncio.Lock()
        try:
            await self.old.connect()
            self._is_old_there = True
        except StoreError:
            # Once the move is over, its server may be gone.
            await self._reach_new()
            if not (await is_ours(self.new)).is_over:
                raise
            self.is_switched = self.is_drained = self.is_done = True
            log.info("the old store is not there any more, the move from it is over")
            return
        try:
            await self._reach_new()
        except StoreError as exc:
            log.warning("the new store is not there; no move can begin", extra={"error": str(exc)})
        await self.learn()

    async def disconnect(self) -> None:
        if self._looking is not None:
            await self._looking
        try:
            if self._is_new_there:
                self._is_new_there = False
                await self.new.disconnect()
        finally:
            if self._is_old_there:
                self._is_old_there = False
                await self.old.disconnect()

    async def _reach_new(self) -> None:
        if not self._is_new_there:
            await self.new.connect()
            self._is_new_there = True

    @property
    def homes(self) -> tuple[BackendAdapter, ...]:
        """The stores that have a part in it now, the old one first."""
        if self.is_done:
            return (self.new,)
        return (self.old, self.new) if self.is_switched else (self.old,)

    @property
    def reachable(self) -> tuple[BackendAdapter, ...]:
        return (*((self.old,) if self._is_old_there else ()), *((self.new,) if self._is_new_there else ()))

    @property
    def home(self) -> BackendAdapter:
        """Where shared state lives: it moves last."""
        return self.new if self.is_done else self.old

    @property
    def intake(self) -> BackendAdapter:
        """Where new jobs go."""
        return self.new if self.is_switched else self.old

    # ── what the stores say ───────────────────────────────────────────────────────────────────────────────────────────
    async def learn(self) -> bool:
        """Ask; whether anything is different. A mode of the old store that no move of ours set is its own affair."""
        before = (self.is_switched, self.is_drained, self.is_done)
        if self.is_done or not self._is_old_there:
            return False  # from there no way leads back
        async with self._one_by_one:  # what was seen first must not be remembered last
            self.is_switched, self.is_drained, self.is_done = now = await self._look()
        return now != before

    async def _look(self) -> tuple[bool, bool, bool]:
        info = await self.old.info()
        while info.mode != "open":
            await self._reach_new()
            ours = await is_ours(self.new)
            before, info = info, await self.old.info()
            if info.epoch == before.epoch:  # both stores were as they say at one instant
                is_done = info.mode == "moved" and (ours.is_over or ours.is_live)
                is_switched = is_done or ours.is_live
                return is_switched, is_switched and info.mode != "draining", is_done
        return False, False, False

    def learn_soon(self) -> None:
        """`learn`, from any thread and without waiting."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._start_to_learn)

    def _start_to_learn(self) -> None:
        self._looking = spawn(self._learn_if_possible(), name="psyqueue-learn")

    async def _learn_if_possible(self) -> bool:
        try:
            return await self.learn()
        except StoreError as exc:
            log.debug("the stores could not be asked", extra={"error": str(exc)})
            return False

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """`call`, and again while the store that it asks is just being closed or opened.

        Raises StoreBusy if that takes too long. What refuses for another reason than this move is told as it is.
        """
        until = self.clock.mono_ms() + PATIENCE_MS
        while True:
            try:
                return await call()
            except NamespaceFrozen as exc:
                if await self.learn():
                    continue
                if not self.is_switched:
                    raise
                if self.clock.mono_ms() >= until:
                    raise StoreBusy("the stores are being switched for a move. Nothing was written: try again") from exc
                await self.clock.sleep_ms(LOOK_AGAIN_MS)

    async def change_old(self, call: Callable[[Op], Awaitable[T]]) -> T:
        """A change of our own, repeated until its outcome is known."""
        return await self._at_old.run(call)

    async def change_new(self, call: Callable[[Op], Awaitable[T]]) -> T:
        return await self._at_new.run(call)

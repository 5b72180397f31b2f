"""The worker: slots that run handlers, and one loop that talks to the store.

    1. Deliveries arrive in `_ready`; up to `concurrency` of them run, each in a task of its own.
    2. A run that ended leaves its outcome in `_outcomes`, and the next ready one starts: no store call in between.
    3. The loop sends everything that gathered in one `settle`, which also fetches for the free room. While the call is
       away further runs end; under load the batches grow by themselves (docs/adr/0019), a lone job is settled at once.
    4. With nothing to do the loop sleeps in `wait`: registered first, then one more look, so that no job is missed.

One call in flight with prefetch beats two without (docs/adr/0005). Beside the loop: the lease thread and housekeeping.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psyqueue.backend import Fetch, Renewal, SettleReply
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.clock import Duration, to_ms
from psyqueue.errors import NamespaceFrozen, SessionLost, StoreFull
from psyqueue.ids import new_token
from psyqueue.kernel.aio import call_later_ms, finish, next_turn, settle_down, spawn, within_ms
from psyqueue.kernel.announcer import Announcer
from psyqueue.kernel.children import Children
from psyqueue.kernel.executor import Executor
from psyqueue.kernel.housekeeper import Housekeeper
from psyqueue.kernel.lease_keeper import LeaseKeeper
from psyqueue.kernel.orders import Heeder, Order
from psyqueue.kernel.prefetch import Prefetch
from psyqueue.kernel.presence import presence
from psyqueue.kernel.run import Run
from psyqueue.kernel.settler import CLOSE_MS, Settler
from psyqueue.kernel.slots import ABANDON_MS, Slots
from psyqueue.kernel.threads import Threads
from psyqueue.kernel.troubles import Troubles

if TYPE_CHECKING:
    from psyqueue.kernel.core import Core

log: logging.Logger = logging.getLogger(__name__)

POLL_MS = 5_000
"""The truth behind wake-ups: an idle worker looks at the store this often."""
TROUBLE_MS = 1_000
"""Pause after a refusal by the store that time may mend (full, frozen)."""
TURN_MS = 1_000
LAST_CALLS_MS = 2_000
"""At the end, for outcomes that no call has carried yet. Leases give back what is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """Checked by `PsyQueue.start_worker`. No queues = those of the handlers. `prefetch` None = adaptive.

    `hang_ms`: how long the event loop may stand still before the worker gives up its lease.
    """

    queues: tuple[str, ...]
    name: str
    concurrency: int = 10
    prefetch: int | None = None
    lease_ms: int = 30_000
    grace_ms: int = 30_000
    hang_ms: int = 300_000


class Worker:
    """Runs jobs of its queues until stopped. Made by `PsyQueue.start_worker`.

    `failure` is why it ended by itself, None while all is well; `was_ordered`: an operator told it to end. Not
    thread-safe: use it on the loop that started it.
    """

    def __init__(self, core: Core, options: WorkerOptions) -> None:
        self.options = options
        self.name: str = options.name
        self.failure: BaseException | None = None
        self.was_ordered: bool = False
        self._core = core
        self._backend = core.backend
        self._troubles = Troubles(options.name, core.bus)
        self._batch = min(ITEMS_MAX, core.backend.capabilities.batch_max)
        self._threads = Threads(f"psyqueue-{options.name}", on_return=self._thread_returned)
        self._children = Children()
        self._housekeeper = Housekeeper(core, self._all_queues, options.lease_ms, self._may_reap)
        self._slots: Slots
        self._settler: Settler
        self._keeper: LeaseKeeper | None = None
        self._heeder = Heeder(core, options.name, on_word=self._worded, on_order=self._ordered)
        self._heeding: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._waiter: asyncio.Task[None] | None = None
        self._due_timer: asyncio.TimerHandle | None = None
        self._stop_timers: list[asyncio.TimerHandle] = []
        self._is_asked = self._is_dry = self._is_resting = False
        self._is_stopping = self._is_lost = False
        self._turns = 0
        self._turned_ms = core.clock.mono_ms()
        self._beside: set[asyncio.Task[Any]] = set()
        self._main: asyncio.Task[None] | None = None

    # ── from outside ──────────────────────────────────────────────────────────────────────────────────────────────────
    def start(self) -> None:
        """Called once, by who made it."""
        announcer = Announcer(self._core.bus)
        executor = Executor(
            self._core,
            announcer=announcer,
            threads=self._threads,
            children=self._children,
            on_timeout=self._timed_out,
            on_progress=self._progressed,
            on_trouble=self._troubles.tell,
            session_id=lambda: self._settler.session_id,
        )
        self._slots = Slots(
            executor,
            size=self.options.concurrency,
            batch=self._batch,
            prefetch=Prefetch(self.options.concurrency, self.options.prefetch),
            announcer=announcer,
            wake=self._wake.set,
            stuck=self._stuck,
        )
        self._settler = Settler(
            self._core,
            slots=self._slots,
            executor=executor,
            announcer=announcer,
            trouble=self._troubles.tell,
            give_up_ms=math.inf,
        )
        self._main = spawn(self._work(), name=f"psyqueue-worker-{self.name}")

    async def stop(self, *, grace: Duration | None = None) -> None:
        """Drain: fetch nothing more, hand back what was not started, let running handlers end within `grace` (30 s).

        Then these are cancelled and handed back too. Called again it can only shorten the grace. Returns when the
        worker is gone; cancelled before that, the worker goes on ending by itself. Raises InvalidOption.
        """
        await self.drain(None if grace is None else to_ms("grace", grace))

    async def drain(self, grace_ms: int | None) -> None:
        """As `stop`, for the parts of psyqueue."""
        if self._main is None:
            return
        grace_ms = self.options.grace_ms if grace_ms is None else grace_ms
        self._begin_stop()
        if self._settler.session_id:
            # A store that stays away must not keep a stopping process alive: leases give the jobs back later.
            self._stop_timers.append(call_later_ms(grace_ms, self._slots.stop_all, "release"))
            self._stop_timers.append(call_later_ms(grace_ms + 2 * ABANDON_MS, self._cut))
        else:
            self._cut()  # there is nothing to wait for
        await asyncio.wait({self._main})
        self._cancel_timers()

    async def wait(self) -> None:
        """Until the worker ended. Raises what made it end, if it was not stop()."""
        if self._main is not None:
            await asyncio.wait({self._main})
        if self.failure is not None:
            raise self.failure

    def handlers_changed(self) -> None:
        """There may be one more queue to run."""
        if self.options.queues:
            return
        if self._waiter is not None:
            # It listens to the queues of before.
            self._waiter.cancel()
            self._waiter = None
        self._look_again()

    @property
    def is_running(self) -> bool:
        """False once it has ended, for whatever reason."""
        return self._main is not None and not self._main.done()

    def health(self) -> dict[str, Any]:
        """Facts for a probe: the time since the store last answered (None: never), and since the loop last turned."""
        answered_ms, now_ms = self._settler.answered_ms, self._core.clock.mono_ms()
        age = None if answered_ms is None else round(now_ms - answered_ms)
        return {
            "worker": self.name,
            "queues": list(self._all_queues()),
            "running": len(self._slots.running),
            "held": self._slots.held,
            "slots": self.options.concurrency,
            "stopping": self._is_stopping,
            "store_call_age_ms": age,
            "loop_turn_age_ms": round(now_ms - self._turned_ms),
        }

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def _work(self) -> None:
        try:
            self._beat()
            await self._core.lifespan.enter()
            await self._open_session()
            for part in (self._housekeeper, self._settler.throughput):
                self._spawn_beside(part.work(), type(part).__name__.lower())
            self._core.bus.publish("worker:started", {"worker": self.name, "queues": list(self._all_queues())})
            await self._loop()
        except Exception as exc:
            self.failure = exc
            log.exception("worker ended", extra={"worker": self.name})
            self._troubles.tell(exc)
        finally:
            self._begin_stop()
            # However often it is cancelled from here on, what it holds is handed back.
            await finish(self._close(), on_cancel=_go_on, limit_ms=ABANDON_MS + LAST_CALLS_MS)

    async def _close(self) -> None:
        self._cancel_timers()
        beside = [*self._beside, *([self._waiter] if self._waiter else [])]
        for task in beside:
            task.cancel()
        await self._slots.end()
        if self._main is not None and self._main.cancelling():
            self._slots.forgive()
        if self._settler.session_id and self._slots.has_news and not self._is_lost:
            await within_ms(LAST_CALLS_MS, self._last_calls())
        self._threads.close()
        await within_ms(CLOSE_MS, self._children.close())
        await self._close_session()
        await settle_down(beside, CLOSE_MS)
        self._core.bus.publish("worker:stopped", {"worker": self.name})

    async def _last_calls(self) -> None:
        while self._slots.has_news and not self._is_lost:
            await self._turn(0)

    async def _open_session(self) -> None:
        meta = presence(self._core.handlers.all(), self.options.concurrency, self._core.clock.now_ms())
        await self._settler.open(self.name, self._all_queues(), self.options.lease_ms, meta)
        self._keeper = LeaseKeeper(
            self._backend.keeper(),
            self._settler.session_id,
            lease_ms=self.options.lease_ms,
            hang_ms=self.options.hang_ms,
            clock=self._core.clock,
            turns=lambda: self._turns,
            on_renewal=self._renewed,
            on_hang=self._core.on_hang,
        )
        self._keeper.start()
        if self._heeding is not None:
            self._heeding.cancel()
        self._heeding = self._spawn_beside(self._heeder.work(self._settler.session_id), "heed")

    async def _close_session(self) -> None:
        if self._keeper is not None:
            self._keeper.stop()
        await within_ms(2 * CLOSE_MS, self._settler.end())
        if self._keeper is not None:
            await within_ms(CLOSE_MS, self._keeper.ended.wait())

    def _cancel_timers(self) -> None:
        for timer in (self._due_timer, *self._stop_timers):
            if timer is not None:
                timer.cancel()
        self._stop_timers.clear()

    def _cut(self) -> None:
        if self._main is not None:
            self._main.cancel()

    def _begin_stop(self) -> None:
        self._is_stopping = True
        self._slots.close()
        self._wake.set()

    def _all_queues(self) -> tuple[str, ...]:
        return self.options.queues or self._core.handlers.queues()

    def _spawn_beside(self, coro: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        task = spawn(coro, name=f"psyqueue-{what}-{self.name}")
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        return task

    def _beat(self) -> None:
        """The lease thread sees by this that the loop turns."""
        self._turns += 1
        self._turned_ms = self._core.clock.mono_ms()
        self._slots.look_for_jam()
        if self.is_running:
            call_later_ms(TURN_MS, self._beat)

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────────────
    async def _loop(self) -> None:
        slots = self._slots
        while not (self._is_stopping and slots.held == 0):
            self._wake.clear()
            if self._is_lost or slots.is_astray:
                await self._start_over()
            slots.start_apart()
            room = slots.room()
            if slots.has_news or self._is_asked or (room > 0 and not self._is_dry):
                await self._turn(room)
            else:
                await self._rest(room)

    async def _turn(self, room: int) -> None:
        """One store call: settle what gathered, fetch for the free room."""
        self._is_asked = False
        entries = self._slots.take_outcomes()
        fetch = None
        if room > 0:
            count, counts = min(room, self._batch), self._slots.is_in_doubt
            fetch = Fetch(queues=self._all_queues(), count=count, token_seed=new_token(), counts=counts)
        try:
            reply = await self._settler.send(entries, fetch)
        except SessionLost:
            self._is_lost = True
        except (StoreFull, NamespaceFrozen) as exc:
            # Nothing was written: it goes out again when time may have mended it.
            if isinstance(exc, NamespaceFrozen):
                self._troubles.tell(exc)
                self._is_dry = True
            if entries or not self._is_dry:
                await self._core.clock.sleep_ms(TROUBLE_MS)
        else:
            if self._housekeeper.note_ended(len(entries)):
                self._spawn_beside(self._housekeeper.prune(), "prune")
            if not self._is_lost:
                self._receive(reply, fetch)

    def _receive(self, reply: SettleReply, fetch: Fetch | None) -> None:
        """Take in the deliveries, and remember whether and when there may be more."""
        if fetch is not None:
            self._is_dry = len(reply.deliveries) < fetch.count and not reply.more
            self._set_due_timer(reply.next_due_in_ms)
        self._slots.receive(reply.deliveries, reply.held)
        if reply.cancel_requested:
            self._slots.cancel(reply.cancel_requested)

    def _timed_out(self, run: Run) -> None:
        self._slots.stop_run(run, "timeout")

    def _progressed(self, run: Run) -> None:
        self._slots.progressed(run)

    def _thread_returned(self) -> None:
        self._slots.returned()

    # ── sleep ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def _rest(self, room: int) -> None:
        """Nothing to send and nothing to fetch: sleep until something ends, arrives or becomes due."""
        if room > 0 and (self._waiter is None or self._waiter.done()):
            self._listen()
            # Let it register, then look once more: a job enqueued in between is found by one or the other.
            await next_turn()
            self._is_dry = False
            return
        if room <= 0 and self._waiter is not None:
            self._waiter.cancel()  # where one waiter alone is woken, it shall be one with room
            self._waiter = None
        self._is_resting = True
        try:
            await self._wake.wait()
        finally:
            self._is_resting = False

    def _listen(self) -> None:
        self._waiter = spawn(self._hear(), name=f"psyqueue-wait-{self.name}")

    async def _hear(self) -> None:
        """Until there may be news. Who was asleep listens on before looking: the look then tells if it may sleep on."""
        goes_on = True
        while goes_on:
            try:
                is_news = await self._backend.wait(self._all_queues(), (), POLL_MS)
            except Exception as exc:  # noqa: BLE001 - a store that cannot be listened to is looked at now and then
                self._troubles.tell(exc)
                await self._core.clock.sleep_ms(TROUBLE_MS)
                is_news = False
            goes_on = is_news and self._is_resting
            # It wakes now: more news before it did is the same news.
            self._is_resting = False
            self._is_dry &= not is_news
            self._wake.set()

    def _worded(self) -> None:
        """Somebody cancelled a job that we hold: look now, not with the next call or renewal."""
        self._is_asked = True
        self._wake.set()

    def _ordered(self, order: Order) -> None:
        self.was_ordered = True
        if order.kind == "stop":
            self._spawn_beside(self.drain(order.grace_ms), "ordered")
        else:
            self._begin_stop()

    def _look_again(self) -> None:
        self._is_dry = False
        self._wake.set()

    def _set_due_timer(self, due_in_ms: int | None) -> None:
        if self._due_timer is not None:
            self._due_timer.cancel()
            self._due_timer = None
        if due_in_ms is not None and due_in_ms < POLL_MS:
            self._due_timer = call_later_ms(max(1, due_in_ms), self._look_again)

    # ── the lease ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def _renewed(self, renewal: Renewal) -> None:
        if not renewal.open:
            self._is_lost = True
            self._wake.set()
            return
        self._slots.is_in_doubt = True
        if renewal.cancel_requested:
            self._slots.cancel(renewal.cancel_requested)
        if renewal.paused:
            self._slots.hand_back_queues(renewal.paused)
        self._spawn_beside(self._heeder.look(), "orders")

    def _may_reap(self) -> bool:
        return self._keeper is not None and self._keeper.is_steady

    async def _start_over(self) -> None:
        """The session was reaped, or holds what nobody here knows: nothing of it counts any more. Then a new one."""
        log.warning("session lost, its jobs go to others", extra={"worker": self.name, "held": self._slots.held})
        if self._keeper is not None:
            self._keeper.stop()
        if self._is_lost:
            self._settler.lose()
        else:
            await self._settler.close()
        self._is_lost = self._is_dry = False
        self._slots.lose_all()
        if not self._is_stopping:
            await self._open_session()

    # ── trouble ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def _stuck(self) -> None:
        self.failure = RuntimeError(f"worker {self.name!r}: every slot is held by a handler that ignores its stop")
        self._troubles.tell(self.failure)
        self._begin_stop()


def _go_on() -> None:
    """It is ending as fast as it can."""

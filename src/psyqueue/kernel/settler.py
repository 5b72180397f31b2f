"""The talk of a session with the store: outcomes go out, verdicts and new deliveries come back.

One call at a time, each repeated with the same op until its outcome is known: what failed in between was the call,
never the handler whose outcome it carried.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from psyqueue.backend import AnyOutcome, Dead, Fetch, Keep, Op, Session, Settled, SettleReply
from psyqueue.errors import NamespaceFrozen, StoreBusy, StoreError, StoreFull, StoreUnavailable, StoreUnusable, TooLarge
from psyqueue.ids import new_token
from psyqueue.kernel.executor import TOO_LARGE
from psyqueue.kernel.slots import Entry
from psyqueue.kernel.throughput import Throughput

if TYPE_CHECKING:
    from psyqueue.clock import Clock
    from psyqueue.kernel.announcer import Announcer
    from psyqueue.kernel.core import Core
    from psyqueue.kernel.executor import Executor
    from psyqueue.kernel.run import Run
    from psyqueue.kernel.slots import Slots

log: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")

CLOSE_MS = 1_000
"""For closing a session. If the store is away for longer, the lease ends by itself."""


class Settler:
    """`session_id` is empty while there is no session. `give_up_ms` bounds the repeats of one call.

    `trouble(error)` hears of every try that failed.
    """

    def __init__(
        self,
        core: Core,
        *,
        slots: Slots,
        executor: Executor,
        announcer: Announcer,
        trouble: Callable[[BaseException], None],
        give_up_ms: float,
    ) -> None:
        self.session_id: str = ""
        self._to_close = ""
        self.answered_ms: float | None = None
        """When the store last answered, by the process's clock."""
        self._core = core
        self._backend = core.backend
        self._slots = slots
        self._executor = executor
        self._announcer = announcer
        self._trouble = trouble
        self._channel = core.new_channel(give_up_ms)
        self._patience_ms = 0.0
        self.throughput: Throughput = Throughput(core, CLOSE_MS)

    # ── the session ───────────────────────────────────────────────────────────────────────────────────────────────────
    async def open(self, worker: str, queues: tuple[str, ...], lease_ms: int, meta: bytes = b"{}") -> None:
        """Raises what cannot be waited for, such as StoreUnusable."""
        session = Session(id=new_token(), worker=worker, queues=queues, lease_ms=lease_ms, meta=meta)
        # Also of a call that is cut short the session may be there: it is closed at the end.
        self._to_close = session.id
        # What cannot be used from the start is told at once.
        self._patience_ms = 0 if self.answered_ms is None else lease_ms
        await self._until_known(lambda op: self._backend.open_session(op, session), may_be_full=True)
        self._patience_ms = lease_ms
        self.session_id = session.id

    def lose(self) -> None:
        """The store closed the session."""
        self.session_id = self._to_close = ""

    async def close(self) -> None:
        """Hand back what the session still holds. A store that is away is not waited for."""
        session_id = self._to_close
        self.lose()
        if not session_id:
            return
        channel = self._core.new_channel(CLOSE_MS)
        try:
            while (await channel.run(lambda op: self._backend.close_session(op, session_id))).more:
                pass
        except (StoreError, NamespaceFrozen) as exc:
            log.warning("session not closed, its lease will end", extra={"session": session_id, "error": str(exc)})

    async def end(self) -> None:
        """Close, and add up what was done since the last time."""
        await self.close()
        await self.throughput.write()

    # ── outcomes ──────────────────────────────────────────────────────────────────────────────────────────────────────
    async def send(self, entries: Sequence[Entry], fetch: Fetch | None) -> SettleReply:
        """Settle `entries`, then do `fetch`; the reply is that of the fetch. Verdicts are worked in before it returns.

        Raises SessionLost, StoreFull, NamespaceFrozen, …: what was not settled is back in the slots.
        """
        batches = deque((entries,))
        try:
            while True:
                batch = batches[0]
                try:
                    reply = await self._call(batch, fetch if len(batches) == 1 else None)
                except TooLarge as exc:
                    # Halved, until the one to blame stands alone.
                    batches.popleft()
                    batches.extendleft(reversed(self._smaller(batch, exc)))
                    continue
                batches.popleft()
                self._apply(batch, reply)
                if not batches:
                    return reply
        except BaseException:
            self._slots.put_back([entry for batch in batches for entry in batch])
            raise

    async def _call(self, entries: Sequence[Entry], fetch: Fetch | None) -> SettleReply:
        outcomes = [outcome for _, outcome in entries]
        session_id = self.session_id
        return await self._until_known(lambda op: self._backend.settle(op, session_id, outcomes, fetch))

    async def _until_known(self, call: Callable[[Op], Awaitable[T]], *, may_be_full: bool = False) -> T:
        attempt = _Attempt(self._core.clock, self._patience_ms, self._troubled, may_be_full=may_be_full)
        reply = await self._channel.run(attempt.of(call))
        self.answered_ms = self._core.clock.mono_ms()
        return reply

    def _troubled(self, error: BaseException) -> None:
        # The store may come back with an older state.
        self._slots.is_in_doubt = True
        self._trouble(error)

    def _smaller(self, entries: Sequence[Entry], error: TooLarge) -> Sequence[Sequence[Entry]]:
        if len(entries) > 1:
            middle = len(entries) // 2
            return entries[:middle], entries[middle:]
        if not entries or isinstance(entries[0][1], Dead):
            raise error
        run, outcome = entries[0]
        if isinstance(outcome, Keep):
            return ((),)
        return ([(run, self._executor.failed_after(run, error, reason=TOO_LARGE))],)

    def _apply(self, entries: Sequence[Entry], reply: SettleReply) -> None:
        """The store's verdicts on what was sent."""
        if not entries:
            return
        slots, ended = self._slots, 0
        is_heard = self._announcer.is_heard()
        for (run, outcome), settled in zip(entries, reply.settled, strict=True):
            if isinstance(outcome, Keep):
                if settled.verdict == "lost":
                    slots.lose(run)
            elif settled.verdict == "conflict":
                run.outcome = self._executor.conflicted(run)
                slots.put(run)
            else:
                ended += 1
                if is_heard or settled.verdict == "lost":
                    self._tell(run, outcome, settled)
        slots.held -= ended
        self.throughput.note(entries, reply.settled)

    def _tell(self, run: Run, outcome: AnyOutcome, settled: Settled) -> None:
        if settled.verdict == "lost":
            log.warning("outcome came too late", extra={"job_id": run.delivery.id, "queue": run.delivery.queue})
        self._announcer.settled(run.delivery, outcome, settled)


class _Attempt:
    """One call and its repeats: which failures end it, and which only ask for a repeat with the same op.

    `may_be_full`: a full store is waited for, too; without it the caller may have something else to send.
    """

    def __init__(
        self, clock: Clock, patience_ms: float, trouble: Callable[[BaseException], None], *, may_be_full: bool
    ) -> None:
        self._clock = clock
        self._patience_ms = patience_ms
        self._trouble = trouble
        self._may_be_full = may_be_full
        self._may_have_happened = False
        self._unusable_since_ms: float | None = None

    def of(self, call: Callable[[Op], Awaitable[T]]) -> Callable[[Op], Awaitable[T]]:
        async def attempt(op: Op) -> T:
            try:
                return await call(op)
            except StoreError as exc:
                self._trouble(exc)
                self._judge(exc)
                # To the channel: not known yet, send the same op again.
                raise StoreUnavailable(exc.message) from exc
            except NamespaceFrozen as exc:
                if not self._may_have_happened:
                    raise
                raise StoreUnavailable(exc.message) from exc

        return attempt

    def _judge(self, error: StoreError) -> None:
        """Raises `error` if it ends the call.

        A refusal says that this try wrote nothing, and nothing about an earlier one that got no answer.
        """
        if isinstance(error, StoreUnavailable):
            self._may_have_happened |= error.outcome == "unknown"
        elif isinstance(error, StoreFull):
            if not (self._may_have_happened or self._may_be_full):
                raise error
        elif not isinstance(error, StoreBusy):
            self._judge_unusable(error)

    def _judge_unusable(self, error: StoreError) -> None:
        """A mount that is read-only for a moment is waited for; after a lease nothing that is held counts any more."""
        now_ms = self._clock.mono_ms()
        if self._unusable_since_ms is None:
            self._unusable_since_ms = now_ms
        if not isinstance(error, StoreUnusable) or now_ms - self._unusable_since_ms >= self._patience_ms:
            raise error

"""One delivery from payload to outcome, read from top to bottom. It never calls the store."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from psyqueue import codec
from psyqueue.backend import NO_EFFECTS, Ack, AnyOutcome, Cancelled, Dead, Delivery, Effects, Release
from psyqueue.backend import Snooze as SnoozeOutcome
from psyqueue.errors import HandlerTimeout, InvalidState, SessionLost, StoreError, TooLarge
from psyqueue.kernel.aio import Isolated, call_in, call_later_ms
from psyqueue.kernel.context import Context, Signals, running_job
from psyqueue.kernel.failures import log_failure
from psyqueue.kernel.run import Run, with_progress
from psyqueue.kernel.run_transaction import WAY_OUT, RunTransaction
from psyqueue.kernel.threads import Threads
from psyqueue.outcome import DeadLetter, Misfit, NotBegun, Verdict, decide, error_json

if TYPE_CHECKING:
    from psyqueue.backend import Transaction
    from psyqueue.kernel.announcer import Announcer
    from psyqueue.kernel.children import Children
    from psyqueue.kernel.core import Core
    from psyqueue.kernel.handlers import HandlerSpec
    from psyqueue.outcome import Policy

TOO_LARGE = "too_large"
IMPORT_MS = 60_000
"""For a process to start and to import its handler, whose timeout begins then."""
DELAY_MS = 1_000
DELAY_CAP_MS = 60_000
UNKNOWN_GIVE_UP_MS = 86_400_000
"""A job whose handler no worker knows waits a day for a deploy, then it is dead."""


class Executor:
    """Runs deliveries. `on_timeout(run)` is the worker's, called when a run has used up its time.

    `on_trouble(error)` hears of a run that could not begin here.
    """

    def __init__(
        self,
        core: Core,
        *,
        announcer: Announcer,
        threads: Threads,
        children: Children,
        on_timeout: Callable[[Run], None],
        on_progress: Callable[[Run], None],
        on_trouble: Callable[[BaseException], None],
        session_id: Callable[[], str],
    ) -> None:
        self._core = core
        self._find = core.handlers.find
        self._chain = core.process_chain
        self._mono_ms = core.clock.mono_ms
        self._started = announcer.started
        self._threads = threads
        self._children = children
        self._on_timeout = on_timeout
        self._on_progress = on_progress
        self._on_trouble = on_trouble
        self._session_id = session_id
        self._loop = asyncio.get_running_loop()

    async def execute(self, run: Run) -> None:
        """Set `run.outcome`. It stays None when the process is interrupted right here."""
        delivery = run.delivery
        spec = self._find(delivery.name)
        if spec is None:
            run.outcome = unknown_handler(delivery)
            return
        started_ms = self._mono_ms()
        # A slot is a task, and has this context to itself. Not the delivery: it would keep the last payload alive.
        running_job.set((delivery.id, delivery.queue, delivery.name, delivery.attempt))
        try:
            if spec.is_plain and self._chain is None and delivery.cold == b"{}":
                run.outcome = await self._run_plain(spec, delivery)
            else:
                run.outcome = await self._run_full(run, spec)
        except asyncio.CancelledError as exc:
            if run.stop_reason is None and run.task is not None and run.task.cancelling():
                run.stop_reason = "unasked"
            run.outcome = self._failed(run, spec, exc)
        except GeneratorExit:
            raise
        except BaseException as exc:  # a handler's failure, SystemExit too, never escapes its run
            if isinstance(exc, KeyboardInterrupt) and not self._core.takes_interrupts:
                raise
            run.outcome = self._failed(run, spec, exc)
        run.run_ms = self._mono_ms() - started_ms

    async def _run_plain(self, spec: HandlerSpec, delivery: Delivery) -> AnyOutcome:
        """The short way of an `async def` without context, middleware, timeout or options of its own."""
        self._started(delivery)
        result = await Isolated(spec.invoke(None, _decoded(delivery.payload)))
        if result is None:
            return Ack(job_id=delivery.id, completion_token=delivery.completion_token)
        return self._decide(delivery, spec.policy, result=result)

    async def _run_full(self, run: Run, spec: HandlerSpec) -> AnyOutcome:
        delivery = run.delivery
        run.signals = Signals()
        ctx = Context(
            delivery,
            _decoded(delivery.payload),
            run.signals,
            self._core.follow_up,
            functools.partial(self._report, run),
            functools.partial(self._transact, run),
            app=self._core.lifespan.value,
        )
        cold = ctx.job.cold
        version = cold.get("schema_version", 1)
        if version > spec.version:
            return unknown_handler(delivery)
        if spec.upgrades:
            ctx.job.payload = spec.upgraded(ctx.job.payload, version)
        policy = spec.policy_for(cold)
        _refuse_late(delivery, cold)
        self._started(delivery)
        if policy.timeout_ms is not None:
            self._set_timer(run, policy.timeout_ms)
        try:
            result, effects = await Isolated(self._through_chain(run, spec, ctx))
            if run.stop_reason == "timeout":
                # It took the cancel for an order to return: what it returned is not what it was asked for.
                return self.stopped(run)
            outcome = self._decide(delivery, policy, result=result, effects=effects)
            transaction = None if run.transaction is None else run.transaction.take()
            return outcome if transaction is None else await self._commit(run, policy, transaction, outcome)
        finally:
            run.signals.is_over = True
            if run.timer is not None:
                run.timer.cancel()
            if run.transaction is not None:
                await run.transaction.roll_back()

    async def _through_chain(self, run: Run, spec: HandlerSpec, ctx: Context) -> tuple[Any, Effects]:
        """What came of it, and the follow-ups of a successful run as the enqueue middleware leaves them."""
        if self._chain is None:
            result = await self._call(run, spec, ctx)
        else:

            async def terminal(inner: Context) -> Any:
                return await self._call(run, spec, inner)

            result = await self._chain(ctx, terminal)
        assert run.signals is not None, run.delivery.id
        run.signals.is_over = True
        if not ctx.follow_ups or isinstance(result, Verdict):
            return result, NO_EFFECTS
        return result, Effects(jobs=await self._core.guard_follow_ups(ctx.follow_ups))

    def _transact(self, run: Run) -> AbstractAsyncContextManager[Any]:
        if run.transaction is None:
            run.transaction = RunTransaction(self._begin)
        return run.transaction.enter()

    async def _begin(self) -> Transaction:
        if asyncio.get_running_loop() is not self._loop:
            raise InvalidState(f"a plain handler runs in a thread, outside of the worker's event loop. {WAY_OUT}")
        return await self._core.backend.begin()

    async def _commit(self, run: Run, policy: Policy, transaction: Transaction, outcome: AnyOutcome) -> AnyOutcome:
        """The run's own writes and its ack, in one step; the outcome to send by itself where that did not happen.

        Never an ack: where nobody knows whether the commit was done, a late ack would stand without the writes. Any
        other outcome meets a job that has ended, or finds it as it was.
        """
        if not isinstance(outcome, Ack):
            await transaction.rollback()
            return outcome
        if has_progress := run.has_progress:
            outcome = with_progress(run, outcome)
        try:
            settled = await transaction.commit(self._session_id(), outcome)
        except TooLarge as exc:
            return self.failed_after(run, exc, reason=TOO_LARGE)
        except SessionLost:
            return Release(job_id=run.delivery.id, completion_token=run.delivery.completion_token)
        except StoreError as exc:
            # The store's trouble is not the handler's: whatever it calls fatal, this is tried again.
            return self._decide(run.delivery, replace(policy, retry_on=(Exception,), fatal=()), error=exc)
        finally:
            # Until the commit is known to have taken it along, it goes with whatever is sent in its place.
            run.has_progress |= has_progress
        if settled.verdict == "conflict":
            return self.conflicted(run)
        run.settled = settled
        run.has_progress = False
        return outcome

    async def _call(self, run: Run, spec: HandlerSpec, ctx: Context) -> Any:
        if spec.kind == "async":
            return await spec.invoke(ctx, ctx.job.payload)
        if spec.kind == "process":
            return await self._call_in_process(run, spec, ctx)
        return await self._threads.run(functools.partial(spec.invoke, ctx, ctx.job.payload))

    async def _call_in_process(self, run: Run, spec: HandlerSpec, ctx: Context) -> Any:
        """The timeout is the handler's: a process that imports would use it up, be killed, and begin anew each time."""
        timeout_ms = _policy(spec, run.delivery).timeout_ms
        if timeout_ms is None:
            return await self._children.run(spec, run.delivery, ctx, _no_timer)
        self._set_timer(run, max(timeout_ms, IMPORT_MS))
        return await self._children.run(spec, run.delivery, ctx, functools.partial(self._set_timer, run, timeout_ms))

    def _set_timer(self, run: Run, limit_ms: int) -> None:
        if run.timer is not None:
            run.timer.cancel()
        run.timer = call_later_ms(limit_ms, self._on_timeout, run)

    # ── ends that are not the handler's own ───────────────────────────────────────────────────────────────────────────
    def stopped(self, run: Run) -> AnyOutcome:
        """The outcome of a run that was told to stop, by the reason. Of a lost one nothing counts, this neither."""
        delivery = run.delivery
        job_id, token = delivery.id, delivery.completion_token
        match run.stop_reason:
            case "cancel":
                return Cancelled(job_id=job_id, completion_token=token)
            case "timeout":
                spec = self._find(delivery.name)
                assert spec is not None, delivery.name
                policy = _policy(spec, delivery)
                return self._decide(delivery, policy, error=HandlerTimeout(delivery.name, policy.timeout_ms or 0))
            case _:
                return Release(job_id=job_id, completion_token=token)

    def conflicted(self, run: Run) -> AnyOutcome:
        """A follow-up depends on a job that does not exist: the run failed after all."""
        return self.failed_after(
            run, InvalidState("the store refused a follow-up of this run: it depends on an unknown job")
        )

    def failed_after(self, run: Run, error: BaseException, reason: str = "") -> AnyOutcome:
        """It ended, and then could not be settled as it was: a failure, final where a `reason` says so."""
        delivery = run.delivery
        spec = self._find(delivery.name)
        if reason or spec is None:
            body = error_json(error, delivery.attempt, self._core.clock.now_ms())
            token = delivery.completion_token
            outcome = Dead(job_id=delivery.id, completion_token=token, error=body, reason=reason or "fatal")
            log_failure(delivery, outcome, error)
            return outcome
        return self._decide(delivery, _policy(spec, delivery), error=error)

    @property
    def abandoned(self) -> int:
        """Threads that run on although their run was settled without them."""
        return self._threads.abandoned

    def is_thread(self, run: Run) -> bool:
        spec = self._find(run.delivery.name)
        return spec is not None and spec.kind == "thread"

    def _failed(self, run: Run, spec: HandlerSpec, error: BaseException) -> AnyOutcome:
        """A handler may turn the cancel it got into an error of its own; the reason of the stop counts then."""
        if run.stop_reason is None or run.stop_reason == "unasked":
            if isinstance(error, NotBegun):
                self._on_trouble(error)
                return put_off(run.delivery, "its run could not begin")
            return self._decide(run.delivery, _policy(spec, run.delivery), error=error)
        return self.stopped(run)

    def _decide(self, delivery: Delivery, policy: Policy, **how: Any) -> AnyOutcome:
        if "error" in how:
            self._core.on_failure(delivery, how["error"])
        outcome = decide(delivery, policy, chance=self._core.chance, at_ms=self._core.clock.now_ms(), **how)
        if type(outcome) is not Ack:
            log_failure(delivery, outcome, how.get("error"))
        return outcome

    def _report(self, run: Run, progress: bytes) -> None:
        """From any thread. However often it is called, one call at a time is on its way into the loop."""
        run.progress = progress
        if not run.has_progress:
            run.has_progress = True
            call_in(self._loop, self._on_progress, run)


def unknown_handler(delivery: Delivery) -> AnyOutcome:
    """Not ours: back to the others with a growing delay; after a day of that, dead.

    How long it has been waiting is told from the number of its deliveries, so that nothing has to be kept; a job that
    is younger than a day was delivered so often for other reasons.
    """
    doublings = _doublings(delivery)
    waited_ms = DELAY_MS * ((1 << doublings) - 1) + DELAY_CAP_MS * max(0, delivery.fence - 7)
    if min(waited_ms, delivery.started_at_ms - delivery.created_at_ms) >= UNKNOWN_GIVE_UP_MS:
        error = error_json(
            DeadLetter(f"no worker knew handler {delivery.name!r} for a day"), delivery.attempt, delivery.started_at_ms
        )
        return Dead(
            job_id=delivery.id, completion_token=delivery.completion_token, error=error, reason="unknown_handler"
        )
    return put_off(delivery, f"unknown handler {delivery.name!r}")


def put_off(delivery: Delivery, reason: str) -> AnyOutcome:
    """Back to the others with a growing delay, and no attempt used."""
    delay_ms = min(DELAY_CAP_MS, DELAY_MS << _doublings(delivery))
    token = delivery.completion_token
    return SnoozeOutcome(job_id=delivery.id, completion_token=token, delay_ms=delay_ms, reason=reason)


def _doublings(delivery: Delivery) -> int:
    return min(delivery.fence - 1, 6)


def _decoded(body: bytes) -> Any:
    """Raises Misfit for what is no JSON: some other client wrote it, and it will be none next time either."""
    try:
        return codec.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Misfit("$", f"cannot be read as JSON: {exc}") from exc


def _policy(spec: HandlerSpec, delivery: Delivery) -> Policy:
    """The job's own. One that cannot be read says nothing."""
    try:
        return spec.policy_for(codec.decode(delivery.cold))
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError, AttributeError):
        return spec.policy


def _no_timer() -> None:
    """Of a run without a timeout."""


def _refuse_late(delivery: Delivery, cold: dict[str, Any]) -> None:
    deadline_at_ms = cold.get("deadline_at_ms")
    if deadline_at_ms is not None and delivery.started_at_ms > deadline_at_ms:
        raise DeadLetter("deadline")

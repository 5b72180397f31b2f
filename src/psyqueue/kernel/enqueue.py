"""The way of a job into the store: read, bound, through the middleware, shared calls, told after the commit."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from psyqueue import codec
from psyqueue.backend import Enqueued, NewJob
from psyqueue.backend.bounds import CALL_BYTES_MAX, ITEMS_MAX
from psyqueue.errors import InvalidOption, PayloadError, PluginError, PsyQueueError, Rejected
from psyqueue.ids import new_id
from psyqueue.kernel.aio import at_once
from psyqueue.kernel.coalescer import Coalescer, job_bytes
from psyqueue.kernel.handler import Call
from psyqueue.kernel.handlers import HandlerSpec
from psyqueue.kernel.job_handle import JobHandle
from psyqueue.kernel.loop_thread import in_callers_thread
from psyqueue.kernel.options import (
    Content,
    Given,
    Template,
    new_job,
    plain_job,
    read,
    read_name,
    read_trace,
    refuse_conn,
)
from psyqueue.kernel.pipeline import Chain, Terminal
from psyqueue.kernel.plans import Plan
from psyqueue.outcome import Verdict

if TYPE_CHECKING:
    from psyqueue.kernel.context import RunningJob
    from psyqueue.kernel.core import Core

T = TypeVar("T")
R = TypeVar("R")

log: logging.Logger = logging.getLogger(__name__)

MAX_RETRIES_DEFAULT = 3
UNKNOWN_NAMES_MAX = 1_000
"""Names remembered as warned about; more are a mistake that one more warning each time will show."""


class Draft(msgspec.Struct):
    """A job before it is written; middleware may change every field. `options` are those of `enqueue`, as given.

    `trace`: headers of the W3C trace context, such as `traceparent`, which the run finds at `ctx.job.trace`.
    """

    id: str
    name: str
    queue: str
    payload: Any
    options: dict[str, Any]
    parent_id: str | None = None
    trace: Mapping[str, str] | None = None


class EnqueueContext:
    """What enqueue middleware gets: all jobs of the call in `jobs`, a dict of its own in `state`.

    After `await call_next()`, `handles` are those of the written jobs, in the order of `jobs`. `given` are the same
    drafts in the caller's order.
    """

    __slots__ = ("given", "handles", "jobs", "state")
    event = "enqueue"

    def __init__(self, jobs: list[Draft]) -> None:
        self.given: tuple[Draft, ...] = tuple(jobs)
        self.jobs: list[Draft] = jobs
        self.state: dict[str, Any] = {}
        self.handles: list[JobHandle[Any]] | None = None


class FollowUp(NewJob, frozen=True, kw_only=True):
    """A job of `ctx.enqueue` that the enqueue middleware has yet to see."""

    draft: Draft


class Enqueuer:
    """One per started queue."""

    def __init__(self, core: Core) -> None:
        self._core = core
        channels = [core.new_channel() for _ in range(core.backend.capabilities.enqueues_at_once)]
        self._coalescer = Coalescer(channels, core.backend.enqueue, core.backend.get)
        self._warned: set[str] = set()

    # ── one ───────────────────────────────────────────────────────────────────────────────────────────────────────
    async def enqueue(self, name_or_call: Any, payload: Any, options: Mapping[str, Any]) -> JobHandle[Any]:
        """One job, by name or built."""
        if isinstance(name_or_call, Call):
            call = name_or_call.over(payload, options)
            return await self.enqueue_bound(call.spec, call.payload, call.options, call.given)
        spec = self._find(name_or_call)
        if spec is not None:
            # First, since an argument that was given as an option would be missing in the payload.
            given = read(options) if options else {}
            return await self.enqueue_bound(spec, spec.parameters.check(payload), options, given)
        draft = self._draft(None, name_or_call, payload, options)
        return (await self._enqueue_drafts([draft], [read(options)]))[0]

    async def enqueue_bound(
        self, spec: HandlerSpec, payload: Any, options: Mapping[str, Any], given: Given
    ) -> JobHandle[Any]:
        """One job of a known handler, its payload checked."""
        core = self._core
        core.require_running()
        if given or core.enqueue_chain is not None or spec.makes_keys:
            return (await self._enqueue_drafts([self._draft(spec, spec.name, payload, options)], [given]))[0]
        job = plain_job(new_id(), spec.template, payload, spec.max_retries)
        jobs = (job,)
        # The short way of the short way: among many callers one coroutine less for each.
        joined = self._coalescer.join(jobs)
        replies = await (self._coalescer.submit(jobs) if joined is None else joined)
        self.tell(jobs, replies)
        return self._handle(job, replies[0].job_id, spec, created=replies[0].created)

    # ── many ──────────────────────────────────────────────────────────────────────────────────────────────────────
    async def enqueue_bulk(self, items: Iterable[Any], options: Mapping[str, Any]) -> list[JobHandle[Any]]:
        """Calls and mappings, in order. An error carries `.enqueued`, the handles made before it."""
        core = self._core
        core.require_running()
        if "id" in options:
            raise InvalidOption("id", options["id"], "cannot be the same for all jobs of a call", "Give it per item")
        listed = list(_listed(items))
        if not listed:
            return []
        if core.enqueue_chain is None and not options:
            return await self._write(*self._jobs_of_items(listed))
        drafts = _each(listed, lambda number, item: self._draft_of_item(number, item, options))
        return await self._enqueue_drafts(drafts, _each(drafts, lambda _, draft: read(draft.options)))

    def _jobs_of_items(self, items: Sequence[Any]) -> tuple[list[NewJob], Any]:
        """The jobs of items that no middleware sees, and the connection that they share."""
        givens: list[Given] = []

        def make(number: int, item: Any) -> NewJob:
            if type(item) is Call and not item.given and not item.spec.makes_keys:
                # The short way of a built call without options.
                given, spec = item.given, item.spec
                job = plain_job(new_id(), spec.template, item.payload, spec.max_retries)
            else:
                draft = self._draft_of_item(number, item, {})
                given = read(draft.options)
                job = self._job(draft, given)
            if not givens or given is not givens[-1]:
                givens.append(given)
            return job

        return _each(items, make), _one_connection(givens)

    async def drain(self) -> None:
        """Until everything that was accepted is written."""
        await self._coalescer.drain()

    # ── from inside a run ─────────────────────────────────────────────────────────────────────────────────────────
    def follow_up(
        self, parent: RunningJob, name_or_call: Any, payload: Any, options: Mapping[str, Any]
    ) -> tuple[NewJob, JobHandle[Any]]:
        """The job of `ctx.enqueue`, checked; it is written with the ack of `parent`, and goes on in its trace."""
        if isinstance(name_or_call, Call):
            call = name_or_call.over(payload, options)
            draft = self._draft(call.spec, call.spec.name, call.payload, call.options)
        else:
            draft = self._draft(self._find(name_or_call), name_or_call, payload, options)
        refuse_conn(draft.options)
        draft.parent_id, draft.trace = parent.id, parent.trace or None
        job = self._job(draft, read(draft.options))
        spec = self._core.handlers.find(job.name)
        handle = self._handle(job, job.id, spec, created=True)
        if self._core.enqueue_chain is None:
            return job, handle
        draft.payload = codec.decode(job.payload)
        return FollowUp(**msgspec.structs.asdict(job), draft=draft), handle

    async def guard_follow_ups(self, jobs: Sequence[NewJob]) -> tuple[NewJob, ...]:
        """The jobs as the enqueue middleware leaves them. Raises what it raises."""
        chain = self._core.enqueue_chain
        drafts = [job.draft for job in jobs if isinstance(job, FollowUp)]
        if chain is None or not drafts:
            return tuple(jobs)
        ctx = EnqueueContext(drafts)
        written: list[NewJob] = []

        async def collect(ctx: EnqueueContext) -> list[JobHandle[Any]]:
            written.extend(job for job, _ in self._jobs_after(ctx))
            find = self._core.handlers.find
            ctx.handles = [self._handle(job, job.id, find(job.name), created=True) for job in written]
            return ctx.handles

        await _through(chain, ctx, collect)
        return tuple(written)

    # ── for plugins ───────────────────────────────────────────────────────────────────────────────────────────────
    async def job_of(self, plan: Plan, job_id: str, schedule_id: str, nominal_at_ms: int | None) -> NewJob:
        """The job of a plan, as the enqueue middleware leaves it; nothing is written. Raises what it raises."""
        draft = Draft(id=job_id, name=plan.name, queue=plan.queue, payload=plan.payload, options=dict(plan.options))
        chain = self._core.enqueue_chain

        def make(draft: Draft, given: Given) -> NewJob:
            # It was checked when it was planned, maybe by another release of its handler.
            content = Content(
                read_name("id", draft.id),
                Template(read_name("name", draft.name), read_name("queue", draft.queue), plan.version),
                draft.payload,
                MAX_RETRIES_DEFAULT,
                schedule_id=schedule_id,
                nominal_at_ms=nominal_at_ms,
                trace=draft.trace,
            )
            return new_job(content, given, self._core.clock.now_ms())

        if chain is None:
            return make(draft, read(draft.options))
        made: list[NewJob] = []

        async def collect(ctx: EnqueueContext) -> list[JobHandle[Any]]:
            made.extend(job for job, _ in self._jobs_after(ctx, make))
            ctx.handles = [self._handle(job, job.id, None, created=True) for job in made]
            return ctx.handles

        await _through(chain, EnqueueContext([draft]), collect)
        return made[0]

    # ── the common way ────────────────────────────────────────────────────────────────────────────────────────────
    async def _enqueue_drafts(self, drafts: list[Draft], givens: list[Given]) -> list[JobHandle[Any]]:
        self._core.require_running()
        conn = _one_connection(givens)
        jobs = _each(drafts, lambda number, draft: self._job(draft, givens[number]))
        chain = self._core.enqueue_chain
        if chain is None:
            return await self._write(jobs, conn)
        for draft, job in zip(drafts, jobs, strict=True):
            # A copy of the caller's payload: middleware edits jobs, not the caller's objects.
            draft.payload = codec.decode(job.payload)

        async def write(ctx: EnqueueContext) -> list[JobHandle[Any]]:
            made = self._jobs_after(ctx)
            if _one_connection([given for _, given in made]) is not conn:
                raise InvalidOption("conn", None, "cannot be changed by middleware")
            ctx.handles = await self._write([job for job, _ in made], conn)
            return ctx.handles

        ctx = EnqueueContext(drafts)
        return await _through(chain, ctx, write)

    def _jobs_after(
        self, ctx: EnqueueContext, make: Callable[[Draft, Given], NewJob] | None = None
    ) -> list[tuple[NewJob, Given]]:
        """What the middleware made of the jobs, checked like the caller's own."""
        make = make or self._job
        if sorted(map(id, ctx.jobs)) != sorted(map(id, ctx.given)):
            problem = (
                f"it left {len(ctx.jobs)} of {len(ctx.given)} jobs in ctx.jobs, and every caller waits for its own"
            )
            raise PluginError("enqueue middleware", f"{problem}. Edit them in place, or raise Rejected")
        made: list[tuple[NewJob, Given]] = []
        for draft in ctx.jobs:
            draft.id = draft.options.pop("id", draft.id)
            draft.queue = draft.options.pop("queue", draft.queue)
            draft.trace = read_trace(draft.trace)
            given = read(draft.options)
            made.append((make(draft, given), given))
        return made

    async def _write(self, jobs: Sequence[NewJob], conn: Any) -> list[JobHandle[Any]]:
        handles: list[JobHandle[Any]] = []
        find = self._core.handlers.find
        submit = self._coalescer.submit if conn is None else functools.partial(self._submit_bound, conn)
        try:
            for chunk in _chunks(jobs):
                replies = await submit(chunk)
                if conn is None:
                    self.tell(chunk, replies)
                for job, enqueued in zip(chunk, replies, strict=True):
                    handles.append(self._handle(job, enqueued.job_id, find(job.name), created=enqueued.created))
        except PsyQueueError as exc:
            exc.enqueued = handles
            raise
        return handles

    async def _submit_bound(self, conn: Any, jobs: Sequence[NewJob]) -> Sequence[Enqueued]:
        """In the caller's own transaction, and in his thread where his connection is bound to it."""
        backend = self._core.backend
        if backend.capabilities.binds_in_thread:
            return await in_callers_thread(lambda: at_once(backend.bind(conn).enqueue(jobs)))
        return await backend.bind(conn).enqueue(jobs)

    def tell(self, jobs: Sequence[NewJob], replies: Sequence[Enqueued]) -> None:
        """Of the new ones among them, which are committed by now."""
        bus = self._core.bus
        if bus.wants("job:enqueued"):
            for job, enqueued in zip(jobs, replies, strict=True):
                if enqueued.created:
                    bus.publish("job:enqueued", {"job_id": job.id, "queue": job.queue, "name": job.name})

    def _handle(self, job: NewJob, job_id: str, spec: HandlerSpec | None, *, created: bool) -> JobHandle[Any]:
        convert = None if spec is None else spec.convert
        return JobHandle(job_id, job.name, job.queue, created, self._core, convert)

    # ── drafts ────────────────────────────────────────────────────────────────────────────────────────────────────
    def _find(self, name: Any) -> HandlerSpec | None:
        """The handler; None (warned about once) where another process will know it."""
        if callable(name) or inspect.iscoroutine(name):
            way_out = "Await handler.enqueue(...), or give the call handler.build(...), or the handler's name"
            raise InvalidOption("name", name, f"is {type(name).__name__}, not text", way_out)
        read_name("name", name)
        spec = self._core.handlers.find(name)
        if spec is None and name not in self._warned:
            if len(self._warned) < UNKNOWN_NAMES_MAX:
                self._warned.add(name)
            log.warning("enqueue for a handler that this process does not know", extra={"job_name": name})
        return spec

    def _draft(self, spec: HandlerSpec | None, name: str, payload: Any, options: Mapping[str, Any]) -> Draft:
        rest = dict(options)
        queue = rest.pop("queue") if "queue" in rest else name if spec is None else spec.queue
        job_id = rest.pop("id") if "id" in rest else new_id()
        return Draft(id=job_id, name=name, queue=queue, payload=payload, options=rest)

    def _draft_of_item(self, number: int, item: Any, common: Mapping[str, Any]) -> Draft:
        if isinstance(item, Call):
            return self._draft(item.spec, item.spec.name, item.payload, {**common, **item.options})
        if not isinstance(item, Mapping):
            what = f"is {type(item).__name__}, neither handler.build(...) nor a mapping with name, payload, options"
            raise _misshapen(number, "", what)
        unknown = sorted(str(key) for key in item.keys() - _ITEM_KEYS)
        if unknown or "name" not in item:
            what = f"has unknown keys {', '.join(unknown)}" if unknown else "has no name"
            raise _misshapen(number, "", f"{what}; it takes name, payload, options")
        own = item.get("options") or {}
        if not isinstance(own, Mapping):
            raise _misshapen(number, ".options", f"is {type(own).__name__}, not a mapping")
        name = item["name"]
        return self._draft(self._find(name), name, item.get("payload"), {**common, **own})

    def _job(self, draft: Draft, given: Given) -> NewJob:
        """The seam's job of a draft, everything checked."""
        draft.id = read_name("id", draft.id)
        draft.queue = read_name("queue", draft.queue)
        spec = self._find(draft.name)
        draft.name = read_name("name", draft.name)
        if spec is None:
            template, retries = Template(draft.name, draft.queue), MAX_RETRIES_DEFAULT
            content = Content(draft.id, template, draft.payload, retries, parent_id=draft.parent_id, trace=draft.trace)
            return new_job(content, given, self._core.clock.now_ms())
        payload = spec.parameters.check(draft.payload)
        if spec.makes_keys:
            # Before keys are made of it: a value that is no JSON is the payload's error, not the key's.
            codec.encode(payload)
        template = spec.template
        if draft.queue != template.queue:
            template = Template(spec.name, draft.queue, spec.version)
        content = Content(
            draft.id,
            template,
            payload,
            spec.max_retries,
            unique=None if "unique_key" in given else spec.unique_key(payload),
            order=None if "order_key" in given else spec.order_key(payload),
            parent_id=draft.parent_id,
            trace=draft.trace,
        )
        return new_job(content, given, self._core.clock.now_ms())


async def _through(chain: Chain, ctx: EnqueueContext, terminal: Terminal) -> list[JobHandle[Any]]:
    """Run the middleware around `terminal`; the handles in the order of the caller."""
    try:
        verdict = await chain(ctx, terminal)
    except Verdict as exc:
        raise Rejected(exc.reason) from exc
    if ctx.handles is None:
        if isinstance(verdict, Verdict):
            raise Rejected(verdict.reason) from verdict
        problem = "it swallowed the error of call_next(), and nothing was written"
        raise PluginError("enqueue middleware", f"{problem}. Raise it again, or raise Rejected")
    by_draft = {id(draft): handle for draft, handle in zip(ctx.jobs, ctx.handles, strict=True)}
    return [by_draft[id(draft)] for draft in ctx.given]


_ITEM_KEYS = frozenset(("name", "payload", "options"))


def _listed(items: Iterable[Any]) -> Iterable[Any]:
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
        raise PayloadError("$", f"is {type(items).__name__}, not a list of items", "bulk")
    return items


def _each(items: Sequence[T], make: Callable[[int, T], R]) -> list[R]:
    """What is made of the items. An error says which of several it was: the caller has to find it among thousands."""
    made: list[R] = []
    try:
        for number, item in enumerate(items):
            made.append(make(number, item))
    except PsyQueueError as exc:
        if len(items) > 1:
            _tell_item(exc, len(made))
        raise
    return made


def _tell_item(error: PsyQueueError, number: int) -> None:
    if "item" not in error.context:
        error.context["item"] = number
        error.message = f"item {number}: {error.message}"
        error.args = (f"[{error.code}] {error.message}",)


def _misshapen(number: int, path: str, problem: str) -> PayloadError:
    error = PayloadError(f"$[{number}]{path}", problem, "bulk item")
    error.context["item"] = number
    return error


def _one_connection(givens: Sequence[Given]) -> Any:
    """The connection that all jobs of one call share, None without one. Raises InvalidOption for a mix."""
    first = givens[0].get("conn")
    for given in givens:
        if given.get("conn") is not first:
            raise InvalidOption("conn", given.get("conn"), "differs between the jobs of one call", "Make one call each")
    return first


def _chunks(jobs: Sequence[NewJob]) -> Iterator[Sequence[NewJob]]:
    """In order, each within the bounds of one step."""
    start = size = 0
    for index, job in enumerate(jobs):
        added = job_bytes(job)
        if index > start and (index - start >= ITEMS_MAX or size + added > CALL_BYTES_MAX):
            yield jobs[start:index]
            start, size = index, 0
        size += added
    if start < len(jobs):
        yield jobs[start:]

"""`q.use(Workflows())`: enqueue flows, look at them, cancel them, go on after a failure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from psyqueue.backend.bounds import CALL_BYTES_MAX
from psyqueue.clock import Duration
from psyqueue.codec import encode
from psyqueue.errors import (
    ConfigError,
    DuplicateJobError,
    IdConflict,
    InvalidOption,
    InvalidState,
    JobNotFound,
    TooLarge,
)
from psyqueue.events import Event
from psyqueue.ids import new_id
from psyqueue.job import LIVE, name_problem
from psyqueue.kernel.extension import Facade, JobView, Kernel, blocking
from psyqueue.outcome import Cancel, Snooze
from psyqueue.plugins.workflows.flow import (
    FINISH,
    MARK,
    RESULTS,
    Flow,
    refuse_own,
    require_flow,
    require_meta,
    waited_for,
)
from psyqueue.plugins.workflows.resuming import resumed
from psyqueue.plugins.workflows.run import WorkflowRun, WorkflowView, failure, last_job, view_of, viewed

if TYPE_CHECKING:
    from psyqueue import Context

_JOB_BYTES: Final = 2_048
"""Room for what a job is beside its payload: ids, needs, names of steps."""
_LOOK_AGAIN_S: Final = 1.0
_ID_MAX: Final = 180


class Workflows:
    """Work in several steps, each a job. Add it to a queue with `use`, then `enqueue` flows.

    `queue`: where the job waits that ends a workflow; some worker has to serve it, as each does that is not told which
    queues it takes.
    """

    name = "workflows"

    def __init__(self, *, queue: str = "workflows") -> None:
        problem = name_problem(queue)
        if problem:
            raise InvalidOption("queue", queue, problem)
        self._queue = queue
        self._kernel: Kernel | None = None

    # ── the plugin ────────────────────────────────────────────────────────────────────────────────────────────────────
    def init(self, kernel: Kernel) -> None:
        """Called by `use`. Raises ConfigError for a second queue."""
        if self._kernel is not None:
            raise ConfigError("these Workflows belong to another queue: make new ones for this")
        self._kernel = kernel
        kernel.handle(FINISH, self._finish, queue=self._queue, max_retries=100, backoff="fixed", backoff_base=5)
        kernel.pipeline("process", self._bring_results, phase="transform")
        kernel.events.on("job:completed", self._tell("workflow:completed"))
        kernel.events.on("job:cancelled", self._tell("workflow:failed"))
        kernel.events.on("job:dead", self._tell("workflow:failed"))
        kernel.expose("workflows", self)

    def _tell(self, event_type: str) -> Callable[[Event], None]:
        def tell(event: Event) -> None:
            if event.data["name"] == FINISH:
                reason = {} if event_type == "workflow:completed" else {"reason": event.data["reason"]}
                data = {"workflow_id": event.data["job_id"].partition(MARK)[0], **reason}
                self._door().events.publish(event_type, data)

        return tell

    async def _bring_results(self, ctx: Context, call_next: Callable[[], Any]) -> Any:
        """Before a step runs, in the worker: the handler may be a thread, which cannot ask the store."""
        if after := waited_for(ctx.job.id, ctx.job.meta):
            jobs = await self._door().jobs(list(after.values()))
            ctx.state[RESULTS] = {
                name: None if job is None else job.result for name, job in zip(after, jobs, strict=True)
            }
        return await call_next()

    async def _finish(self, ctx: Context) -> dict[str, str]:
        """The handler of the job that waits for all steps to end."""
        steps = ctx.job.payload["steps"]
        found = await self._door().jobs([each["id"] for each in steps.values()])
        jobs = dict(zip(steps, found, strict=True))
        if any(job is not None and job.status in LIVE for job in jobs.values()):
            # A dead step was replayed: its place in the order is free again, and it ends a second time.
            raise Snooze(_LOOK_AGAIN_S)
        if reason := failure(steps, jobs):
            kept = await self._not_undone(steps, jobs)
            raise Cancel(f"{reason}; not undone, since replayed or cancelled by hand: {kept}" if kept else reason)
        return {name: "gone" if job is None else job.status for name, job in jobs.items()}

    async def _not_undone(self, steps: Mapping[str, Any], jobs: Mapping[str, JobView | None]) -> str:
        """Completed steps whose undoing is cancelled already."""
        undo = {each["undo"]: name for name, each in steps.items() if each["undo"] is not None}
        over = [undo[job.id] for job in await self._door().jobs(list(undo)) if job and job.status == "cancelled"]
        return ", ".join(name for name in over if (job := jobs[name]) is not None and job.status == "completed")

    # ── enqueue ───────────────────────────────────────────────────────────────────────────────────────────────────────
    async def enqueue(
        self,
        flow: Flow,
        /,
        *,
        id: str | None = None,  # noqa: A002 - as the option of enqueue
        conn: Any = None,
        **options: Any,
    ) -> WorkflowRun:
        """Write all jobs of the flow in one step of the store, or none.

        `id`: one of your own; for 30 days a second call with it finds the first, also when its jobs are deleted.
        `options` are those of `enqueue`, for all steps; `priority`, `tenant`, `lane` and `meta` hold for the other
        jobs, too. Raises InvalidOption, IdConflict for an id that is taken by another flow or tenant, TooLarge, and
        what an enqueue raises.
        """
        flow, kernel = require_flow(flow), self._door()
        workflow_id = new_id() if id is None else _read_id(id)
        refuse_own(options)
        require_meta(options)
        digest = flow.digest(options.get("tenant"))
        if id is not None and await self._is_there(digest, workflow_id):
            return WorkflowRun(kernel, workflow_id)
        items = list(flow.items(workflow_id, options, is_own_id=id is not None))
        _require_room(flow, items)
        _require_short(flow, workflow_id)
        try:
            await kernel.enqueue(items, **({} if conn is None else {"conn": conn}))
        except DuplicateJobError as exc:
            # Somebody else enqueued it meanwhile, or its last job is deleted: then nothing is there to compare with.
            if not await self._is_there(digest, workflow_id) and isinstance(exc, IdConflict):
                raise
            return WorkflowRun(kernel, workflow_id)
        if conn is None:
            kernel.events.publish("workflow:started", {"workflow_id": workflow_id, "flow": flow.name})
        return WorkflowRun(kernel, workflow_id, created=True)

    async def _is_there(self, digest: str, workflow_id: str) -> bool:
        """Raises IdConflict where the id is that of another one, or of a job."""
        (found,) = await self._door().jobs([workflow_id])
        if found is not None and (found.name != FINISH or found.payload["digest"] != digest):
            raise IdConflict(workflow_id)
        return found is not None

    # ── look and change ───────────────────────────────────────────────────────────────────────────────────────────────
    def run_of(self, workflow_id: str) -> WorkflowRun:
        """Of one that was started elsewhere; the store is not asked. Raises InvalidOption."""
        return WorkflowRun(self._door(), _read_id(workflow_id))

    async def get(self, workflow_id: str) -> WorkflowView | None:
        """None if there is none. Raises InvalidOption, NotStarted, StoreError."""
        try:
            return await viewed(self._door(), _read_id(workflow_id))
        except JobNotFound:
            return None

    async def result(self, workflow_id: str, timeout: Duration | None = None) -> dict[str, Any]:
        """As WorkflowRun.result. Raises InvalidOption, too."""
        return await self.run_of(workflow_id).result(timeout)

    async def cancel(self, workflow_id: str) -> WorkflowView:
        """Cancel what has not started, ask what runs to end; then what is completed is undone.

        Raises InvalidOption, JobNotFound, StoreError.
        """
        kernel, view = self._door(), await viewed(self._door(), _read_id(workflow_id))
        await kernel.cancel([job.id for job in view.steps.values() if job is not None and job.status in LIVE])
        return await viewed(kernel, view.id)

    async def resume(self, workflow_id: str) -> WorkflowView:
        """Go on after a failure: dead steps are replayed, and what was cancelled because of them waits for them again.

        Raises JobNotFound; InvalidState for one that has not failed, or is undone; InvalidOption, StoreError.
        """
        kernel, workflow_id = self._door(), _read_id(workflow_id)
        finish = await last_job(kernel, workflow_id)
        view = await view_of(kernel, finish, workflow_id)
        if view.status in ("running", "completed"):
            raise InvalidState(f"workflow {workflow_id!r} is {view.status}: there is nothing to resume")
        if view.undoing:
            text = f"workflow {workflow_id!r} is {view.status}, and has steps with compensate=, which undo it"
            raise InvalidState(f"{text}: enqueue it anew")
        await resumed(kernel, finish, view)
        return await viewed(kernel, workflow_id)

    @property
    def sync(self) -> SyncWorkflows:
        """The same verbs for programs without asyncio, as calls that block. Raises ConfigError before `use`."""
        return SyncWorkflows(self._door().portal, self)

    def _door(self) -> Kernel:
        if self._kernel is None:
            raise ConfigError("these Workflows belong to no queue yet: q.use(workflows) first")
        return self._kernel


class SyncWorkflows(Facade[Workflows]):
    """As Workflows, with methods that block."""

    __slots__ = ()

    enqueue: Final = blocking(Workflows.enqueue)
    get: Final = blocking(Workflows.get)
    cancel: Final = blocking(Workflows.cancel)
    resume: Final = blocking(Workflows.resume)
    result: Final = blocking(Workflows.result)


def _require_short(flow: Flow, workflow_id: str) -> None:
    """Ids of its jobs have room for what a resumption adds. Raises InvalidOption."""
    longest = max(len(f"{workflow_id}.{step.name}") for step in flow.steps)
    if longest > _ID_MAX:
        text = f"makes ids of up to {longest} characters with the names of its steps"
        raise InvalidOption("id", workflow_id, text, f"Up to {_ID_MAX} are possible")


def _require_room(flow: Flow, items: Sequence[Any]) -> None:
    """More would go in several steps. Raises TooLarge."""
    payloads = (item["payload"] if isinstance(item, Mapping) else item.payload for item in items)
    size = sum(len(encode(payload)) for payload in payloads) + len(items) * _JOB_BYTES
    if size > CALL_BYTES_MAX:
        text = f"flow {flow.name!r}: its payloads together are beyond {CALL_BYTES_MAX} bytes"
        raise TooLarge(f"{text}. Give references to the data")


def _read_id(given: Any) -> str:
    problem = name_problem(given)
    if not problem and MARK in given:
        problem = f"holds a {MARK}"
    if problem:
        raise InvalidOption("id", given, problem)
    return str.__str__(given)

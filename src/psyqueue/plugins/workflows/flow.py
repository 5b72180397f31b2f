"""A flow before it is started: its steps as calls of handlers, each with what it waits for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
from msgspec import Struct

from psyqueue import codec
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.errors import ConfigError, InvalidOption
from psyqueue.ids import new_token
from psyqueue.job import TERMINAL, name_problem

if TYPE_CHECKING:
    from psyqueue import Context
    from psyqueue.kernel.extension import JobView

After: TypeAlias = "str | Iterable[str] | Mapping[str, str | Iterable[str]]"
"""Steps that have to be completed first; as a mapping, with the ends to wait for, such as {"charge": "dead"}."""

ENDS: Final = tuple(sorted(TERMINAL))
FINISH: Final = "psyqueue.workflow"
"""The handler whose job ends a workflow; the id of that job is the workflow's."""
_OF_STEPS: Final = ("id", "depends_on", "conn", "idempotency_key", "idempotency_window", "unique_key", "on_conflict")
_OF_ALL: Final = ("tenant", "lane", "priority", "meta")
_WINDOW: Final = "30d"
"""For so long an id of the caller's own stands for the workflow that it was first used for."""
MARK: Final = "~"
"""In ids of jobs that belong to a step beside the one that it began with: the undoing, the jobs of a resumption."""


class Deed(Struct, frozen=True):
    """What a step does, or what undoes it: a call, or the name of a handler with its payload; and its options."""

    call: Any
    name: str
    payload: Any
    options: dict[str, Any]

    def item(self, options: Mapping[str, Any]) -> Any:
        """For `enqueue_bulk`, with these options and no others."""
        if self.call is not None:
            return self.call.over(None, options)
        return {"name": self.name, "payload": self.payload, "options": dict(options)}

    @property
    def content(self) -> tuple[str, Any]:
        """As JSON values. Raises PayloadError."""
        return self.name, codec.decode(codec.encode(self.payload))


class Step(Struct, frozen=True):
    """`after`: names of steps, each with the ends that it may have."""

    name: str
    deed: Deed
    after: dict[str, tuple[str, ...]]
    undo: Deed | None


class Flow:
    """Steps and their order. `add` them, those that others wait for first, then give it to `workflows.enqueue`."""

    def __init__(self, name: str) -> None:
        problem = name_problem(name)
        if problem:
            raise InvalidOption("name", name, problem)
        self.name: str = str.__str__(name)
        self._steps: dict[str, Step] = {}

    def add(
        self,
        step: str,
        name_or_call: Any,
        payload: Any = None,
        /,
        *,
        after: After = (),
        compensate: Any = None,
        **options: Any,
    ) -> Flow:
        """Add a step: a call as `handler.build(...)`, or the name of a handler with its payload. The flow itself.

        `after`: steps that have to be completed first. `compensate`: the call that undoes this step where the workflow
        fails. `options` are those of `enqueue`, without what would make another job of it. Raises InvalidOption.
        """
        name = _step_name(step)
        if name in self._steps:
            raise InvalidOption("step", name, "is there already", "Give the second one another name")
        if len(self._steps) >= STEPS_MAX:
            raise InvalidOption("step", name, f"is one more than {STEPS_MAX}", "Let the last start another one")
        waits_for = _read_after(name, after, self._steps)
        undo = None if compensate is None else _deed(compensate, None, {})
        self._steps[name] = Step(name, _deed(name_or_call, payload, options), waits_for, undo)
        return self

    @property
    def steps(self) -> Sequence[Step]:
        """In the order in which they were added."""
        return tuple(self._steps.values())

    def digest(self, tenant: Any = None) -> str:
        """Stands for its steps with their payloads, in whichever order these were written. Raises PayloadError."""
        told = [(step.name, step.deed.content, step.after, step.undo and step.undo.content) for step in self.steps]
        content = msgspec.json.encode((self.name, told, tenant), order="deterministic")
        return blake2b(content, digest_size=16).hexdigest()

    def items(self, workflow_id: str, options: Mapping[str, Any], *, is_own_id: bool = False) -> Iterator[Any]:
        """The jobs, for one `enqueue_bulk`: the steps, the one that ends the workflow, then what undoes steps.

        `options` are those of the steps; the other jobs have only those that say whose they are, and how urgent.
        `is_own_id`: the id is the caller's, and stands for one workflow also when its jobs are deleted. Each call has
        another content, so that a second one with the id is refused as a whole: it could not know which jobs are left.
        """
        ids = {name: f"{workflow_id}.{name}" for name in self._steps}
        undoing = {step.name: ids[step.name] + f"{MARK}undo" for step in self.steps if step.undo is not None}
        others = {option: options[option] for option in _OF_ALL if option in options}
        meta = {key: value for key, value in options.get("meta", {}).items() if key != "workflow"}
        for step in self.steps:
            needs = {ids[parent]: ends for parent, ends in step.after.items()}
            about = self._about(workflow_id, step.name, step.after, ids)
            yield _belonging(step.deed, options, ids[step.name], needs, about)
        plan = {
            name: {"id": ids[name], "after": step.after, "undo": undoing.get(name)}
            for name, step in self._steps.items()
        }
        all_ended = dict.fromkeys(ids.values(), ENDS)
        once = {"idempotency_key": f"workflow:{workflow_id}", "idempotency_window": _WINDOW} if is_own_id else {}
        digest = self.digest(options.get("tenant"))
        yield {
            "name": FINISH,
            "payload": {"flow": self.name, "digest": digest, "call": new_token(), "steps": plan},
            "options": {**others, "meta": meta, "id": workflow_id, "depends_on": all_ended, **once},
        }
        for step in reversed(self.steps):
            if step.undo is not None:
                needs = {**all_ended, ids[step.name]: ("completed",), workflow_id: ("cancelled", "dead")}
                needs |= {undoing[later]: ENDS for later in self._later_than(step.name) if later in undoing}
                about = self._about(workflow_id, step.name, {step.name: ()}, ids)
                yield _belonging(step.undo, others, undoing[step.name], needs, about)

    def _about(self, workflow_id: str, name: str, after: Iterable[str], ids: Mapping[str, str]) -> dict[str, Any]:
        return {"id": workflow_id, "flow": self.name, "step": name, "after": {each: ids[each] for each in after}}

    def _later_than(self, name: str) -> set[str]:
        """All that wait for it, also over others."""
        later: set[str] = set()
        for step in self.steps:
            if name in step.after or not later.isdisjoint(step.after):
                later.add(step.name)
        return later


STEPS_MAX: Final = (ITEMS_MAX - 1) // 2
"""All jobs of a workflow are written in one step of the store, and each of its steps may have one that undoes it."""


def results_of(ctx: Context) -> dict[str, Any]:
    """In a step: the results of the steps that it waited for, by name; of one that did not complete, None.

    In what undoes a step: the result of that. Empty in handlers with `mode="process"`, and outside of a workflow.
    Raises nothing.
    """
    found: dict[str, Any] = ctx.state.get(RESULTS, {})
    return found


RESULTS: Final = "workflow.results"


def waited_for(job_id: str, meta: Mapping[str, Any]) -> Mapping[str, str]:
    """The jobs that a step waited for, by the names of their steps; none, of a job that is no step."""
    after: Mapping[str, str] = _about_step(job_id, meta).get("after", {})
    return after


def workflow_of(job: JobView) -> str | None:
    """The id of the workflow that a job is a step of, undoes a step of, or ends; None of any other job."""
    if job.name == FINISH:
        return job.id.partition(MARK)[0]
    found: str | None = _about_step(job.id, job.meta).get("id")
    return found


def _about_step(job_id: str, meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a workflow wrote into its step. The application may mean something else by the same word."""
    about = meta.get("workflow")
    return about if isinstance(about, Mapping) and job_id.startswith(f"{about.get('id')}.") else {}


def again(job_id: str, number: int) -> str:
    """The id of the job that takes the place of another one when a workflow is resumed."""
    return f"{job_id.partition(MARK)[0]}{MARK}{number}"


def number_of(job_id: str) -> int:
    """Of the resumption that it was made by; 0: it is the first one in its place."""
    return int(job_id.rpartition(MARK)[2]) if MARK in job_id else 0


def _step_name(given: Any) -> str:
    problem = name_problem(given)
    if not problem and MARK in given:
        problem = f"holds a {MARK}"
    if problem:
        raise InvalidOption("step", given, problem)
    return str.__str__(given)


def _read_after(name: str, after: Any, there: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    pairs = after.items() if isinstance(after, Mapping) else ((each, "completed") for each in _listed(name, after))
    read: dict[str, tuple[str, ...]] = {}
    for parent, ends in pairs:
        if not isinstance(parent, str) or parent not in there:
            known = f"There are {', '.join(there)}" if there else "It is the first one"
            raise InvalidOption("after", parent, f"is no step that was added before {name!r}", known)
        listed = (ends,) if isinstance(ends, str) or not isinstance(ends, Iterable) else tuple(ends)
        read[parent] = tuple(each for each in ENDS if each in listed)
        if not read[parent] or len(read[parent]) < len(listed):
            raise InvalidOption("after", ends, f"is no end of step {parent!r}", f"There are {', '.join(ENDS)}")
    return read


def _listed(name: str, after: Any) -> Iterable[Any]:
    if isinstance(after, str):
        return (after,)
    if isinstance(after, Iterable):
        return tuple(after)
    raise InvalidOption("after", after, f"of step {name!r} is neither the name of a step nor several")


def _deed(name_or_call: Any, payload: Any, options: Mapping[str, Any]) -> Deed:
    """A handler stands for its call without arguments, unless a payload is given."""
    if hasattr(name_or_call, "build") and payload is None:
        name_or_call = name_or_call.build()
    name: Any = getattr(name_or_call, "name", name_or_call)
    call = None
    if hasattr(name_or_call, "spec"):
        call = name_or_call.over(payload, {})
        name, payload, options = call.spec.name, call.payload, {**call.options, **options}
        if call.spec.unique is not None:
            why = "has unique=..., so that its job may be one of somebody else"
            raise InvalidOption("step", name, why, "Register it a second time without")
    refuse_own(options)
    problem = name_problem(name)
    if problem:
        raise InvalidOption("step", name, f"{problem}, and no handler", "Give handler.build(...), or a handler's name")
    require_meta(options)
    return Deed(call, name, payload, dict(options))


def _belonging(deed: Deed, common: Mapping[str, Any], job_id: str, needs: Any, about: dict[str, Any]) -> Any:
    meta = {**common.get("meta", {}), **deed.options.get("meta", {}), "workflow": about}
    # Also of a handler that is registered elsewhere alone.
    own = {} if deed.call is None else {"max_retries": deed.call.spec.max_retries}
    return deed.item({**own, **common, **deed.options, "id": job_id, "depends_on": needs, "meta": meta})


def require_meta(options: Mapping[str, Any]) -> None:
    """It is put together from several. Raises InvalidOption."""
    if not isinstance(options.get("meta", {}), Mapping):
        raise InvalidOption("meta", options["meta"], "is no mapping")


def refuse_own(options: Mapping[str, Any]) -> None:
    """What would tie a job of a workflow to others. Raises InvalidOption."""
    for option in _OF_STEPS:
        if option in options:
            raise InvalidOption(option, options[option], "is not for the jobs of a workflow, which belong to it alone")


def require_flow(given: Any) -> Flow:
    """Raises InvalidOption, ConfigError for one without steps."""
    if not isinstance(given, Flow):
        raise InvalidOption("flow", given, f"is {type(given).__name__}, not a Flow", "Give Flow('name').add(...)")
    if not given.steps:
        raise ConfigError(f"flow {given.name!r} has no steps: add(...) one")
    return given

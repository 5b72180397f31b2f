"""Every exception that psyqueue raises.

    PsyQueueError                       code, message, context
    ├── ConfigError                     the set-up is wrong; nothing was started
    │   ├── InvalidOption               an option is unknown or its value makes no sense
    │   ├── MissingExtra                a driver is not installed; names the extra
    │   ├── PluginError                 a plugin misbehaves; names the plugin
    │   │   ├── DependencyError         a plugin needs another one that is not there
    │   │   └── CircularDependencyError plugins need each other in a ring
    │   └── SchemaTooNew                the store was written by a newer psyqueue
    ├── LifecycleError                  the queue is not in a state to do this
    │   ├── NotStarted · AlreadyStopped · ForkedProcess
    ├── Refused                         the store or a guard said no: nothing was written
    │   ├── PayloadError                not JSON; names the path in the payload
    │   ├── TooLarge                    a payload, result or call beyond its limit
    │   ├── DuplicateJobError           existing_job_id: the job that holds the place
    │   │   ├── IdConflict              the same job id with other content
    │   │   └── KeyConflict             the same idempotency or unique key with other content
    │   ├── UnknownDependency           a parent that does not exist
    │   ├── RateLimitError              retry_after: seconds
    │   ├── QueueFull                   the queue or lane holds as much as its limit allows
    │   ├── StateConflict               a compare-and-set found another version
    │   ├── Rejected                    middleware turned it away
    │   ├── NamespaceFrozen             the namespace is being moved; try later
    │   │   └── NamespaceMoved          moved_to: where it lives now
    │   ├── JobNotFound · InvalidState
    │   ├── StaleOp                     a late duplicate of a call that was answered long ago
    │   └── SessionLost                 the worker's session was closed; its deliveries are lost
    ├── StoreError
    │   ├── StoreUnavailable            outcome: "unknown" (repeat the same call) or "refused"
    │   ├── StoreBusy                   somebody else holds the store; nothing was written
    │   ├── StoreFull                   no room left; nothing was written
    │   └── StoreUnusable               not our file, read-only, corrupt, on a network mount, …
    ├── HandlerTimeout                  a run went on for longer than its timeout
    ├── JobEnded                        what awaiting a result can find instead of a result
    │   └── JobDead · JobCancelled · WorkflowFailed
    └── ResultTimeout                   the job has not ended in time; also a TimeoutError

Messages say what happened, to which thing, and the way out. Driver errors never leak: they are the `__cause__`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from psyqueue.errors.root import Coded
from psyqueue.errors.root import PsyQueueError as PsyQueueError
from psyqueue.words import shown


class ConfigError(Coded):
    """The set-up is wrong: nothing was started or written."""

    CODE: ClassVar[str] = "INVALID_CONFIG"


class InvalidOption(ConfigError):
    """`option` and `value` name what was given; the value of a password is not shown."""

    CODE: ClassVar[str] = "INVALID_OPTION"

    def __init__(self, option: str, value: object, problem: str, way_out: str = "") -> None:
        told = shown(option, value)
        text = f"option {option}={told}: {problem}" + (f". {way_out}" if way_out else "")
        super().__init__(text, option=option, value=told)
        self.option = option


class MissingExtra(ConfigError):
    """`thing` needs the packages of the extra `extra`, which are not installed."""

    CODE: ClassVar[str] = "MISSING_EXTRA"

    def __init__(self, thing: str, extra: str) -> None:
        super().__init__(f"{thing} needs a package that is not installed: pip install 'psyqueue[{extra}]'", extra=extra)
        self.extra = extra


class PluginError(ConfigError):
    """The plugin `plugin_name` does not fit or misbehaves."""

    CODE: ClassVar[str] = "PLUGIN_ERROR"

    def __init__(self, plugin_name: str, problem: str, **context: Any) -> None:
        super().__init__(f"plugin {plugin_name!r}: {problem}", plugin_name=plugin_name, **context)
        self.plugin_name = plugin_name


class DependencyError(PluginError):
    """A plugin needs `missing`, and nothing provides it."""

    CODE: ClassVar[str] = "MISSING_DEPENDENCY"

    def __init__(self, plugin_name: str, missing: str) -> None:
        way_out = (
            "use(sqlite(path=...)) or another backend"
            if missing == "backend"
            else f"use() a plugin that provides {missing!r}"
        )
        super().__init__(
            plugin_name, f"needs {missing!r}, which nothing provides; {way_out} before start()", missing=missing
        )
        self.missing = missing


class CircularDependencyError(PluginError):
    """The plugins of `ring` need each other."""

    CODE: ClassVar[str] = "CIRCULAR_DEPENDENCY"

    def __init__(self, ring: list[str]) -> None:
        super().__init__(ring[0], "depends on itself: " + " → ".join([*ring, ring[0]]), ring=ring)
        self.ring = ring


class SchemaTooNew(ConfigError):
    """The store was written by a newer psyqueue: upgrade this one."""

    CODE: ClassVar[str] = "SCHEMA_TOO_NEW"


class LifecycleError(Coded):
    """The queue is not in a state in which this can be done."""

    CODE: ClassVar[str] = "WRONG_LIFECYCLE"


class NotStarted(LifecycleError):
    """The queue is used before `start()`."""

    CODE: ClassVar[str] = "NOT_STARTED"


class AlreadyStopped(LifecycleError):
    """The queue is used after `stop()`."""

    CODE: ClassVar[str] = "ALREADY_STOPPED"


class ForkedProcess(LifecycleError):
    """The queue was started before this process was forked from its parent."""

    CODE: ClassVar[str] = "FORKED_PROCESS"


class Refused(Coded):
    """The store or a guard said no: nothing was written."""

    CODE: ClassVar[str] = "REFUSED"


class PayloadError(Refused):
    """`path` says where in the value, JSONPath style: `$.user.age`."""

    CODE: ClassVar[str] = "INVALID_PAYLOAD"

    def __init__(self, path: str, problem: str, what: str = "payload") -> None:
        super().__init__(f"{what} at {path}: {problem}", path=path)
        self.path = path


class TooLarge(Refused):
    """A payload, a result or a whole call is beyond its limit."""

    CODE: ClassVar[str] = "TOO_LARGE"


class DuplicateJobError(Refused):
    """Another job has the place: `existing_job_id`."""

    CODE: ClassVar[str] = "DUPLICATE_JOB"

    def __init__(self, message: str, existing_job_id: str, **context: Any) -> None:
        super().__init__(message, existing_job_id=existing_job_id, **context)
        self.existing_job_id = existing_job_id


class IdConflict(DuplicateJobError):
    """The id belongs to a job with other content."""

    CODE: ClassVar[str] = "ID_CONFLICT"

    def __init__(self, job_id: str) -> None:
        text = f"job {job_id!r} exists with other content (handler, queue, payload or options). Use another id, or none"
        super().__init__(text, job_id)


class KeyConflict(DuplicateJobError):
    """The idempotency or unique key belongs to a job with other content, or to a live one; `key` as it was given."""

    CODE: ClassVar[str] = "KEY_CONFLICT"

    def __init__(self, key: str, existing_job_id: str, kind: Literal["idempotency", "unique"]) -> None:
        key = key.rpartition("\x1f")[2]  # stores keep it behind its tenant
        why = "was used with other content" if kind == "idempotency" else "is held by a live job"
        super().__init__(f"{kind} key {key!r} {why}: job {existing_job_id!r}", existing_job_id, key=key)
        self.key = key


class UnknownDependency(Refused):
    """The job depends on `parent_id`, which does not exist."""

    CODE: ClassVar[str] = "UNKNOWN_DEPENDENCY"

    def __init__(self, job_id: str, parent_id: str) -> None:
        text = f"job {job_id!r} depends on {parent_id!r}, which does not exist"
        super().__init__(
            f"{text}. Enqueue the parent first, or earlier in the same call", job_id=job_id, parent_id=parent_id
        )
        self.parent_id = parent_id


class RateLimitError(Refused):
    """`retry_after`: seconds until the next try can succeed."""

    CODE: ClassVar[str] = "RATE_LIMIT_EXCEEDED"

    def __init__(self, key: str, retry_after_ms: int) -> None:
        text = f"rate limit {key!r} is used up; try again in {retry_after_ms / 1000:.3f} s"
        super().__init__(text, key=key, retry_after=retry_after_ms / 1000)
        self.key = key
        self.retry_after: float = retry_after_ms / 1000


class QueueFull(Refused):
    """The queue, or the lane (None: the queue), holds as many unstarted jobs as its limit allows."""

    CODE: ClassVar[str] = "QUEUE_FULL"

    def __init__(self, queue: str, lane: str | None, limit: int) -> None:
        where = f"queue {queue!r}" + (f", lane {lane!r}" if lane is not None else "")
        super().__init__(
            f"{where} holds its limit of {limit} unstarted jobs. Try later, or raise pending_max",
            queue=queue,
            lane=lane,
            limit=limit,
        )
        self.queue = queue
        self.lane = lane
        self.limit = limit


class StateConflict(Refused):
    """A compare-and-set found another version: `found`."""

    CODE: ClassVar[str] = "STATE_CONFLICT"

    def __init__(self, key: str, expected: int | None, found: int) -> None:
        text = f"{key!r}: expected version {expected}, found {found}. Read it again and repeat"
        super().__init__(text, key=key, expected=expected, found=found)
        self.found = found


class Rejected(Refused):
    """Middleware turned the enqueue away, for `reason`."""

    CODE: ClassVar[str] = "REJECTED"

    def __init__(self, reason: str, **context: Any) -> None:
        super().__init__(reason, **context)
        self.reason = reason


class NamespaceFrozen(Refused):
    """Jobs of this store are about to be moved, or move into it: try again later."""

    CODE: ClassVar[str] = "NAMESPACE_FROZEN"


class NamespaceMoved(NamespaceFrozen):
    """The jobs of this store live at `moved_to` now."""

    CODE: ClassVar[str] = "NAMESPACE_MOVED"

    def __init__(self, moved_to: str) -> None:
        super().__init__(
            f"the jobs of this store moved to {moved_to or 'another store'}. Point the application there",
            moved_to=moved_to,
        )
        self.moved_to = moved_to


class JobNotFound(Refused):
    """There is no job `job_id`, or its retention ended."""

    CODE: ClassVar[str] = "JOB_NOT_FOUND"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id!r} does not exist, or its retention ended", job_id=job_id)
        self.job_id = job_id


class ScheduleNotFound(Refused):
    """There is no schedule `schedule_id`."""

    CODE: ClassVar[str] = "SCHEDULE_NOT_FOUND"

    def __init__(self, schedule_id: str) -> None:
        super().__init__(
            f"schedule {schedule_id!r} does not exist; `psyqueue schedules ls` lists those that do",
            schedule_id=schedule_id,
        )
        self.schedule_id = schedule_id


class InvalidState(Refused):
    """The thing is not in a state in which this can be done."""

    CODE: ClassVar[str] = "INVALID_STATE"


class StaleOp(Refused):
    """A late duplicate of a call that was followed by another one long ago."""

    CODE: ClassVar[str] = "STALE_OP"


class SessionLost(Refused):
    """The worker's session was closed; its deliveries went to others."""

    CODE: ClassVar[str] = "SESSION_LOST"

    def __init__(self, session_id: str) -> None:
        text = f"session {session_id!r} is closed: its lease ended and its jobs went to others. Open a new session"
        super().__init__(text, session_id=session_id)


class StoreError(Coded):
    """The store could not do its work."""

    CODE: ClassVar[str] = "STORE_ERROR"


class StoreUnavailable(StoreError):
    """`outcome="unknown"`: it may have happened; repeating the same call with the same `Op` finds out."""

    CODE: ClassVar[str] = "STORE_UNAVAILABLE"

    def __init__(self, message: str, outcome: Literal["unknown", "refused"] = "unknown", **context: Any) -> None:
        super().__init__(message, outcome=outcome, **context)
        self.outcome = outcome


class StoreBusy(StoreError):
    """Somebody else holds the store for too long: nothing was written."""

    CODE: ClassVar[str] = "STORE_BUSY"


class StoreFull(StoreError):
    """There is no room left in the store: nothing was written."""

    CODE: ClassVar[str] = "STORE_FULL"


class StoreUnusable(StoreError):
    """The store cannot be used as it is: not ours, read-only, corrupt, gone, on a network mount."""

    CODE: ClassVar[str] = "STORE_UNUSABLE"


class HandlerTimeout(Coded):
    """A run took longer than its timeout, and was stopped."""

    CODE: ClassVar[str] = "HANDLER_TIMEOUT"

    def __init__(self, name: str, timeout_ms: int) -> None:
        super().__init__(
            f"handler {name!r} ran longer than its timeout of {timeout_ms} ms", name=name, timeout_ms=timeout_ms
        )


class JobEnded(Coded):
    """What awaiting the result of `job_id` found instead of a result."""

    CODE: ClassVar[str] = "JOB_ENDED"

    def __init__(self, job_id: str, message: str, **context: Any) -> None:
        super().__init__(f"job {job_id!r} {message}", job_id=job_id, **context)
        self.job_id = job_id


class JobDead(JobEnded):
    """`reason` is the store's word (`exhausted`, `lost`, `expired`, …), `error` the last recorded error or None."""

    CODE: ClassVar[str] = "JOB_DEAD"

    def __init__(self, job_id: str, reason: str, error: Mapping[str, Any] | None) -> None:
        last = f"; its last error: {error.get('type')}: {error.get('message')}" if error else ""
        super().__init__(job_id, f"is dead ({reason}){last}", reason=reason)
        self.reason = reason
        self.error = error


class JobCancelled(JobEnded):
    """The job was cancelled, for `reason`."""

    CODE: ClassVar[str] = "JOB_CANCELLED"

    def __init__(self, job_id: str, reason: str) -> None:
        super().__init__(job_id, "was cancelled" + (f": {reason}" if reason else ""), reason=reason)
        self.reason = reason


class WorkflowFailed(JobEnded):
    """The workflow `name` did not complete: `reason` names its steps that failed or were cancelled."""

    CODE: ClassVar[str] = "WORKFLOW_FAILED"

    def __init__(self, workflow_id: str, name: str, reason: str) -> None:
        super().__init__(workflow_id, f"ends workflow {name!r}, which failed: {reason}", name=name, reason=reason)
        self.reason = reason


class ResultTimeout(Coded, TimeoutError):
    """The job has not ended in time; its `status` at the end of the wait. Also a TimeoutError."""

    CODE: ClassVar[str] = "RESULT_TIMEOUT"

    def __init__(self, job_id: str, status: str, timeout_ms: int) -> None:
        super().__init__(
            f"job {job_id!r} is still {status} after {timeout_ms} ms; q.explain(job_id) says why",
            job_id=job_id,
            status=status,
        )
        self.job_id = job_id
        self.status = status

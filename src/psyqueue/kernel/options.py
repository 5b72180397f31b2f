"""The options of an enqueue: read strictly, turned into what the seam carries.

Keys (idempotency, unique, order) belong to the tenant: two tenants that use the same key do not meet.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any, Final, Literal, Protocol, TypeAlias, TypedDict, get_args

import msgspec

from psyqueue import codec
from psyqueue.backend import WINDOW_MS_DEFAULT, Dependency, Gate, Idempotency, NewJob, Unique
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.backoff import STRATEGIES, Strategy
from psyqueue.clock import Duration, to_at_ms, to_ms
from psyqueue.errors import InvalidOption
from psyqueue.job import PRIORITY_MAX, RETRIES_MAX, TERMINAL, Status, name_problem

META_BYTES_MAX = 65_536
"""Labels, not documents: meta is read with every delivery."""

SCHEDULES: Final = "What repeats is a schedule: q.use(Schedules()), and there add(id, name, cron=...)"
_ARGUMENTS: Final = '. What the handler takes is the payload: enqueue(name, {"field": value}, ...)'

End: TypeAlias = Literal["completed", "dead", "cancelled"]
OnConflict: TypeAlias = Literal["existing", "replace", "reject"]
Given: TypeAlias = dict[str, Any]
"""Options after reading: milliseconds, plain values; what the caller left out is not there."""


class HasId(Protocol):
    """A job handle or view: anything with the id of a job."""

    @property
    def id(self) -> str: ...


Parent: TypeAlias = "str | HasId | tuple[str | HasId, End | Iterable[End]]"
Parents: TypeAlias = "str | HasId | Iterable[Parent] | Mapping[str, End | Iterable[End]]"


class EnqueueOptions(TypedDict, total=False):
    """What `enqueue`, `options` and bulk items take. docs/enqueue.md describes each."""

    id: str
    queue: str
    priority: int
    delay: Duration
    run_at: datetime
    expires: Duration
    deadline: datetime | Duration
    max_retries: int
    backoff: Strategy
    backoff_base: Duration
    backoff_cap: Duration
    backoff_jitter: bool
    timeout: Duration | None
    tenant: str
    idempotency_key: str
    idempotency_window: Duration
    unique_key: str
    on_conflict: OnConflict
    depends_on: Parents
    order_key: str
    lane: str
    meta: Mapping[str, Any]
    conn: Any


class Template:
    """What every job of one (name, queue, version) has in common, worked out once."""

    __slots__ = ("cold", "hasher", "name", "queue", "version")

    def __init__(self, name: str, queue: str, version: int = 1) -> None:
        self.name: str = name
        self.queue: str = queue
        self.version: int = version
        self.hasher: blake2b = blake2b(f"{len(queue)}:{queue}{len(name)}:{name}".encode(), digest_size=16)
        self.cold: bytes = b"{}" if version == 1 else codec.encode_trusted({"schema_version": version})


class Content(msgspec.Struct, frozen=True):
    """A job besides its options; `unique` and `order` are keys derived by the handler.

    Of a schedule: its id, and the instant that the job is made for. `trace` is who enqueues it, not what: it is kept
    with the job, and no part of its digest.
    """

    id: str
    template: Template
    payload: Any
    max_retries: int
    unique: str | None = None
    order: str | None = None
    parent_id: str | None = None
    schedule_id: str | None = None
    nominal_at_ms: int | None = None
    trace: Mapping[str, str] | None = None


def read(options: Mapping[str, Any]) -> Given:
    """Check every option by itself, then those that need each other. Raises InvalidOption."""
    given: Given = {}
    for option, value in options.items():
        reader = _READERS.get(option)
        if reader is None:
            way_out = way_out_of(str(option), _READERS, _FOREIGN, _ARGUMENTS)
            raise InvalidOption(str(option), value, "is not an option of enqueue", way_out)
        given[option] = reader(option, value)
    if "idempotency_window" in given and "idempotency_key" not in given:
        raise InvalidOption(
            "idempotency_window", options["idempotency_window"], "has no idempotency_key to hold for", "Give both"
        )
    return given


def refuse_conn(options: Mapping[str, Any]) -> None:
    """Of a follow-up. Raises InvalidOption."""
    if "conn" in options:
        raise InvalidOption("conn", options["conn"], "is not for ctx.enqueue, which commits with the ack")


def plain_job(job_id: str, template: Template, payload: Any, max_retries: int) -> NewJob:
    """The seam's job of an enqueue without options: the short way. Raises PayloadError, TooLarge."""
    body = codec.encode(payload)
    return NewJob(
        id=job_id,
        queue=template.queue,
        name=template.name,
        payload=body,
        cold=template.cold,
        digest=_digest(template, body if _is_canonical(payload) else canonical(payload)),
        max_retries=max_retries,
    )


def new_job(content: Content, given: Given, now_ms: int) -> NewJob:
    """The seam's job. Raises PayloadError, TooLarge, and InvalidOption for options that do not fit each other."""
    tenant: str | None = given.get("tenant")
    unique_key = given.get("unique_key") or content.unique
    if "on_conflict" in given and unique_key is None:
        way_out = "Give unique_key, or handle(unique=...)"
        raise InvalidOption("on_conflict", given["on_conflict"], "has no unique key to conflict on", way_out)
    order_key = given.get("order_key") or content.order
    idempotency_key: str | None = given.get("idempotency_key")
    asked = {option: value for option, value in given.items() if option not in _NOT_CONTENT}
    return NewJob(
        id=content.id,
        queue=content.template.queue,
        name=content.template.name,
        payload=codec.encode(content.payload),
        cold=_cold(content, given, now_ms),
        digest=_digest(content.template, canonical(content.payload) + (canonical(asked) if asked else b"")),
        priority=given.get("priority", 0),
        max_retries=given.get("max_retries", content.max_retries),
        lane=given.get("lane", tenant or ""),
        delay_ms=given.get("delay", 0),
        run_at_ms=given.get("run_at"),
        expires_in_ms=given.get("expires"),
        schedule_id=content.schedule_id,
        unique=None
        if unique_key is None
        else Unique(scoped(tenant, unique_key), on_conflict=given.get("on_conflict", "existing")),
        idempotency=None
        if idempotency_key is None
        else Idempotency(scoped(tenant, idempotency_key), given.get("idempotency_window", WINDOW_MS_DEFAULT)),
        gate=None if order_key is None else Gate(scoped(tenant, order_key)),
        needs=given.get("depends_on", ()),
    )


def _digest(template: Template, asked: bytes) -> bytes:
    """Stands for what the caller asked for, the payload and then his options, both as `canonical` writes them.

    A JSON value ends where the next one begins, so the two need no border.
    """
    hasher = template.hasher.copy()
    hasher.update(asked)
    return hasher.digest()


canonical: Callable[[Any], bytes] = msgspec.json.Encoder(
    order="deterministic", decimal_format="string", uuid_format="canonical", enc_hook=codec.of_model
).encode
"""JSON with sorted keys, of a value that was checked before: whatever their order in the caller's mapping."""
_ATOMS = frozenset((bool, int, float, str, type(None)))


def _is_canonical(payload: Any) -> bool:
    """Whether it holds nothing that could be sorted, as many payloads do: then one encoding of it is enough."""
    if type(payload) is not dict or len(payload) != 1:
        return False
    (value,) = payload.values()
    return type(value) in _ATOMS


def scoped(tenant: str | None, key: str) -> str:
    """The key as stored. Tenants and keys hold no control characters, so the join is unambiguous."""
    return key if tenant is None else f"{tenant}\x1f{key}"


def unscoped(key: str) -> str:
    """The key as the caller gave it."""
    return key.rpartition("\x1f")[2]


def _cold(content: Content, given: Given, now_ms: int) -> bytes:
    """Only what differs from the defaults of the handler that will run it."""
    cold: dict[str, Any] = {wire: given[option] for option, wire in _COLD if option in given}
    deadline = given.get("deadline")
    if deadline is not None:
        at_ms = deadline.get("at_ms", now_ms + deadline.get("in_ms", 0))
        if at_ms <= now_ms:
            raise InvalidOption("deadline", at_ms, "has passed already, by this machine's clock")
        cold["deadline_at_ms"] = at_ms
    if content.template.version != 1:
        cold["schema_version"] = content.template.version
    if content.parent_id is not None:
        cold["parent_id"] = content.parent_id
    if content.schedule_id is not None:
        cold["schedule_id"] = content.schedule_id
    if content.nominal_at_ms is not None:
        cold["nominal_at_ms"] = content.nominal_at_ms
    if content.trace:
        cold["trace"] = content.trace
    return codec.encode_trusted(cold) if cold else b"{}"


_COLD = (
    ("backoff", "backoff"),
    ("backoff_base", "backoff_base_ms"),
    ("backoff_cap", "backoff_cap_ms"),
    ("backoff_jitter", "backoff_jitter"),
    ("timeout", "timeout_ms"),
    ("tenant", "tenant_id"),
    ("meta", "meta"),
)
_NOT_CONTENT = frozenset(("id", "conn", "queue", "idempotency_key", "idempotency_window", "on_conflict"))
"""How the job is identified and carried, not what it is; the queue is hashed where it was decided."""


# ── readers: (option, value) → plain value, or InvalidOption ──────────────────────────────────────────────────────────
def read_name(option: str, value: Any) -> str:
    """A queue, job, lane, tenant, id or key; of a `str` enumeration's member its value, which `str()` may not give."""
    problem = name_problem(value)
    if problem:
        raise InvalidOption(option, value, problem, "Await it first" if inspect.iscoroutine(value) else "")
    return str.__str__(value)


def read_id(value: Any) -> str:
    """The id of a job that may be there, or what has it: a handle, a view; a UUID is its text. Raises InvalidOption."""
    value = getattr(value, "id", value)
    if isinstance(value, str):
        return str.__str__(value)
    from uuid import UUID  # noqa: PLC0415 - few have one, and everybody would load it

    if isinstance(value, UUID):
        return str(value)
    raise InvalidOption(
        "id", value, f"is {type(value).__name__}, not text", "Await it first" if inspect.iscoroutine(value) else ""
    )


def read_int(option: str, value: Any, low: int, high: int) -> int:
    """A whole number from `low` to `high`; no bool, no float."""
    if type(value) is not int:
        raise InvalidOption(option, value, f"is {type(value).__name__}, not int")
    if not low <= value <= high:
        raise InvalidOption(option, value, f"is outside {low} to {high}")
    return value


def read_bool(option: str, value: Any) -> bool:
    """True or False, nothing that merely counts as one."""
    if type(value) is not bool:
        raise InvalidOption(option, value, f"is {type(value).__name__}, not bool")
    return value


def read_choice(option: str, value: Any, choices: Iterable[str]) -> str:
    """One of a closed list."""
    for choice in (listed := tuple(choices)):
        if value == choice:
            return choice
    raise InvalidOption(option, value, f"is none of {', '.join(listed)}")


def read_strategy(option: str, value: Any) -> str:
    """The name of a back-off; an own function is not for the store."""
    if callable(value):
        raise InvalidOption(option, value, "is a function, which no store can keep", "Give it to handle(backoff=...)")
    return read_choice(option, value, STRATEGIES)


def read_timeout(option: str, value: Any) -> int | None:
    """None is no limit."""
    return None if value is None else to_ms(option, value, minimum_ms=1)


def read_retries(option: str, value: Any) -> int:
    """0 is one run."""
    return read_int(option, value, 0, RETRIES_MAX)


def _read_priority(option: str, value: Any) -> int:
    return read_int(option, value, -PRIORITY_MAX, PRIORITY_MAX)


def read_positive_ms(option: str, value: Any) -> int:
    """A duration of at least a millisecond."""
    return to_ms(option, value, minimum_ms=1)


def _read_deadline(option: str, value: Any) -> dict[str, int]:
    if isinstance(value, datetime):
        return {"at_ms": to_at_ms(option, value)}
    if isinstance(value, int | float | timedelta | str):
        return {"in_ms": to_ms(option, value, minimum_ms=1)}
    raise InvalidOption(option, value, "is neither an aware datetime nor a duration")


def _read_on_conflict(option: str, value: Any) -> str:
    return read_choice(option, value, get_args(OnConflict))


def _read_meta(option: str, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise InvalidOption(option, value, f"is {type(value).__name__}, not a mapping", 'Give meta={"key": value}')
    # Encoded and read back: what is kept is what was given now, whatever the caller does to the mapping later.
    return codec.decode(codec.encode(dict(value), what="meta", bytes_max=META_BYTES_MAX))


def read_trace(value: Any) -> Mapping[str, str] | None:
    """What middleware gave a draft: text by name, such as `traceparent`. Raises InvalidOption, TooLarge."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for pair in value.items() for text in pair):
        raise InvalidOption("draft.trace", value, "is no mapping of text to text", 'Give {"traceparent": "00-…"}')
    codec.encode(dict(value), what="trace", bytes_max=META_BYTES_MAX)
    return value


def _read_conn(option: str, value: Any) -> Any:
    if value is None:
        raise InvalidOption(option, value, "is no connection", "Leave it out to enqueue outside of a transaction")
    return value


def _read_parents(option: str, value: Any) -> tuple[Dependency, ...]:
    if isinstance(value, str) or hasattr(value, "id"):
        listed: list[Any] = [value]
    elif isinstance(value, Mapping):
        listed = list(value.items())
    elif isinstance(value, Iterable):
        listed = list(value)
    else:
        raise InvalidOption(option, value, "is neither a job id or handle nor a collection of them")
    if len(listed) > ITEMS_MAX:
        raise InvalidOption(option, len(listed), f"names more than {ITEMS_MAX} jobs", "Join them in steps")
    needs = tuple(_read_parent(option, item) for item in listed)
    if len({need.job_id for need in needs}) != len(needs):
        raise InvalidOption(
            option, value, "names a job twice", "Give all its ends at once: {id: ('completed', 'dead')}"
        )
    return needs


def _read_parent(option: str, item: Any) -> Dependency:
    parent, on = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
    parent_id = read_name(option, getattr(parent, "id", parent))
    if on is None:
        return Dependency(parent_id)
    ends = (on,) if isinstance(on, str) else tuple(on) if isinstance(on, Iterable) else ()
    if not ends or not TERMINAL.issuperset(ends):
        raise InvalidOption(option, item, "waits for something that is not completed, dead or cancelled")
    known: tuple[Status, ...] = tuple(end for end in ("completed", "dead", "cancelled") if end in ends)
    return Dependency(parent_id, known)


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "id": read_name,
    "queue": read_name,
    "priority": _read_priority,
    "delay": to_ms,
    "run_at": to_at_ms,
    "expires": read_positive_ms,
    "deadline": _read_deadline,
    "max_retries": read_retries,
    "backoff": read_strategy,
    "backoff_base": to_ms,
    "backoff_cap": to_ms,
    "backoff_jitter": read_bool,
    "timeout": read_timeout,
    "tenant": read_name,
    "idempotency_key": read_name,
    "idempotency_window": read_positive_ms,
    "unique_key": read_name,
    "on_conflict": _read_on_conflict,
    "depends_on": _read_parents,
    "order_key": read_name,
    "lane": read_name,
    "meta": _read_meta,
    "conn": _read_conn,
}


_FOREIGN = {
    "countdown": "Did you mean delay?",
    "eta": "Did you mean run_at?",
    "defer_by": "Did you mean delay?",
    "defer_until": "Did you mean run_at?",
    "task_id": "Did you mean id?",
    "job_id": "Did you mean id?",
    "retry": "Did you mean max_retries?",
    "time_limit": "Did you mean timeout?",
    "dedup_key": "Did you mean idempotency_key, or unique_key?",
    "group": "Did you mean order_key, or lane?",
    "args": "Arguments are the payload: handler.options(...).enqueue(*args, **kwargs)",
    "kwargs": "Arguments are the payload: handler.options(...).enqueue(*args, **kwargs)",
    "tags": "Did you mean meta?",
    "cron": SCHEDULES,
}
"""What other queues call it, and nothing of ours looks like."""


def way_out_of(option: str, known: Iterable[str], foreign: Mapping[str, str], rest: str = "") -> str:
    """What to say of an option that is none of `known`: the one that was meant, else all of them, and `rest`."""
    name = option.strip("_")  # as arq writes its own
    if name in foreign:
        return foreign[name]
    listed = tuple(known)
    close = difflib.get_close_matches(name, listed, n=1)
    return f"Did you mean {close[0]}?" if close else f"There are {', '.join(listed)}{rest}"


def is_option(name: str) -> bool:
    """Whether an enqueue takes an option of this name."""
    return name in _READERS

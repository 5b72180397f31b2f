"""From what `enqueue` takes to a plan: checked now, for jobs that are made later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from psyqueue import codec
from psyqueue.clock import to_ms
from psyqueue.errors import InvalidOption
from psyqueue.kernel.handler import Call, Handler
from psyqueue.kernel.handlers import HandlerSpec
from psyqueue.kernel.options import Content, Template, new_job, read, read_name
from psyqueue.kernel.plans import Plan

_OF_ONE_JOB = ("id", "delay", "run_at", "depends_on", "idempotency_key", "idempotency_window", "conn")
_DURATIONS = ("expires", "deadline", "backoff_base", "backoff_cap", "timeout")


def planned(
    find: Callable[[str], HandlerSpec | None], name_or_call: Any, payload: Any, options: Mapping[str, Any]
) -> Plan:
    """What `enqueue` would make of these arguments; a handler stands for its call without arguments.

    Keys and retries that the handler gives become options.

    Raises InvalidOption, PayloadError, TooLarge.
    """
    if isinstance(name_or_call, Handler):
        name_or_call = name_or_call.build() if payload is None else name_or_call.name
    if isinstance(name_or_call, Call):
        call = name_or_call.over(payload, options)
        spec: HandlerSpec | None = call.spec
        name, payload, options = call.spec.name, call.payload, call.options
    else:
        name = read_name("name", name_or_call)
        spec = find(name)
    rest = dict(options)
    queue = read_name("queue", rest.pop("queue", name if spec is None else spec.queue))
    kept = _kept(rest)
    if spec is None:
        return _tried(Plan(name=name, queue=queue, payload=_plain(payload), options=kept))
    payload = _plain(spec.parameters.check(payload))
    for option, made in (("unique_key", spec.unique_key), ("order_key", spec.order_key)):
        if option not in kept and (key := made(payload)) is not None:
            kept[option] = key
    kept.setdefault("max_retries", spec.max_retries)
    return _tried(Plan(name=name, queue=queue, payload=payload, options=kept, version=spec.version))


def _tried(plan: Plan) -> Plan:
    """What does not fit together is found now, and not at each job."""
    new_job(Content("", Template(plan.name, plan.queue), plan.payload, 0), read(plan.options), 0)
    return plan


def _plain(payload: Any) -> Any:
    return codec.decode(codec.encode(payload))


def _kept(options: dict[str, Any]) -> dict[str, Any]:
    """As JSON values that `enqueue` takes. Raises InvalidOption."""
    for option in _OF_ONE_JOB:
        if option in options:
            raise InvalidOption(option, options[option], "holds for one job, and this makes many", "Leave it out")
    if isinstance(options.get("deadline"), datetime):
        way_out = "Give a duration, which counts from when the job is made"
        raise InvalidOption("deadline", options["deadline"], "holds for one job, and this makes many", way_out)
    given = read(options)
    kept = {option: given[option] for option in options}
    for option in _DURATIONS:
        if kept.get(option) is not None:
            kept[option] = f"{to_ms(option, options[option])}ms"
    return kept

"""What a job carries, the same for every queue of a case."""

from __future__ import annotations

from typing import Any

from benchmarks.spec import Spec

AROUND = len('{"i":12345,"text":""}')


def payload(spec: Spec, i: int) -> dict[str, Any]:
    """One small integer; with `payload_bytes` also a text that makes up for the rest of that JSON."""
    text = text_of(spec)
    return {"i": i, "text": text} if text else {"i": i}


def text_of(spec: Spec) -> str:
    return "x" * max(0, spec.payload_bytes - AROUND)


def wait_s(spec: Spec, i: int) -> float:
    """How long the handler of a job waits: 0, 1, … `wait_ms_max` milliseconds in turn."""
    return i % (spec.wait_ms_max + 1) / 1000


def of_possible(spec: Spec, rate: float) -> float:
    """`rate` as a part of what the concurrency lets through when nothing but the handlers takes time."""
    return round(rate / (spec.concurrency / (spec.wait_ms_max / 2 / 1000)), 3)

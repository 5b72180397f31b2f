"""Measurements within a measurement: other processes on the same store, as part of the same process group."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

from benchmarks.redis_server import Client
from benchmarks.spec import Facts, Spec

BEFORE = 100


def command(spec: Spec, kind: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.measure", replace(spec, kind=kind).to_json()]


def run(spec: Spec, kind: str) -> None:
    """Raises CalledProcessError."""
    subprocess.run(command(spec, kind), check=True, stdout=subprocess.DEVNULL)


def footprint(spec: Spec) -> Facts:
    """Bytes of the server per waiting job.

    Another process enqueues and ends, so none of its buffers count; and one before it, so that what a queue has once,
    its scripts above all, counts for no job.
    """
    client = Client.at(spec)
    run(replace(spec, n=BEFORE), "preload")
    before = int(client.info()["used_memory"])
    run(spec, "preload")
    now = client.info()
    client.close()
    used = int(now["used_memory"]) - before
    # Others may use the CPU meanwhile: that changes no byte.
    undisturbed = {"window_s": 0.0, "own_cores": None, "foreign_cores": None}
    return {"value": round(used / spec.n, 1), "used_memory": used} | undisturbed

"""BullMQ in node, on ioredis: bullmq.mjs does the work, this starts it and sees to the rest of the measurement.

Jobs that have ended are removed (`removeOnComplete: true`). Keeping all of them, its default, cost it the same here;
keeping the last 1,000 cost the server some 15 % more.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.homes import NODE_FOLDER
from benchmarks.machine import Window
from benchmarks.peers import children
from benchmarks.peers.figures import REST_S, idle_cpu, quantiles
from benchmarks.peers.payload import of_possible
from benchmarks.redis_server import Counters
from benchmarks.spec import Facts, Spec

SCRIPT = Path(__file__).with_suffix(".mjs")
footprint = children.footprint


class Node:
    """Raises RuntimeError when node ends or says an error."""

    def __init__(self, spec: Spec, kind: str) -> None:
        command = ["node", str(SCRIPT), str(NODE_FOLDER), kind, spec.to_json()]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()

    @property
    def pid(self) -> int:
        return self._process.pid

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._line())
        if "error" in found:
            raise RuntimeError(found["error"])
        return found

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"node ended with {self._process.wait()}")
        return line


def preload(spec: Spec) -> Facts:
    return _send(spec, "preload")


def produce(spec: Spec) -> Facts:
    return _send(spec, "produce")


def _send(spec: Spec, kind: str) -> Facts:
    node = Node(spec, kind)
    node.go()
    node.answer()
    return {"value": spec.n}


def process(spec: Spec) -> Facts:
    found = _measured(spec, "process")
    if found["ran"] < spec.n:
        raise RuntimeError(f"bullmq: {spec.n} acks, but only {found['ran']} jobs ran")
    return found | {"of_possible": of_possible(spec, found["value"])} if spec.wait_ms_max else found


def enqueue(spec: Spec) -> Facts:
    return _measured(spec, "enqueue")


def bulk(spec: Spec) -> Facts:
    return _measured(spec, "bulk")


def _measured(spec: Spec, kind: str) -> Facts:
    node = Node(spec, kind)
    counters = Counters(spec)
    with Window() as window:
        node.go()
        answer = node.answer()
    seen = {name: answer[name] for name in ("ran", "rss_mb") if name in answer}
    return {
        "value": round(spec.n / answer["seconds"]),
        "seconds": round(answer["seconds"], 3),
        "cpu_us_per_job": round(answer["cpu_s"] / spec.n * 1e6, 1),
        "server_us_per_job": round(answer["server_s"] / spec.n * 1e6, 1),
        **counters.per_job(spec.n),
        **seen,
        **window.facts(),
    }


def latency_between(spec: Spec) -> Facts:
    node = Node(spec, "latency_between")
    time.sleep(REST_S)
    with Window() as window:
        node.go()
        children.run(spec, "produce")
        answer = node.answer()
    if answer["ran"] < spec.n:
        raise RuntimeError(f"bullmq: {answer['ran']} of {spec.n} jobs ran")
    idle = idle_cpu(spec.idle_s, pid=node.pid, server_pid=spec.server_pid)
    return quantiles(answer["late_s"]) | idle | window.facts()

"""Queues of node: a script does the work, this starts it and sees to the rest of the measurement.

The script says "ready", begins at the line "go", and answers one line of JSON; peers/node.mjs has what all need for it.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.homes import node_folder
from benchmarks.machine import Window
from benchmarks.peers import children
from benchmarks.peers.figures import REST_S, churned, idle_cpu, quantiles
from benchmarks.peers.payload import of_possible
from benchmarks.servers import counters, old_snapshot
from benchmarks.spec import Facts, Spec


class Node:
    """Raises RuntimeError when node ends or says an error."""

    def __init__(self, script: Path, spec: Spec, kind: str) -> None:
        command = ["node", str(script), str(node_folder(spec.store)), kind, spec.to_json()]
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


class Kinds:
    def __init__(self, script: Path) -> None:
        self._script = script
        self.footprint = children.footprint

    def preload(self, spec: Spec) -> Facts:
        return self._send(spec, "preload")

    def produce(self, spec: Spec) -> Facts:
        return self._send(spec, "produce")

    def _send(self, spec: Spec, kind: str) -> Facts:
        node = Node(self._script, spec, kind)
        node.go()
        node.answer()
        return {"value": spec.n}

    def process(self, spec: Spec) -> Facts:
        found = self._measured(spec, "process")
        if found["ran"] < spec.n:
            raise RuntimeError(f"{spec.peer}: {spec.n} acks, but only {found['ran']} jobs ran")
        return found | {"of_possible": of_possible(spec, found["value"])} if spec.wait_ms_max else found

    def churn(self, spec: Spec) -> Facts:
        node = Node(self._script, spec, "churn")
        with Window() as window, old_snapshot(spec):
            node.go()
            answer = node.answer()
        return churned(answer["rates"], answer["size"], answer["ran"]) | window.facts()

    def enqueue(self, spec: Spec) -> Facts:
        return self._measured(spec, "enqueue")

    def bulk(self, spec: Spec) -> Facts:
        return self._measured(spec, "bulk")

    def _measured(self, spec: Spec, kind: str) -> Facts:
        node = Node(self._script, spec, kind)
        server = counters(spec)
        with Window() as window:
            node.go()
            answer = node.answer()
        seen = {name: answer[name] for name in ("ran", "rss_mb") if name in answer}
        return {
            "value": round(spec.n / answer["seconds"]),
            "seconds": round(answer["seconds"], 3),
            "cpu_us_per_job": round(answer["cpu_s"] / spec.n * 1e6, 1),
            "server_us_per_job": round(answer["server_s"] / spec.n * 1e6, 1),
            **server.per_job(spec.n),
            **seen,
            **window.facts(),
        }

    def latency_between(self, spec: Spec) -> Facts:
        node = Node(self._script, spec, "latency_between")
        time.sleep(REST_S)
        with Window() as window:
            node.go()
            children.run(spec, "produce")
            answer = node.answer()
        if answer["ran"] < spec.n:
            raise RuntimeError(f"{spec.peer}: {answer['ran']} of {spec.n} jobs ran")
        idle = idle_cpu(spec.idle_s, pid=node.pid, server_pid=spec.server_pid)
        return quantiles(answer["late_s"]) | idle | window.facts()

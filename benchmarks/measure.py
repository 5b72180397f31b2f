"""One measurement, in the fresh process that this is: `python -m benchmarks.measure SPEC` prints its facts as JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any, NoReturn, TypeAlias

from benchmarks.machine import spin_ms
from benchmarks.peers.blocking import Blocking
from benchmarks.servers import Server, start
from benchmarks.spec import OURS, Facts, Spec

Kind: TypeAlias = Callable[[Spec], "Facts | Blocking"]


class Measurement:
    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._spin_ms = spin_ms()
        self._server: Server | None = None

    def run(self) -> NoReturn:
        try:
            spec = self._spec
            if spec.server and not spec.url:
                self._server = start(spec)
                spec = replace(spec, url=self._server.url, server_pid=self._server.pid)
            found = kind_of(spec)(spec)
            if isinstance(found, Blocking):
                self._work(found)
            else:
                self._report(found)
        except BaseException:  # noqa: BLE001 - whatever it was, the session is to read it
            self._fail()

    def _work(self, found: Blocking) -> NoReturn:
        threading.Thread(target=self._wait, args=(found,), daemon=True).start()
        found.work()
        raise RuntimeError(f"the worker of {self._spec.peer} ended by itself")

    def _wait(self, found: Blocking) -> None:
        try:
            self._report(found.wait())
        except BaseException:  # noqa: BLE001
            self._fail()

    def _report(self, facts: Facts) -> NoReturn:
        text = json.dumps(facts | {"spin_ms": max(self._spin_ms, spin_ms())})
        if self._server is not None and self._spec.kind == "preload":
            self._server.save()
        print(text, flush=True)
        self._end(0)

    def _fail(self) -> NoReturn:
        traceback.print_exc()
        sys.stderr.flush()
        self._end(1)

    def _end(self, code: int) -> NoReturn:
        if self._server is not None:
            self._server.stop()
        # Peers leave threads behind that wait for work; nothing of theirs is needed any more.
        os._exit(code)


def kind_of(spec: Spec) -> Kind:
    """A function of the peer's module, or of its `KINDS`: what queues of one sort have in common."""
    name = "ours" if spec.peer == OURS else f"{spec.store}.{spec.peer.replace('-', '_')}"
    module: Any = import_module(f"benchmarks.peers.{name}")
    kind: Kind = getattr(getattr(module, "KINDS", module), spec.kind)
    return kind


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    Measurement(Spec.from_json(sys.argv[1])).run()

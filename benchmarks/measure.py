"""One measurement, in the fresh process that this is: `python -m benchmarks.measure SPEC` prints its facts as JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
from importlib import import_module

from benchmarks.machine import spin_ms
from benchmarks.spec import OURS, Spec


def main(text: str) -> None:
    logging.disable(logging.WARNING)
    spec = Spec.from_json(text)
    name = "ours" if spec.peer == OURS else f"{spec.store}.{spec.peer.replace('-', '_')}"
    peer = import_module(f"benchmarks.peers.{name}")
    spin = spin_ms()
    facts = getattr(peer, spec.kind)(spec)
    print(json.dumps(facts | {"spin_ms": max(spin, spin_ms())}), flush=True)
    # Peers leave threads behind that wait for work; nothing of theirs is needed any more.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])

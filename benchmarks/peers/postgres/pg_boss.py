"""pg-boss in node. It keeps a job that is done, in its state; a run ends when all are in that state.

Tuned: takes 100 at once and goes on at once when there were so many (`batchSize`, `burstWhenBatchFull`). Its default
takes one and then waits for half a second, with as many workers as the line has slots: some 20 jobs a second each.
For W3 its notices are on.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.node import Kinds

KINDS = Kinds(Path(__file__).with_suffix(".mjs"))

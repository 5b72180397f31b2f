"""pg-boss in node. It keeps a job that is done, in its state; a run ends when all are in that state.

With a batch it takes so many at once, and goes on at once when there were so many (`batchSize`, `burstWhenBatchFull`);
more such workers beside each other were slower. By default it takes one and waits: two seconds, of which it is given
half a second, the least it allows, and as many workers as the line has slots. For W3 its notices are on.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.node import Kinds

KINDS = Kinds(Path(__file__).with_suffix(".mjs"))

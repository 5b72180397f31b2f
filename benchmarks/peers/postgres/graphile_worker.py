"""graphile-worker in node. It deletes a job that is done; a run ends when none is left in its table.

Tuned: a local queue, and completions in batches without a delay (`localQueue`, `completeJobBatchDelay: 0`). Both are
off by default. 0.17.3 is the last for node 20.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.node import Kinds

KINDS = Kinds(Path(__file__).with_suffix(".mjs"))

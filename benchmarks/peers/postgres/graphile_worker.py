"""graphile-worker in node. It deletes a job that is done; a run ends when none is left in its table.

Tuned: a local queue of 500 jobs, and completions in batches without a delay (`localQueue: {size: 500}`,
`completeJobBatchDelay: 0`); both came with 0.17 and are off by default. 0.17.3 is the last for node 20. A local queue
was fastest with 500 of 100, 200, 500 and 1,000.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.node import Kinds

KINDS = Kinds(Path(__file__).with_suffix(".mjs"))

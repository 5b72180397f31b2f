"""BullMQ in node, on ioredis.

Jobs that have ended are removed (`removeOnComplete: true`). Keeping all of them, its default, cost it the same here;
keeping the last 1,000 cost the server some 15 % more.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.node import Kinds

KINDS = Kinds(Path(__file__).with_suffix(".mjs"))

"""A process that tries a half-open circuit until it is killed: `python -m crash.circuit_probers --serve`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from crash.nursery import serve
from psyqueue import PsyQueue
from psyqueue.plugins import CircuitBreaker
from support.store_at import store_at

CIRCUIT = "payments"


async def probe(place: str) -> None:
    breaker = CircuitBreaker(CIRCUIT)
    async with PsyQueue().use(store_at(place, test_clock=True)).use(breaker), breaker.call():
        await asyncio.get_running_loop().create_future()


def main(arguments: Sequence[str]) -> int:
    (place,) = arguments
    asyncio.run(probe(place))
    return 0


if __name__ == "__main__":
    sys.exit(serve(main))  # type: ignore[func-returns-value]

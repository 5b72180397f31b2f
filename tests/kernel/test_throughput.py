"""What a worker counts: by the store's clock, now and then, and never at the cost of its jobs."""

from __future__ import annotations

from typing import Any

import pytest

from psyqueue import PsyQueue
from psyqueue.backend import Ack, Settled
from psyqueue.backends import memory
from psyqueue.errors import NamespaceFrozen, StoreFull, StoreUnavailable
from psyqueue.kernel.aio import spawn
from psyqueue.kernel.throughput import CLOCK_MS, SPAN_MS, WRITE_MS, Throughput, rates_at
from support.kernel import FakeClock, Wrapped, next_turn


class Run:
    """As much of a run as is looked at."""

    class delivery:  # noqa: N801 - a stand-in for an object
        queue = "mail"


def ended(count: int, verdict: Any = "ok") -> tuple[list[Any], list[Settled]]:
    ack = Ack(job_id="j", completion_token="t")
    return [(Run, ack)] * count, [Settled("j", verdict, "completed")] * count


async def test_spans_are_those_of_the_store_s_clock():
    clock = FakeClock()
    async with PsyQueue(clock=clock).use(memory(test_clock=True)) as q:
        core, backend = q._core, q.get_exposed("backend")
        throughput = Throughput(core, 1_000)
        working = spawn(throughput.work(), name="work")
        while clock.passed_ms < WRITE_MS:
            await next_turn()
        throughput.note(*ended(40))
        while clock.passed_ms < 3 * WRITE_MS:
            await next_turn()
        working.cancel()
        now_ms = (await backend.info()).now_ms
        assert abs(now_ms - clock.now_ms()) > CLOCK_MS, "else this shows nothing"
        assert (await rates_at(backend, now_ms + SPAN_MS)).of("mail") == 2.0


async def test_only_what_the_store_took_as_new_is_counted():
    async with PsyQueue(clock=FakeClock()).use(memory()) as q:
        throughput = Throughput(q._core, 1_000)
        for verdict in ("already", "lost", "conflict"):
            throughput.note(*ended(3, verdict))
        throughput.note(*ended(1))
        await throughput.write()
        found = await rates_at(q.get_exposed("backend"), q._core.clock.now_ms() + SPAN_MS)
        assert found.of_queues == {("mail", "completed"): 1 / 20}


@pytest.mark.parametrize("error", [NamespaceFrozen("frozen"), StoreFull("full"), StoreUnavailable("away")])
async def test_what_the_store_does_not_take_is_let_go(error):
    async with PsyQueue(clock=FakeClock()).use(memory()) as q:
        backend = q._core.backend
        store = Wrapped(backend)

        async def refuse(*_: Any) -> None:
            raise error

        store.before["write_state"] = refuse
        throughput = Throughput(q._core, 100)
        throughput._core = type("Core", (), {"backend": store, "clock": q._core.clock})  # type: ignore[assignment]
        throughput.note(*ended(1))
        await throughput.write()
        del store.before["write_state"]
        await throughput.write()
        assert (await rates_at(backend, q._core.clock.now_ms() + SPAN_MS)).of_queues == {}


async def test_who_does_nothing_writes_nothing():
    async with PsyQueue(clock=FakeClock()).use(memory()) as q:
        store = Wrapped(q._core.backend)
        throughput = Throughput(q._core, 100)
        throughput._core = type("Core", (), {"backend": store, "clock": q._core.clock})  # type: ignore[assignment]
        await throughput.write()
        assert store.calls == []

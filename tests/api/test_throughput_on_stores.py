"""What workers got done is counted in the store, on each of them; whoever looks sees it, whatever was deleted since."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from psyqueue import Cancel, Context, DeadLetter, PsyQueue, Retry, Snooze
from psyqueue.kernel.throughput import MINUTE_MS, SPAN_MS, SPANS, Rates, minutes_until, rates_at

WITHIN_S = SPANS * SPAN_MS / 1_000


def doing(q: PsyQueue, *, queue: str = "work") -> Any:
    @q.handle(f"do.{queue}", queue=queue, max_retries=1, backoff_base=0.001)
    async def do(ctx: Context, what: str) -> str:
        verdicts = {"dead": DeadLetter("no use"), "cancel": Cancel("not wanted"), "snooze": Snooze("1h")}
        if what in verdicts:
            raise verdicts[what]
        if what == "retry" and ctx.attempt == 1:
            raise Retry(after=0)
        return what

    return do


async def work(q: PsyQueue, do: Any, *what: str) -> None:
    """Until all of it has ended; what is put off for an hour has not."""
    handles = await q.enqueue_bulk([do.build(each) for each in what])
    worker = q.start_worker(lease="1s")
    for handle in handles:
        if (await handle.refresh()).payload["what"] != "snooze":
            await handle.wait("20s")
    await worker.stop()


async def told(q: PsyQueue) -> Rates:
    """As it is told when the span has passed in which it was done, and the one before it."""
    backend = q.get_exposed("backend")
    now_ms = (await backend.info()).now_ms
    both = [await rates_at(backend, now_ms + later_ms) for later_ms in (0, SPAN_MS)]
    return max(both, key=lambda rates: sum(rates.of_queues.values()))


def counted(rates: Rates, queue: str) -> dict[str, float]:
    return {kind: rate * WITHIN_S for (of, kind), rate in rates.of_queues.items() if of == queue}


async def test_each_end_is_counted_once_by_its_kind(q):
    do = doing(q)
    async with q:
        await work(q, do, "a", "b", "retry", "dead", "cancel", "snooze")
        found = counted(await told(q), "work")
        assert found == {"completed": 3, "retried": 1, "dead": 1, "cancelled": 1}
        rates = await told(q)
        assert rates.of("work") == pytest.approx(5 / WITHIN_S, abs=0.05)
        assert rates.of("other") == 0
        backend = q.get_exposed("backend")
        minutes = await minutes_until(backend, (await backend.info()).now_ms + MINUTE_MS, 2)
        assert sum(each.completed for each in minutes) == 3
        assert sum(each.retried for each in minutes) == 1
        assert sum(each.dead for each in minutes) == 1
        assert minutes[1].at_ms - minutes[0].at_ms == MINUTE_MS


async def test_what_retention_deletes_is_counted_all_the_same(q):
    do = doing(q)
    async with q:
        await q.limits("work", retain_ended=("1d", 0))
        await work(q, do, *map(str, range(20)))
        backend = q.get_exposed("backend")
        while (await backend.prune(100)).more:
            pass
        assert (await q.jobs(queue="work")).items == ()
        assert counted(await told(q), "work") == {"completed": 20}


async def test_workers_of_several_processes_add_up(make: Callable[..., PsyQueue], store: str):
    if store == "memory":
        pytest.skip("this store lives in one client: there is no second one to the same data")
    first, second = make(), make()
    async with first, second:
        await work(first, doing(first), "a", "b")
        await work(second, doing(second), "c")
        assert counted(await told(first), "work") == {"completed": 3}


async def test_a_queue_may_have_any_name(q):
    queue = "a:b/ü é:completed:*"
    do = doing(q, queue=queue)
    async with q:
        await work(q, do, "a")
        assert counted(await told(q), queue) == {"completed": 1}

"""Orders to workers: each is heeded once, by whoever has the session now."""

from __future__ import annotations

from psyqueue import PsyQueue
from psyqueue.backend import Effects, Op, StateWrite
from psyqueue.backends import memory
from psyqueue.kernel.orders import Heeder, Order, give_order, read_orders


async def test_an_order_is_heeded_once_and_a_later_one_counts():
    heard: list[Order] = []
    async with PsyQueue().use(memory()) as q:
        core = q._core
        heeder = Heeder(core, "w", on_word=lambda: None, on_order=heard.append)
        heeder._sessions.append("s1")
        await heeder.look()
        assert heard == []
        await give_order(core, ["s1"], Order("drain"))
        await heeder.look()
        await heeder.look()
        assert heard == [Order("drain")]
        await give_order(core, ["s1"], Order("stop", 5))
        await heeder.look()
        assert heard == [Order("drain"), Order("stop", 5)]


async def test_an_order_to_the_session_of_before_is_meant_for_the_worker():
    heard: list[Order] = []
    async with PsyQueue().use(memory()) as q:
        heeder = Heeder(q._core, "w", on_word=lambda: None, on_order=heard.append)
        heeder._sessions.extend(("reaped", "now"))
        await give_order(q._core, ["reaped"], Order("drain"))
        await heeder.look()
        assert heard == [Order("drain")]


async def test_what_is_no_order_is_none():
    async with PsyQueue().use(memory()) as q:
        writes = (StateWrite(kind="put", key="order:s", value=b'{"kind":"explode"}'),)
        await q.get_exposed("backend").write_state(Op("t", 1, 1), Effects(writes=writes))
        assert await read_orders(q.get_exposed("backend"), ["s", "nobody"]) == (None, None)

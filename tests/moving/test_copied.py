"""What is copied already stays as it is while the rest is on its way, however long that takes."""

from __future__ import annotations

import pytest

from moving.rig import EVERYTHING, Killed, Life, application, live
from psyqueue.testing.conformance.handle import job

LATER_MS = 30_000


async def test_time_may_go_by_between_a_copy_and_its_comparison(stores):
    """Cut short before the deciding step; what was copied would be due, expired or too old by the next try."""
    old, new = stores
    app = await application(old, new)
    await old.limit(retain_ended=(LATER_MS, 9))
    await old.add("done")
    await old.run()
    await old.enqueue(job("soon", delay_ms=LATER_MS), job("expires", expires_in_ms=LATER_MS))
    await live(old, new, selection=EVERYTHING).begin()
    life = Life()
    with pytest.raises(Killed):
        await live(old, new, _before_the_end(life), EVERYTHING).finish()
    assert await app.statuses("done", "soon", "expires") == ["completed", "scheduled", "pending"]
    for store in stores:
        await store.advance(2 * LATER_MS)
    await app.backend.promote(("q",), 9)
    await app.backend.prune(9)
    assert (await live(old, new, selection=EVERYTHING).finish()).ok
    assert await app.status("done") == "completed"
    await app.backend.promote(("q",), 9)
    await app.backend.prune(9)
    assert await app.statuses("done", "soon", "expires") == [None, "pending", "dead"]


def _before_the_end(life: Life) -> Life:
    """It ends before the old store is closed."""
    ends_at = life.ends_at
    life.ends_at = lambda call: ends_at(call) or call == ("old", "set_mode", "moved")  # type: ignore[method-assign]
    return life

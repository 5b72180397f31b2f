"""What was copied is read back and compared: all that cannot have changed by itself."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from moving.rig import mover
from psyqueue.backend import Filter, MovedFire, MovedLock, MovedRecord, MovedState
from psyqueue.errors import InvalidState
from psyqueue.moving.house import is_journal
from psyqueue.testing.conformance.handle import DAY_MS
from psyqueue.testing.conformance.moving_house import exported, furnish


async def test_a_copy_that_is_not_the_same_is_not_opened(stores, monkeypatch):
    old, new = stores
    await old.fill(3)
    take_in = new.backend.import_part

    async def forge(op, items):
        forged = [
            replace(item, job=replace(item.job, payload=b"{}")) if getattr(item, "number", 0) == 2 else item
            for item in items
        ]
        return await take_in(op, forged)

    monkeypatch.setattr(new.backend, "import_part", forge)
    with pytest.raises(InvalidState, match=r"q/pending differ in the new store. Nothing is lost"):
        await mover(old, new).run()
    monkeypatch.undo()
    assert [(await store.backend.info()).mode for store in stores] == ["frozen", "frozen"]
    await mover(old, new).rollback()
    assert await old.dequeue_ids() == ["q-0000", "q-0001", "q-0002"]
    assert await new.walk(Filter()) == []


def forged(item):
    """The same with other content, if it is one of the kinds that are made to be compared."""
    match item:
        case MovedState(left_ms=None):
            return replace(item, item=replace(item.item, value=b"0"))
        case MovedRecord():
            return replace(item, stored=replace(item.stored, body=b"0"))
        case MovedLock():
            return replace(item, holder="nobody")
        case MovedFire():
            return replace(item, nominal_ms=item.nominal_ms + 1)
        case _:
            return item


@pytest.mark.parametrize("part", ["state", "records", "locks", "fires"])
async def test_other_things_are_compared_too(stores, monkeypatch, part):
    old, new = stores
    await furnish(old)
    take_in, kinds = new.backend.import_part, {type(each) for each in await exported(old, part)}

    async def forge(op, items):
        are_of_part = type(items[0]) in kinds and not is_journal(items[0])
        return await take_in(op, [forged(item) for item in items] if are_of_part else items)

    monkeypatch.setattr(new.backend, "import_part", forge)
    with pytest.raises(InvalidState, match=f"all queues/{part} differ"):
        await mover(old, new).run()


async def test_time_may_go_by_and_windows_may_end_between_the_copy_and_its_comparison(different):
    old, new = different
    await furnish(old)
    export = new.backend.export_part
    later = [2 * DAY_MS]

    async def look_late(part, cursor, limit):
        if part == "limits" and later:
            await new.advance(later.pop())
        return await export(part, cursor, limit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(new.backend, "export_part", look_late)
        later.append(1)  # the plan looks first
        assert (await mover(old, new).run()).ok
    assert not later
    assert await new.read("short") is None
    assert await exported(new, "keys") == []

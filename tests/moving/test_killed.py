"""Moves between real stores of all kinds, killed at each of their changing calls, before it is done and after.

In memory each single kill is shown (test_mover.py); here one move after the other dies, each where none did before, so
that every state between two calls is one from which another process goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from moving.rig import Killed, ManyLives, content, mover, startable_in
from psyqueue.moving import Selection
from psyqueue.testing.conformance import Store
from psyqueue.testing.conformance.moving_house import furnish

EVERYTHING = Selection.of(("completed", "cancelled"))
LIVES_MAX = 100


async def furnished(old: Store, new: Store) -> None:
    """Both, so that a merge has to keep what is there; a job is still running in the old one."""
    await furnish(old)
    await old.fill(12, "many")
    await old.dequeue_one("many", session="worker")
    await new.advance(await old.now_ms() - await new.now_ms())
    await new.fill(3, "here")
    await new.limit(active_max=7)


async def until_it_lives(stores: tuple[Store, Store], lives: ManyLives, act: Callable[[], Awaitable[object]]) -> None:
    """Again and again, however often it dies; no job can ever be started in both stores."""
    for _ in range(LIVES_MAX):
        try:
            await act()
        except Killed:
            ids = await startable_in(*stores)
            assert len(ids) == len(set(ids)), f"startable in two stores after {lives.ended_at[-1]}"
        else:
            return
    raise AssertionError(f"it dies for ever: {lives.ended_at}")


def kinds(lives: ManyLives) -> set[tuple[str, str]]:
    """Each with what it was about: a test that no longer kills anywhere would show nothing."""
    return {(name, about) for (_, name, about), _ in lives.ended_at}


async def modes(*stores: Store) -> tuple[str, ...]:
    return tuple([(await store.backend.info()).mode for store in stores])


async def test_killed_at_every_call_it_ends_as_if_never_killed(different):
    old, new = different
    await furnished(old, new)
    before, there = await content(old), await content(new)
    lives = ManyLives()

    async def act() -> None:
        await mover(old, new, lives, EVERYTHING, is_merge=True, is_take_over=True).run()

    await until_it_lives(different, lives, act)
    wanted, found = await content(old), await content(new)
    assert {part: len(items) for part, items in wanted.items()} == {part: len(items) for part, items in before.items()}
    limits = [each for each in wanted["limits"] if (each["queue"], each["lane"]) != ("q", None)]
    wanted |= {"limits": limits}  # the destination's own stay
    assert found == {part: sorted([*items, *there[part]], key=repr) for part, items in wanted.items()}
    assert await modes(old, new) == ("moved", "open")
    assert await new.broken() == []
    assert kinds(lives) >= {
        ("set_mode", "frozen"), ("set_mode", "moved"), ("set_mode", "open"), ("close_session", ""),
        ("import_part", "copying"), ("import_part", "MovedJob"), ("import_part", "MovedNeed"),
        ("write_state", "Effects"),
    }  # fmt: skip


async def test_killed_at_every_call_a_rollback_leaves_it_as_it_was(different):
    old, new = different
    await furnished(old, new)
    await old.close_session("worker")
    before, there = await content(old), await content(new)
    forth, back = ManyLives(), ManyLives()

    async def act() -> None:
        if ("old", "set_mode", "moved") not in {call for call, _ in forth.ended_at}:
            await mover(old, new, forth, EVERYTHING, is_merge=True).run()
        await mover(old, new, back).rollback()

    await until_it_lives(different, forth, act)
    assert await content(old) == before
    assert await content(new) == there
    assert await modes(old, new) == ("open", "open")
    assert await old.broken() == []
    assert await new.broken() == []
    assert kinds(back) >= {("drop_part", "MovedJob"), ("drop_part", "MovedState"), ("import_part", "rolling back")}


async def test_killed_at_every_call_single_queues_move_once(different):
    old, new = different
    await furnish(old)
    await old.fill(3, "stays")
    await new.advance(await old.now_ms() - await new.now_ms())
    before = await content(old)
    lives = ManyLives()
    selection = Selection.of(("completed", "cancelled"), ("q", "past", "other"))

    async def act() -> None:
        await mover(old, new, lives, selection).run()

    await until_it_lives(different, lives, act)
    found = await content(new)
    assert found["jobs"] == [each for each in before["jobs"] if each["job"].queue != "stays"]
    assert {part: found[part] for part in ("limits", "keys", "needs")} == {
        part: before[part] for part in ("limits", "keys", "needs")
    }
    assert [each["job"].queue for each in (await content(old))["jobs"]] == ["stays"] * 3
    assert await modes(old, new) == ("open", "open")
    assert await new.broken() == []
    assert kinds(lives) >= {("drop_part", "MovedJob"), ("drop_part", "Limits"), ("import_part", "dropping")}

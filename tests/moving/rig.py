"""Moves for tests: two stores by name, and a backend whose process dies at a call of one's choice."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from psyqueue.backend import PARTS, BackendAdapter, Moved, Part
from psyqueue.moving import House, LiveMove, Mover, Selection
from psyqueue.moving.backend import MovingBackend
from psyqueue.moving.house import is_journal
from psyqueue.testing.conformance import Store
from psyqueue.testing.conformance.moving_house import exported

CHANGES = ("set_mode", "import_part", "drop_part", "close_session", "write_state", "amend")
EVERYTHING = Selection.of(("completed", "cancelled"))


Call: TypeAlias = tuple[str, str, str]
"""Side, verb, and what it is about."""


class Killed(BaseException):
    """As if the process were gone."""


class Life:
    """Counts the changing calls of both sides; the `at`-th ends it, `is_late` after the store has done it."""

    def __init__(self, at: int | None = None, *, is_late: bool = False) -> None:
        self.at = at
        self.is_late = is_late
        self.calls = 0

    def ends_at(self, call: Call) -> bool:
        self.calls += 1
        return self.calls == self.at


class ManyLives(Life):
    """Of one move after the other: each call that is new ends one before the store has done it, and one after that."""

    def __init__(self) -> None:
        super().__init__()
        self.ended_at: list[tuple[Call, bool]] = []

    def ends_at(self, call: Call) -> bool:
        for self.is_late in (False, True):
            if (call, self.is_late) not in self.ended_at:
                self.ended_at.append((call, self.is_late))
                return True
        return False


class Mortal:
    """A backend in a process that dies."""

    def __init__(self, inner: BackendAdapter, side: str, life: Life) -> None:
        self._inner = inner
        self._side = side
        self._life = life

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in CHANGES:
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            is_last = self._life.ends_at((self._side, name, _about(args)))
            if is_last and not self._life.is_late:
                raise Killed
            reply = await found(*args, **kwargs)
            if is_last:
                raise Killed
            return reply

        return call


def _about(args: tuple[Any, ...]) -> str:
    """What a call changes, the same whenever it is made: the kind of its first item, the journal's phase, a mode."""
    what: Any = args[1] if len(args) > 1 else ""
    if isinstance(what, str):
        return what
    first = what[0] if isinstance(what, list | tuple) else what
    return msgspec.json.decode(first.item.value).get("phase", "over") if is_journal(first) else type(first).__name__


def mover(
    old: Store,
    new: Store,
    life: Life | None = None,
    selection: Selection | None = None,
    *,
    names: tuple[str, str] = ("old", "new"),
    **how: Any,
) -> Mover:
    """Each is a new process: with its own clients, and its own ops."""
    one = life or Life()
    mortals: Any = [Mortal(store.backend, name, one) for store, name in zip((old, new), names, strict=True)]
    source, target = (House(mortal, name) for mortal, name in zip(mortals, names, strict=True))
    return Mover(source, target, selection or Selection(), **{"wait_ms": 0, **how})


def live(old: Store, new: Store, life: Life | None = None, selection: Selection | None = None, **how: Any) -> LiveMove:
    """As `mover`, of a move without a pause."""
    one = life or Life()
    mortals: Any = [Mortal(store.backend, name, one) for store, name in ((old, "old"), (new, "new"))]
    source, target = (House(mortal, name) for mortal, name in zip(mortals, ("old", "new"), strict=True))
    return LiveMove(source, target, selection or Selection(), **{"wait_ms": 0, **how})


async def application(old: Store, new: Store, client: str = "app") -> Store:
    """A process of an application that uses `moving(old, new)`."""
    backend = MovingBackend(old.backend, new.backend)
    await backend.connect()
    return Store(backend, client)


async def content(store: Store) -> dict[Part, list[Any]]:
    """All there is, without the journal and without numbers, which each store gives itself."""
    return {part: sorted(map(_plain, await _items(store, part)), key=repr) for part in PARTS if part != "numbers"}


async def _items(store: Store, part: Part) -> list[Moved]:
    return [item for item in await exported(store, part) if not is_journal(item)]


def _plain(item: Moved) -> dict[str, Any]:
    fields = {name: getattr(item, name) for name in item.__struct_fields__}
    return {**fields, "number": 0, "ready_number": 0}


async def startable_in(*stores: Store) -> list[str]:
    """The ids that a worker could get now, of both stores; none of them may be there twice."""
    found: list[str] = []
    for store in stores:
        if (await store.backend.info()).mode in ("open", "draining"):
            found += [each.job.id for each in await exported(store, "jobs") if each.status in ("pending", "scheduled")]
    return found

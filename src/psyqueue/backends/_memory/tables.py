"""Dictionaries that can be taken back: the memory store's transactions."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_ABSENT: Any = object()


class Journal:
    """What every table held before this step, newest last."""

    def __init__(self) -> None:
        self._entries: list[tuple[Table[Any, Any], Any, Any]] = []

    def note(self, table: Table[Any, Any], key: Any, before: Any) -> None:
        self._entries.append((table, key, before))

    def mark(self) -> int:
        """A savepoint; 0 as long as the step changed nothing."""
        return len(self._entries)

    def roll_back(self, mark: int = 0) -> None:
        while len(self._entries) > mark:
            table, key, before = self._entries.pop()
            table.restore(key, before)

    def commit(self) -> None:
        self._entries.clear()


class Table(dict[K, V]):
    """A dict of immutable values whose writes go through the journal: `table[key] = …` and `table.drop(key)` only."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._note: Callable[[Table[Any, Any], Any, Any], None] = journal.note

    def __setitem__(self, key: K, value: V) -> None:
        self._note(self, key, self.get(key, _ABSENT))
        super().__setitem__(key, value)

    def drop(self, key: K) -> None:
        """Delete if present."""
        if key in self:
            self._note(self, key, super().pop(key))

    def restore(self, key: K, before: V) -> None:
        if before is _ABSENT:
            super().pop(key, None)
        else:
            super().__setitem__(key, before)

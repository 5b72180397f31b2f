"""Identities made by the client: time-ordered job ids and unguessable tokens."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from hashlib import blake2b

ID_LENGTH_MAX = 200


class _IdSource:
    """UUIDv7 (RFC 9562): 48 bits of milliseconds, 26 bits of counter, the rest random.

    Ids of one process never repeat and sort in the order they were made, also within a millisecond and when the clock
    steps back: the counter then runs on from the highest instant seen. A forked child starts with fresh randomness.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reseed()

    def reseed(self) -> None:
        self._lock = threading.Lock()
        self._at_ms = 0
        self._counter = 0
        self._stamp = self._head = self._tail = ""

    def next(self) -> str:
        with self._lock:
            at_ms = time.time_ns() // 1_000_000
            if at_ms > self._at_ms:
                self._start(at_ms)
            else:
                self._counter += 1
                if not self._counter & 0x3FFF:
                    self._carry()
            return f"{self._head}{0x8000 | self._counter & 0x3FFF:x}{self._tail}"

    def _carry(self) -> None:
        """The lower 14 bits of the counter are used up: they alone are written for each id."""
        if self._counter >> 26:
            self._start(self._at_ms + 1)
        else:
            self._head = f"{self._stamp}{self._counter >> 14:03x}-"

    def _start(self, at_ms: int) -> None:
        random = int.from_bytes(os.urandom(9), "big")
        self._at_ms = at_ms
        # The counter starts in the lower half of its range, so that a millisecond has room for 33 million ids.
        self._counter = random & 0x1FFFFFF
        stamp = f"{at_ms:012x}"
        self._stamp = f"{stamp[:8]}-{stamp[8:]}-7"
        self._head = f"{self._stamp}{self._counter >> 14:03x}-"
        self._tail = f"-{random >> 24:012x}"


_source = _IdSource()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_source.reseed)

new_id: Callable[[], str] = _source.next
"""A new job id: UUIDv7 text, 36 characters, sorting by time of making."""


def new_token() -> str:
    """128 random bits as 32 hex digits: completion tokens, session and client ids."""
    return os.urandom(16).hex()


def named_id(at_ms: int, *parts: str) -> str:
    """The id that is always the same for the same thing: UUIDv8 of `parts` with `at_ms` in the first 48 bits.

    A schedule's fire or a workflow's step gets the same id from whoever makes it, so a second enqueue finds the first.
    """
    digest = blake2b("\x1f".join(parts).encode(), digest_size=10).hexdigest()
    stamp = f"{at_ms & 0xFFFFFFFFFFFF:012x}"
    variant = "89ab"[int(digest[3], 16) & 3]
    return f"{stamp[:8]}-{stamp[8:]}-8{digest[0:3]}-{variant}{digest[4:7]}-{digest[7:19]}"

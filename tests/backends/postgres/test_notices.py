"""Messages of any size as notices, which are short, text, and never twice the same."""

from __future__ import annotations

import contextlib

import pytest

from psyqueue.backends._postgres.notices import Receiver, Sender

NOTICE_BYTES_MAX = 7_999


@pytest.mark.parametrize("size", [0, 1, 4_799, 4_800, 4_801, 8_192])
def test_a_body_comes_back_as_it_was(size: int) -> None:
    body = bytes(range(256)) * 33
    topic = "ü:" * 100
    notices = Sender("c" * 32).notices(topic, (body[:size],))
    assert max(len(notice.encode()) for notice in notices) <= NOTICE_BYTES_MAX
    receiver = Receiver()
    *rest, last = [receiver.received(notice) for notice in notices]
    assert set(rest) <= {None}
    assert last == (topic, body[:size])


def test_equal_bodies_are_different_notices() -> None:
    """The server folds equal ones of a transaction into one."""
    notices = Sender("c").notices("t", (b"1",) * 10)
    assert len(set(notices)) == 10


def test_messages_of_two_senders_do_not_mix() -> None:
    one, two = Sender("a").notices("t", (b"1" * 8_000,)), Sender("b").notices("t", (b"2" * 8_000,))
    receiver = Receiver()
    got = [receiver.received(notice) for notice in (one[0], two[0], one[1], two[1])]
    assert got == [None, None, ("t", b"1" * 8_000), ("t", b"2" * 8_000)]


@pytest.mark.parametrize("notice", ["", "x", "a.1:1:2", "a.1:1/1:x:t", "a.1:1/1:1:t!"])
def test_foreign_words_are_an_error_or_nothing(notice: str) -> None:
    with contextlib.suppress(ValueError):
        assert Receiver().received(notice) in (None, ("t", b""))


def test_a_message_without_its_begin_is_dropped() -> None:
    first, second = Sender("a").notices("t", (b"1" * 8_000,))
    receiver = Receiver()
    assert receiver.received(second) is None
    assert first

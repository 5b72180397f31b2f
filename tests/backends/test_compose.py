"""Whole lists above the seam: over all pages, however many items a page has."""

from __future__ import annotations

import pytest

from psyqueue.backend import Limits, Op, Session
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.backend.compose import all_queues, all_sessions, every_page
from psyqueue.backends import memory
from psyqueue.ids import new_token

MORE = ITEMS_MAX + 1
"""One more than a page."""


@pytest.fixture
async def backend():
    opened = memory(test_clock=True).adapter
    await opened.connect()
    yield opened
    await opened.disconnect()


async def test_every_queue_is_listed_once_and_by_name(backend):
    client, names = new_token(), [f"q{number:04}" for number in range(MORE)]
    for turn, name in enumerate(("other", *names), start=1):
        await backend.put_limits(Op(client, 1, turn), [Limits(queue=name, active_max=1)])
    assert [info.queue for info in await all_queues(backend, "q")] == names
    assert len(await all_queues(backend)) == MORE + 1


async def test_every_session_is_listed_once(backend):
    client, ids = new_token(), sorted(new_token() for _ in range(MORE))
    for turn, session_id in enumerate(ids, start=1):
        await backend.open_session(
            Op(client, 1, turn), Session(id=session_id, worker="w", queues=("q",), lease_ms=60_000)
        )
    assert [info.session.id for info in await all_sessions(backend)] == ids


async def test_a_page_may_be_empty_and_only_a_missing_cursor_is_the_end():
    pages = {None: ((1, 2), "a"), "a": ((), "b"), "b": ((3,), None)}

    async def ask(cursor):
        return pages[cursor]

    assert await every_page(ask) == [1, 2, 3]

"""What a role or database may set for our sessions without a change in what a step does."""

from __future__ import annotations

from backends.postgres.stores import opened
from psyqueue.backends._postgres.schema import this_release
from psyqueue.testing.conformance.handle import add
from support.servers import Server


async def test_counters_count_where_backslashes_escape(postgres_server: Server, namespace: str) -> None:
    """`standard_conforming_strings = off`: a session reads the texts in functions under it."""
    async with opened(f"{postgres_server.url}?standard_conforming_strings=off", namespace) as store:
        await store.write(add("made"))
        await store.write(add("made", -3))
        made = await store.read("made")
    assert made is not None
    assert made.value == b"-2"


def test_no_function_has_a_backslash() -> None:
    """What it means is a setting of the session."""
    assert "\\" not in this_release().functions.text

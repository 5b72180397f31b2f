"""A call that takes too long ends on the server, too, although nothing is set up there."""

from __future__ import annotations

import asyncio

import pytest

from backends.postgres.stores import LIMIT_S, connected, opened
from psyqueue.errors import StoreUnavailable
from psyqueue.testing.conformance.handle import ack
from support.servers import Server


async def test_a_call_given_up_is_cancelled_on_the_server(postgres_server: Server, namespace: str) -> None:
    """Behind a pooler as well: it passes the request on, where it would refuse a setting of the session."""
    url = postgres_server.url
    limited = opened(url, namespace, statement_timeout="3s", application_name=namespace)
    async with opened(url, namespace), limited as store, connected(url) as other:
        locked = other.transaction()
        await locked.start()
        await other.execute(f'lock table "{namespace}".meta in access exclusive mode')
        with pytest.raises(StoreUnavailable) as gone:
            await store.backend.info()
        assert gone.value.outcome == "unknown"
        running = "select count(*) from pg_stat_activity where application_name = $1 and state = 'active'"
        async with asyncio.timeout(LIMIT_S):
            while await other.fetchval(running, namespace):
                await other.execute("select pg_stat_clear_snapshot()")
        await locked.rollback()
        await store.backend.info()


async def test_no_session_of_ours_carries_a_setting(postgres_server: Server, namespace: str) -> None:
    """What differs from the server's own would reach somebody else's statements behind a pooler."""
    url = postgres_server.url
    async with opened(url, namespace, application_name=namespace) as store, connected(url) as other:
        await store.add("a")
        delivery = await store.dequeue_one()
        transaction = await store.backend.begin()
        connection = transaction.connection
        await transaction.commit("s", ack(delivery))
        again = await store.backend.begin()
        assert again.connection is connection
        changed = "select name from pg_settings where source in ('session', 'client') order by 1"
        ours = {row[0] for row in await again.connection.fetch(changed)}
        plain = {row[0] for row in await other.fetch(changed)}
        # The name is a courtesy, and every pooler knows it; the other is the transaction's own.
        assert ours - plain == {"application_name", "transaction_isolation"}
        await again.rollback()

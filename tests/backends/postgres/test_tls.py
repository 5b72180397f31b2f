"""TLS: verified when it is on, and every way in which it can fail has its own words."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backends.postgres.stores import opened
from psyqueue.backends._postgres import PostgresBackend, PostgresOptions
from psyqueue.errors import InvalidOption, StoreError, StoreUnavailable
from psyqueue.testing.conformance.handle import Store
from support.certificates import make_certificate
from support.postgres_tls import TlsFront, tls_before
from support.servers import Server


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return make_certificate(tmp_path)


@pytest.fixture
async def front(postgres_server: Server, certificate: tuple[Path, Path]) -> AsyncIterator[TlsFront]:
    async with tls_before(postgres_server, *certificate) as made:
        yield made


async def refusal(url: str, namespace: str, **options: Any) -> StoreError:
    """Nothing is made of a store that cannot be reached, and nothing is left open."""
    backend = PostgresBackend(PostgresOptions(connection_string=url, schema=namespace, test_clock=True, **options))
    with pytest.raises(StoreError) as refused:
        await backend.connect()
    return refused.value


async def work(store: Store) -> None:
    """Every connection of a client: calls, leases, waits, a handler's transaction; and more than one packet."""
    await store.add("a", payload=b'"' + b"x" * 500_000 + b'"')
    delivery = await store.dequeue_one()
    assert len(delivery.payload) == 500_002
    keeper = store.backend.keeper()
    assert (await asyncio.to_thread(keeper.renew, "s")).open
    await asyncio.to_thread(keeper.close)
    await store.backend.wait(["other"], [], 50)
    await (await store.backend.begin()).rollback()


async def test_a_known_authority_lets_us_in(front: TlsFront, certificate: tuple[Path, Path], namespace: str) -> None:
    async with opened(front.url, namespace, ssl=True, ssl_ca=certificate[0]) as store:
        await work(store)
    assert front.greeted >= 4
    assert front.plain == 0


async def test_a_context_of_the_callers_own_decides_by_itself(
    front: TlsFront, certificate: tuple[Path, Path], namespace: str
) -> None:
    trusting = ssl.create_default_context(cafile=certificate[0])
    careless = ssl.create_default_context()
    careless.check_hostname = False
    careless.verify_mode = ssl.CERT_NONE
    for context in (trusting, careless):
        async with opened(front.url, namespace, ssl=context) as store:
            await store.backend.info()
    assert (front.greeted > 0, front.plain) == (True, 0)


async def test_an_unknown_authority_is_refused(front: TlsFront, namespace: str) -> None:
    found = await refusal(front.url, namespace, ssl=True)
    assert isinstance(found, StoreUnavailable)
    assert found.outcome == "refused"
    assert "its certificate is not trusted" in found.message
    assert "ssl_ca=" in found.message
    assert front.greeted == 0


async def test_a_certificate_of_another_name_is_refused(
    postgres_server: Server, tmp_path: Path, namespace: str
) -> None:
    cert, key = make_certificate(tmp_path, "elsewhere.example")
    async with tls_before(postgres_server, cert, key) as front:
        found = await refusal(front.url, namespace, ssl=True, ssl_ca=cert)
    assert "its certificate is not trusted" in found.message
    assert "use the name it was made for" in found.message


async def test_a_server_without_tls_is_refused_not_used_in_the_clear(postgres_server: Server, namespace: str) -> None:
    found = await refusal(postgres_server.url, namespace, ssl=True)
    assert isinstance(found, StoreUnavailable)
    assert "the server speaks no TLS" in found.message


async def test_an_authority_that_cannot_be_read_is_named(front: TlsFront, tmp_path: Path, namespace: str) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for path in (tmp_path / "missing.pem", empty):
        with pytest.raises(InvalidOption, match="ssl_ca") as refused:
            await PostgresBackend(PostgresOptions(connection_string=front.url, ssl=True, ssl_ca=path)).connect()
        assert refused.value.option == "ssl_ca"


async def test_the_mode_of_an_address_is_kept(
    front: TlsFront, postgres_server: Server, certificate: tuple[Path, Path], namespace: str
) -> None:
    assert "certificate is not trusted" in (await refusal(front.url, namespace, sslmode="verify-full")).message
    assert (front.greeted, front.plain) == (0, 0)
    async with opened(front.url, namespace, sslmode="verify-full", ssl_ca=certificate[0]) as store:
        await work(store)
    async with opened(front.url, namespace, sslmode="require") as store:
        await store.backend.info()
    assert (front.greeted >= 5, front.plain) == (True, 0)
    assert "speaks no TLS" in (await refusal(postgres_server.url, namespace, sslmode="require")).message
    async with opened(postgres_server.url, namespace, sslmode="disable") as store:
        await store.backend.info()


async def test_without_the_option_tls_is_used_where_it_is_offered(front: TlsFront, namespace: str) -> None:
    """As every client of PostgreSQL does, and unverified: `ssl=True` asks for more."""
    async with opened(front.url, namespace) as store:
        await store.backend.info()
    assert (front.greeted > 0, front.plain) == (True, 0)

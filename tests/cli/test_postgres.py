"""Addresses of PostgreSQL servers that do not fit."""

from __future__ import annotations

import asyncio
import re

import asyncpg
import pytest

SECRET = "s3cr3t"


# ── wrong addresses ───────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def guarded(own_servers):
    """host:port/database of a server that asks for passwords."""
    server = own_servers.postgres()

    async def guard() -> None:
        connection = await asyncpg.connect(server.url)
        await connection.execute(f"create role low login password '{SECRET}'")
        (server.folder / "data" / "pg_hba.conf").write_text("host all all all scram-sha-256\n")
        await connection.execute("select pg_reload_conf()")
        await connection.close()

    asyncio.run(guard())
    return re.sub(r".*@", "", server.url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://low:s3cr3t-wrong@{place}", "does not let this user in. Look at user= and password="),
        ("postgresql://nobody:s3cr3t@{place}", "does not let this user in. Look at user= and password="),
        ("postgresql://low:s3cr3t@{place}_none", "has no such database. Look at database="),
        ("postgresql://low:s3cr3t@{place}", "may not make or change the schema (permission"),
        ("postgresql://low:s3cr3t@localhost:1/postgres", "nobody listens there. Is the server running"),
        ("postgresql://low:s3cr3t@no.such.host.invalid", "the name of its host is not known"),
        ("postgresql://low:s3cr3t@{place}?schema=a-b", "option schema='a-b': is no name for a schema"),
        ("postgresql://low:s3cr3t@{place}?pasword=s3cr3t", "option pasword='***': is not an option"),
        (
            "postgresql://low:s3cr3t@{place}?statement_timeout=soon",
            "option statement_timeout='soon': is not a duration",
        ),
        ("postgres://low:#s3cr3t@{place}", "In a user name or password write it as %23"),
    ],
)
def test_an_address_that_does_not_fit_says_what_and_the_way_out(cli, guarded, url, says):
    answer = cli.call("enqueue", "note", "--backend", url.format(place=guarded), "--json", store=False)
    assert answer.code == 2, answer
    assert says in answer.err
    assert SECRET not in answer.out + answer.err
    assert answer.json["error"]["message"] in answer.err

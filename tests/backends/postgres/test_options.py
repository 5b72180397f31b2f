"""Options of the PostgreSQL store: what is refused, and that no secret is shown."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from psyqueue import errors
from psyqueue.backends import postgres
from psyqueue.backends._postgres import PostgresOptions
from psyqueue.kernel.stores import plugin_for

SECRET = "s3cret"


@pytest.mark.parametrize(
    "given",
    [
        {"schema": 'x"; drop'},
        {"schema": ""},
        {"schema": "pg_x"},
        {"schema": "x" * 51},
        {"schema_policy": "upgrade"},
        {"port": 0},
        {"port": "5432"},
        {"max_size": 0},
        {"max_size": True},
        {"host": ""},
        {"database": "a\0b"},
        {"user": 1},
        {"ssl": "yes"},
        {"ssl_ca": "ca.pem"},
        {"ssl_ca": "ca.pem", "sslmode": "require"},
        {"sslmode": "verify-ca"},
        {"sslmode": "require", "ssl": True},
        {"connection_string": "mysql://x"},
        {"connection_string": "postgresql://h:port/x"},
        {"connect_timeout": 0},
        {"statement_timeout": "1h"},
        {"prepared": 1},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidOption):
        PostgresOptions(**given)


def test_no_secret_is_shown() -> None:
    url = f"postgresql://me:{SECRET}@host:1234/db"
    for options in (PostgresOptions(connection_string=url), PostgresOptions(password=SECRET)):
        assert SECRET not in repr(options)
        assert SECRET not in options.place
    with pytest.raises(errors.InvalidOption) as caught:
        PostgresOptions(connection_string=f"mysql://me:{SECRET}@host")
    assert SECRET not in str(caught.value)


def test_a_connection_string_overrides_the_rest() -> None:
    url = "postgresql://me@far:1234/db"
    given = PostgresOptions(connection_string=url, host="near", port=1, user="you").arguments()
    assert given["dsn"] == url
    assert not {"host", "port", "user", "database"} & given.keys()
    assert PostgresOptions(connection_string=url).place == "PostgreSQL at far:1234, schema psyqueue"


def test_what_a_connection_string_leaves_out_is_taken_from_the_options() -> None:
    """A Unix socket, for example, whose folder has no place in front of the path."""
    options = plugin_for("postgresql:///shop?host=/run/postgresql&port=5433&user=me&password=x", {}).adapter.options  # type: ignore[attr-defined]
    given = options.arguments()
    assert (given["dsn"], given["host"], given["port"]) == ("postgresql:///shop", "/run/postgresql", 5433)
    assert (given["user"], given["password"]) == ("me", "x")
    assert "database" not in given
    assert options.place == "PostgreSQL at /run/postgresql:5433, schema psyqueue"
    plain = PostgresOptions(connection_string="postgresql://?host=there&dbname=shop", database="other").arguments()
    assert not {"host", "port", "database"} & plain.keys()  # the driver reads them there


def test_several_hosts_are_those_of_the_driver() -> None:
    url = "postgresql://me@one:1234,two/shop"
    options = PostgresOptions(connection_string=url, host="three")
    assert options.place == "PostgreSQL at one:1234,two:5432, schema psyqueue"
    assert not {"host", "port"} & options.arguments().keys()
    with pytest.raises(errors.InvalidOption, match="is no URL"):
        PostgresOptions(connection_string="postgresql://one:1234,two:port/shop")


def test_tls_verifies() -> None:
    assert "ssl" not in PostgresOptions().arguments()
    context = PostgresOptions(ssl=True).arguments()["ssl"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require"])
def test_the_address_that_a_provider_gives_says_how_tls_is_spoken(mode: str) -> None:
    options = plugin_for(f"postgresql://me:{SECRET}@h/d?sslmode={mode}&schema=s", {}).adapter.options  # type: ignore[attr-defined]
    assert options.arguments()["ssl"] == mode
    assert options.arguments()["dsn"] == f"postgresql://me:{SECRET}@h/d"


def test_the_mode_that_verifies_all_is_the_option_that_does() -> None:
    options = plugin_for("postgresql://h/d?sslmode=verify-full", {}).adapter.options  # type: ignore[attr-defined]
    context = options.arguments()["ssl"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert options.is_verified
    assert not PostgresOptions(sslmode="require").is_verified


def test_behind_a_pooler_nothing_is_prepared() -> None:
    assert PostgresOptions(prepared=False).arguments()["statement_cache_size"] == 0


def test_the_factory_takes_a_url() -> None:
    assert postgres(url="postgresql://h/d").name == "backend-postgres"
    with pytest.raises(errors.InvalidOption):
        postgres(url="postgresql://h/d", connection_string="postgresql://h/d")


def test_an_address_gives_options_by_their_type() -> None:
    url = "postgresql://h/d?ssl=true&prepared=false&max_size=3&test_clock=1&schema=s&ssl_ca=ca.pem"
    options = plugin_for(url, {}).adapter.options  # type: ignore[attr-defined]
    assert (options.ssl, options.prepared, options.max_size, options.test_clock) == (True, False, 3, True)
    assert (options.schema, options.ssl_ca) == ("s", "ca.pem")
    with pytest.raises(errors.InvalidOption):
        plugin_for("postgresql://h/d?ssl=maybe", {})

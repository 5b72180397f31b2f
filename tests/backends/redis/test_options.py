"""Options and addresses: what they mean, and that no secret is ever shown."""

from __future__ import annotations

import pytest
import redis
import redis.asyncio

from psyqueue import PsyQueue
from psyqueue.backends._redis.address import greeting, parse
from psyqueue.backends._redis.options import RedisOptions
from psyqueue.errors import ConfigError, InvalidOption

SECRET = "s3cr3t"


def test_defaults_are_a_local_server_without_tls():
    options = RedisOptions()
    address = options.address
    assert (address.host, address.port, address.db, address.tls, address.credentials) == (
        "localhost",
        6379,
        0,
        None,
        (),
    )
    assert (address.connect_timeout_ms, address.timeout_ms) == (5_000, 10_000)


@pytest.mark.parametrize(
    ("prefix", "base"),
    [
        ("psyqueue:", "psyqueue:{psyqueue}:"),
        ("app:prod:", "app:prod:{app:prod}:"),
        ("x", "x{x}:"),
        ("a*[b]?:", "a*[b]?:{a*[b]?}:"),
        ("größe:", "größe:{größe}:"),
    ],
)
def test_all_keys_of_a_prefix_share_one_hash_tag(prefix, base):
    assert RedisOptions(key_prefix=prefix).base == base


@pytest.mark.parametrize("prefix", ["", "x" * 101, "a b", "a\tb", "a\n", "{a}", "a}", "\x7f", "\ud800", ":", 7, None])
def test_a_prefix_that_would_break_keys_is_refused(prefix):
    with pytest.raises(InvalidOption, match="key_prefix"):
        RedisOptions(key_prefix=prefix)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("host", ""),
        ("host", "a b"),
        ("host", 7),
        ("port", 0),
        ("port", 65_536),
        ("port", True),
        ("port", "6379"),
        ("db", -1),
        ("db", "abc"),
        ("db", True),
        ("username", 7),
        ("password", b"x"),
        ("unix_socket", ""),
        ("tls_ca", "x\0"),
        ("tls", "yes"),
        ("allow_eviction", 1),
        ("test_clock", None),
        ("connect_timeout", 0),
        ("timeout", "11m"),
        ("timeout", True),
        ("tls_ca", "ca.pem"),
        ("tls_cert", "cert.pem"),
        ("tls_verify", False),
        ("url", 7),
        ("client", object()),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_its_name(option, value):
    with pytest.raises(InvalidOption) as refused:
        RedisOptions(**{option: value})
    assert refused.value.option == option


def test_a_key_without_its_certificate_is_refused():
    with pytest.raises(InvalidOption, match="tls_cert"):
        RedisOptions(tls=True, tls_key="key.pem")


def test_tls_over_a_unix_socket_is_refused():
    with pytest.raises(InvalidOption, match="Unix"):
        RedisOptions(tls=True, unix_socket="/run/redis.sock")


# ── URLs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("url", "host", "port", "credentials", "db", "is_tls"),
    [
        ("redis://h", "h", 6379, (), 0, False),
        ("redis://", "localhost", 6379, (), 0, False),
        ("valkey://h:7000/3", "h", 7000, (), 3, False),
        ("rediss://h/", "h", 6379, (), 0, True),
        ("valkeys://h?db=4", "h", 6379, (), 4, True),
        ("redis://:p@h", "h", 6379, ("p",), 0, False),
        ("redis://u@h", "h", 6379, ("u", ""), 0, False),
        ("redis://u%3A1:p%40%2F%23@h", "h", 6379, ("u:1", "p@/#"), 0, False),
        ("redis://u:p@[::1]:1/2", "::1", 1, ("u", "p"), 2, False),
    ],
)
def test_a_url_says_everything(url, host, port, credentials, db, is_tls):
    address = RedisOptions(url=url).address
    assert (address.host, address.port, address.credentials, address.db) == (host, port, credentials, db)
    assert (address.tls is not None) == is_tls
    assert address.tls is None or address.tls.is_verified


def test_a_url_names_a_unix_socket():
    address = RedisOptions(url="unix:///run/my%20redis.sock?db=2").address
    assert (address.unix_socket, address.db, address.place) == ("/run/my redis.sock", 2, "/run/my redis.sock")


def test_an_ipv6_address_is_shown_in_brackets():
    assert RedisOptions(url="redis://[::1]:7000").address.place == "[::1]:7000"


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "redis:h",
        "h:6379",
        "",
        "redis://h:0",
        "redis://h:65536",
        "redis://h:port",
        "redis://h/abc",
        "redis://h/-1",
        "redis://h/1.5",
        "redis://h/²",
        "redis://h/1?db=1",
        "redis://h?timeout=3",
        "redis://h?db=1&db=2",
        "redis://:pa#ss@h",
        "redis://[::1",
        "unix://host/x",
        "unix:///",
    ],
)
def test_a_url_that_cannot_be_meant_is_refused(url):
    with pytest.raises(InvalidOption, match="url"):
        parse(url)


@pytest.mark.parametrize(
    "url",
    ["redis://u:{}@h:99999", "redis://u:{}@h/abc", "redis://:{}#@h", "redis://u:{}/x@h", "x://u:{}@h", "redis::{}@h"],
)
def test_no_refusal_shows_a_password(url):
    with pytest.raises(ConfigError) as refused:
        RedisOptions(url=url.format(SECRET))
    assert SECRET not in str(refused.value)
    assert SECRET not in repr(refused.value.context)


def test_a_url_wins_over_host_and_port_and_leaves_the_password_to_its_option():
    address = RedisOptions(url="redis://h", host="other", port=1, username="u", password="p").address
    assert (address.host, address.port, address.credentials) == ("h", 6379, ("u", "p"))


def test_credentials_of_a_url_are_not_mixed_with_those_of_options():
    assert RedisOptions(url="redis://:new@h", username="u", password="p").address.credentials == ("new",)


def test_a_database_may_come_as_an_option_and_must_not_contradict():
    assert RedisOptions(url="unix:///x", db=3).address.db == 3
    assert RedisOptions(url="redis://h/3", db=3).address.db == 3
    with pytest.raises(InvalidOption, match="differ"):
        RedisOptions(url="redis://h/3", db=4)


def test_tls_asked_for_beside_a_plain_url_is_refused_not_forgotten():
    with pytest.raises(InvalidOption, match="rediss://"):
        RedisOptions(url="redis://h", tls=True)


# ── secrets ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "options",
    [
        RedisOptions(password=SECRET),
        RedisOptions(url=f"redis://:{SECRET}@h"),
        RedisOptions(client=redis.Redis(password=SECRET)),
    ],
)
def test_no_repr_shows_a_password(options):
    assert SECRET not in repr(options) + repr(options.address) + options.address.place
    assert options.address.credentials == (SECRET,)


# ── a client of the user's own ────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("kind", [redis.Redis, redis.asyncio.Redis])
def test_a_client_brings_its_settings(kind):
    client = kind(host="h", port=1, db=2, username="u", password="p", ssl=True, ssl_ca_certs="/ca.pem")
    address = RedisOptions(client=client).address
    assert (address.host, address.port, address.db, address.credentials) == ("h", 1, 2, ("u", "p"))
    assert address.tls is not None
    assert (address.tls.ca_file, address.tls.is_verified) == ("/ca.pem", True)


def test_a_client_may_use_a_unix_socket_or_leave_certificates_unverified():
    assert RedisOptions(client=redis.Redis(unix_socket_path="/x")).address.unix_socket == "/x"
    tls = RedisOptions(client=redis.Redis(ssl=True, ssl_cert_reqs="none")).address.tls
    assert tls is not None
    assert not tls.is_verified


def test_a_clients_source_of_credentials_is_taken_over():
    source = redis.UsernamePasswordCredentialProvider("u", SECRET)
    options = RedisOptions(client=redis.Redis(credential_provider=source))
    assert options.address.credential_source is source
    assert SECRET not in repr(options)


def test_a_client_that_finds_its_server_by_itself_is_refused():
    sentinel = redis.Sentinel([("h", 1)]).master_for("m")
    with pytest.raises(InvalidOption, match="Sentinel"):
        RedisOptions(client=sentinel)
    cluster = redis.RedisCluster.__new__(redis.RedisCluster)
    with pytest.raises(InvalidOption, match="cluster"):
        RedisOptions(client=cluster)


def test_a_client_cannot_be_given_in_an_address():
    with pytest.raises(InvalidOption, match="is no client of redis-py"):
        PsyQueue.from_url("redis://h?client=mine")


@pytest.mark.parametrize(
    "option", [{"url": f"redis://:{SECRET}@h"}, {"host": "h"}, {"password": SECRET}, {"tls": True}]
)
def test_an_address_beside_a_client_is_refused(option):
    with pytest.raises(InvalidOption, match="beside client") as refused:
        RedisOptions(client=redis.Redis(), **option)
    assert SECRET not in str(refused.value)


def test_what_of_a_client_cannot_be_kept_is_refused():
    with pytest.raises(InvalidOption, match="ssl_ciphers"):
        RedisOptions(client=redis.Redis(ssl=True, ssl_ciphers="HIGH"))


# ── greeting ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_connection_is_greeted_with_what_it_needs_and_no_more():
    plain, full = RedisOptions().address, RedisOptions(db=2, username="u", password="p").address
    assert greeting(plain, plain.credentials) == (("CLIENT", "SETNAME", "psyqueue"),)
    assert greeting(full, full.credentials)[:2] == (("AUTH", "u", "p"), ("SELECT", 2))


def test_tls_files_that_cannot_be_read_are_named():
    tls = RedisOptions(tls=True, tls_ca="/nowhere/ca.pem").address.tls
    assert tls is not None
    with pytest.raises(ConfigError, match="/nowhere/ca"):
        tls.context()

"""The connection settings of a client that the user made with redis-py; the client is neither used nor closed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psyqueue.backends._redis.address import PORT_DEFAULT, Address, Tls
from psyqueue.errors import InvalidOption

_WAY_OUT = "Give a redis.Redis or redis.asyncio.Redis, or url= or host="
_UNSUPPORTED = ("ssl_validate_ocsp", "ssl_validate_ocsp_stapled", "ssl_ciphers", "ssl_min_version")


def address_of(client: object, *, connect_timeout_ms: int, timeout_ms: int) -> Address:
    """Raises InvalidOption for a cluster's or a Sentinel's client, and for what is none."""
    settings, names = _settings_of(client)
    is_tls = any(name.startswith("SSL") for name in names)
    is_unix = any(name.startswith("UnixDomain") for name in names)
    for option in _UNSUPPORTED:
        if settings.get(option):
            raise InvalidOption("client", _kind(client), f"sets {option}, which psyqueue does not know", _WAY_OUT)
    return Address(
        host=settings.get("host") or "localhost",
        port=int(settings.get("port") or PORT_DEFAULT),
        unix_socket=str(settings["path"]) if is_unix else None,
        username=settings.get("username") or None,
        password=settings.get("password") or None,
        credential_source=settings.get("credential_provider"),
        db=int(settings.get("db") or 0),
        tls=_tls_of(settings) if is_tls else None,
        connect_timeout_ms=connect_timeout_ms,
        timeout_ms=timeout_ms,
    )


def _settings_of(client: object) -> tuple[Mapping[str, Any], list[str]]:
    """The settings, and the names of the classes that its connections are made of."""
    kinds = [kind.__name__ for kind in type(client).__mro__]
    pool = getattr(client, "connection_pool", None)
    if "RedisCluster" in kinds:
        raise InvalidOption("client", _kind(client), "is a cluster's client, which is not supported yet", _WAY_OUT)
    if any("Sentinel" in kind.__name__ for kind in type(pool).__mro__):
        raise InvalidOption("client", _kind(client), "finds its server by Sentinel: not supported yet", _WAY_OUT)
    settings = getattr(pool, "connection_kwargs", None)
    connection = getattr(pool, "connection_class", None)
    if "Redis" not in kinds or not isinstance(settings, Mapping) or not isinstance(connection, type):
        raise InvalidOption("client", _kind(client), "is no client of redis-py", _WAY_OUT)
    return settings, [kind.__name__ for kind in connection.__mro__]


def _tls_of(settings: Mapping[str, Any]) -> Tls:
    return Tls(
        ca_file=settings.get("ssl_ca_certs"),
        ca_folder=settings.get("ssl_ca_path"),
        ca_data=settings.get("ssl_ca_data"),
        cert_file=settings.get("ssl_certfile"),
        key_file=settings.get("ssl_keyfile"),
        key_password=settings.get("ssl_password"),
        # ssl.CERT_NONE is 0; unset, redis-py verifies.
        is_verified=settings.get("ssl_cert_reqs", "required") not in ("none", 0, None),
        is_host_checked=bool(settings.get("ssl_check_hostname", True)),
    )


def _kind(client: object) -> str:
    """Its type alone: a client's repr shows its password."""
    return f"{type(client).__module__}.{type(client).__qualname__}"

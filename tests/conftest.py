"""Fixtures that every test may ask for: real servers, and a name of its own inside them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from support import server_report
from support.postgres_server import start_postgres
from support.redis_server import start_redis
from support.servers import Server, Unavailable

_numbers = itertools.count(1)


def _start(config: pytest.Config, start: Callable[[], Server]) -> Server:
    """Where no server can start, CI fails and a laptop skips, saying why."""
    try:
        server = start()
    except Unavailable as exc:
        if server_report.are_servers_required():
            pytest.fail(str(exc), pytrace=False)
        pytest.skip(str(exc))
    server_report.note(config, server)
    return server


@pytest.fixture(scope="session")
def redis_server(pytestconfig: pytest.Config) -> Iterator[Server]:
    """A Redis (or Valkey) shared by the tests of this process; keep to keys below `namespace`."""
    server = _start(pytestconfig, start_redis)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> Iterator[Server]:
    """A PostgreSQL shared by the tests of this process; keep to a schema named `namespace`."""
    server = _start(pytestconfig, start_postgres)
    yield server
    server.stop()


class OwnServers:
    """Servers of one test's own, which it may kill and restart; those left running are stopped for it."""

    def __init__(self, config: pytest.Config, stack: ExitStack) -> None:
        self._config = config
        self._stack = stack

    def redis(self, *, durable: bool = False, flavour: str | None = None) -> Server:
        return self._own(partial(start_redis, own=True, durable=durable, flavour=flavour))

    def postgres(self, *, durable: bool = False) -> Server:
        return self._own(partial(start_postgres, own=True, durable=durable))

    def _own(self, start: Callable[[], Server]) -> Server:
        server = _start(self._config, start)
        self._stack.callback(server.stop)
        return server


@pytest.fixture
def own_servers(pytestconfig: pytest.Config) -> Iterator[OwnServers]:
    """For fault tests: `own_servers.redis(durable=True)` starts one for this test alone."""
    with ExitStack() as stack:
        yield OwnServers(pytestconfig, stack)


@pytest.fixture
def namespace() -> str:
    """Unique per run, test process and test, so that a server given by URL can be shared.

    Fits as a Redis key prefix and as a PostgreSQL schema name (far below 63 bytes).
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    return f"pqt_{os.getpid():x}_{worker}_{next(_numbers)}"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(server_report.ServerReport(config), "psyqueue-server-report")

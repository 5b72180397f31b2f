"""Fixtures that every test may ask for: real servers, and a name of its own inside them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from support import postgres_server as postgres_servers
from support import redis_server as redis_servers
from support import server_report
from support.names import new_name
from support.postgres_server import start_postgres
from support.redis_server import start_redis
from support.servers import Server, Unavailable
from support.shares import slow_first


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


def _start_kind(config: pytest.Config, start: Callable[..., Server], wheel: str, *, durable: bool = False) -> Server:
    """One of those in wheels. Where the wheel was never made for this Python, CI skips too."""
    if not server_report.is_wheel_made_for_us(wheel):
        pytest.skip(f"{wheel} has no wheel for this Python on this machine")
    return _start(config, partial(start, durable=durable, wheel=wheel))


@pytest.fixture(scope="session")
def redis_server(pytestconfig: pytest.Config) -> Iterator[Server]:
    """A Redis (or Valkey) shared by the tests of this process; keep to keys below `namespace`."""
    server = _start(pytestconfig, start_redis)
    yield server
    server.stop()


@pytest.fixture(scope="session", params=redis_servers.EACH)
def each_redis(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Iterator[Server]:
    """One after the other: Redis 8, Valkey 9 and Redis 6.2, each shared as `redis_server` is."""
    server = _start_kind(pytestconfig, start_redis, redis_servers.EACH[request.param])
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> Iterator[Server]:
    """A PostgreSQL shared by the tests of this process; keep to a schema named `namespace`."""
    server = _start(pytestconfig, start_postgres)
    yield server
    server.stop()


@pytest.fixture(scope="session", params=postgres_servers.EACH)
def each_postgres(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Iterator[Server]:
    """One after the other: two major versions, each shared as `postgres_server` is."""
    server = _start_kind(pytestconfig, start_postgres, postgres_servers.EACH[request.param])
    yield server
    server.stop()


class OwnServers:
    """Servers of one test's own, which it may kill and restart; those left running are stopped for it."""

    def __init__(self, config: pytest.Config, stack: ExitStack) -> None:
        self._config = config
        self._stack = stack

    def redis(self, *, durable: bool = False, flavour: str | None = None, kind: str | None = None) -> Server:
        """`kind`: one of support.redis_server.EACH."""
        if kind is not None:
            wheel = redis_servers.EACH[kind]
            return self._kept(_start_kind(self._config, start_redis, wheel, durable=durable))
        return self._own(partial(start_redis, own=True, durable=durable, flavour=flavour))

    def postgres(self, *, durable: bool = False, kind: str | None = None, settings: tuple[str, ...] = ()) -> Server:
        """`kind`: one of support.postgres_server.EACH; `settings`: "name=value" each."""
        if kind is not None:
            start = partial(start_postgres, settings=settings)
            return self._kept(_start_kind(self._config, start, postgres_servers.EACH[kind], durable=durable))
        return self._own(partial(start_postgres, own=True, durable=durable, settings=settings))

    def _own(self, start: Callable[[], Server]) -> Server:
        return self._kept(_start(self._config, start))

    def _kept(self, server: Server) -> Server:
        self._stack.callback(server.stop)
        return server


@pytest.fixture
def own_servers(pytestconfig: pytest.Config) -> Iterator[OwnServers]:
    """For fault tests: `own_servers.redis(durable=True)` starts one for this test alone."""
    with ExitStack() as stack:
        yield OwnServers(pytestconfig, stack)


@pytest.fixture
def namespace() -> str:
    """This test's own name on servers, which it may share."""
    return new_name()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Those that take long come first, so that the processes of a parallel run end together."""
    processes = getattr(config, "workerinput", {}).get("workercount", 1)  # only an xdist worker has it
    items[:] = slow_first(items, lambda item: item.get_closest_marker("slow") is not None, processes)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """What `-n auto` means: two more than cores, since many tests wait: for processes, servers, the end of a lease."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist reads it
    return (os.cpu_count() or 1) + 2


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As a shell starts what runs in the background: programs of tests would not hear it either.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(server_report.ServerReport(config), "psyqueue-server-report")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Awkward text is logged with its errors, and xdist cannot send lone surrogates from process to process."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report

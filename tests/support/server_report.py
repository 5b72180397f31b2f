"""Says at the end of a test run which servers it ran on; under xdist each worker tells the controller."""

from __future__ import annotations

import os
from importlib.metadata import requires
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.servers import Server

_LINES = pytest.StashKey[list[str]]()
_OUTPUT_KEY = "psyqueue_servers"


def are_servers_required() -> bool:
    """In CI a missing server is a failure, never a silent skip."""
    return any(
        os.environ.get(name, "").lower() not in ("", "0", "false") for name in ("CI", "PSYQUEUE_TEST_REQUIRE_SERVERS")
    )


def is_wheel_made_for_us(package: str) -> bool:
    """Whether the extra `servers` asks for that package here; some make no wheels for each Python and machine."""
    wanted = map(Requirement, requires("psyqueue") or ())
    return any(
        canonicalize_name(each.name) == canonicalize_name(package)
        and (each.marker is None or each.marker.evaluate({"extra": "servers"}))
        for each in wanted
    )


def note(config: pytest.Config, server: Server) -> None:
    """Record where a server came from; the same one is told once."""
    line = f"{server.kind} {server.version} from {server.origin}"
    lines = config.stash.setdefault(_LINES, [])
    if not any(known.startswith(line) for known in lines):
        lines.append(f"{line}, up in {server.startup_ms} ms")


class ServerReport:
    """Registered by conftest.py in every process of the run."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._of_workers: list[str] = []

    def pytest_sessionfinish(self) -> None:
        output = getattr(self._config, "workeroutput", None)  # only an xdist worker has it
        if output is not None:
            output[_OUTPUT_KEY] = self._config.stash.get(_LINES, [])

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        lines = getattr(node, "workeroutput", {}).get(_OUTPUT_KEY, [])
        self._of_workers += [f"{node.gateway.id}: {line}" for line in lines]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in sorted(self._config.stash.get(_LINES, []) + self._of_workers):
            terminalreporter.write_line(f"server: {line}")

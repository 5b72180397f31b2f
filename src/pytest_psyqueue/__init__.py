"""The pytest plugin: fixtures that make test kits, and what their jobs did in the report of a test that failed.

It stands beside the package, not inside: pytest imports every plugin that is installed, and whoever tests something
else must not pay for psyqueue, nor find it imported before the coverage of their code is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from psyqueue import PsyQueue
    from psyqueue.testing import Kit, SyncKit

__all__ = ["KitFactory", "SyncKitFactory"]

K = TypeVar("K", "Kit", "SyncKit")


class _Factory:
    """`kits` are shown if the test fails; `marked` are the options of its marks."""

    def __init__(self, marked: Mapping[str, Any], kits: list[Kit | SyncKit]) -> None:
        self._marked = marked
        self._kits = kits

    def _made(self, make: Callable[..., K], options: Mapping[str, Any]) -> K:
        kit = make(**{**self._marked, **options})
        self._kits.append(kit)
        return kit


class KitFactory(_Factory):
    """What `psyqueue_testing` is: `async with psyqueue_testing(q) as t:`."""

    def __call__(self, q: PsyQueue, **options: Any) -> Kit:
        """`q.testing(**options)`, with the options of the test's marks where none are given here."""
        return self._made(q.testing, options)


class SyncKitFactory(_Factory):
    """What `psyqueue_sync_testing` is: `with psyqueue_sync_testing(q) as t:`."""

    def __call__(self, q: PsyQueue, **options: Any) -> SyncKit:
        """`q.sync.testing(**options)`, with the options of the test's marks where none are given here."""
        return self._made(q.sync.testing, options)


@pytest.fixture
def psyqueue_testing(request: pytest.FixtureRequest) -> KitFactory:
    """Makes kits as `q.testing(...)` does, with the options of `@pytest.mark.psyqueue(...)`.

    The report of a failure tells what their jobs did. A plain fixture: it works the same under pytest-asyncio and
    anyio, whatever runs the test.
    """
    return KitFactory(_marked(request.node), _kits(request.node))


@pytest.fixture
def psyqueue_sync_testing(request: pytest.FixtureRequest) -> SyncKitFactory:
    """Makes kits as `q.sync.testing(...)` does, for plain tests; else as `psyqueue_testing`."""
    return SyncKitFactory(_marked(request.node), _kits(request.node))


def _marked(node: Any) -> dict[str, Any]:
    marked: dict[str, Any] = {}
    for mark in reversed(list(node.iter_markers("psyqueue"))):  # the closest one wins
        marked.update(mark.kwargs)
    return marked


def _kits(node: Any) -> list[Kit | SyncKit]:
    """Of this test, of both kinds."""
    kits: list[Kit | SyncKit] = node.stash.setdefault(_KITS, [])
    return kits


def pytest_configure(config: pytest.Config) -> None:
    """Announce the mark."""
    config.addinivalue_line("markers", "psyqueue(**options): options of q.testing() for the fixtures of psyqueue")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Add the history of each kit to a failure."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        report.sections += [("psyqueue history", str(kit.history)) for kit in item.stash.get(_KITS, ())]


_KITS: pytest.StashKey[list[Kit | SyncKit]] = pytest.StashKey()

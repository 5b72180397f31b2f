"""The server of a store, if it has one: how a measurement starts it, and what it counts."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from benchmarks.spec import Facts, Spec

from benchmarks import postgres_server, redis_server


class Server(Protocol):
    pid: int

    @property
    def url(self) -> str: ...
    def save(self) -> None: ...
    def stop(self) -> None: ...


class Counters(Protocol):
    def per_job(self, n: int) -> Facts: ...


_MODULES = {"redis": redis_server, "postgres": postgres_server}


def start(spec: Spec) -> Server:
    """The one of `spec.server`, with its files in `spec.folder`. Raises RuntimeError."""
    return _MODULES[spec.store].Server(spec)


def counters(spec: Spec) -> Counters:
    """What the server counts from now on."""
    return _MODULES[spec.store].Counters(spec)


def old_snapshot(spec: Spec) -> AbstractContextManager[None]:
    """For PostgreSQL: another session's transaction stays open meanwhile, if the line asks for it."""
    return postgres_server.OldSnapshot(spec) if spec.old else nullcontext()

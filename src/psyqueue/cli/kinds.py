"""Which kind of store a backend is. Drivers of other stores than its own are not imported for that."""

from __future__ import annotations

from psyqueue.backend import BackendAdapter

_OURS = "psyqueue.backends._"


def kind_of(backend: BackendAdapter) -> str:
    """`sqlite`, `redis`, `postgres`, `memory`, also of a class that is made of theirs; else the package it is from."""
    modules = [base.__module__ for base in type(backend).__mro__]
    ours = next((name.removeprefix(_OURS) for name in modules if name.startswith(_OURS)), None)
    return (modules[0] if ours is None else ours).partition(".")[0]

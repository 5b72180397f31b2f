"""The fence of the namespace: what its mode allows."""

from __future__ import annotations

from collections.abc import Sequence

from psyqueue.backend import NewJob
from psyqueue.backends._memory.state import Store
from psyqueue.errors import NamespaceFrozen, NamespaceMoved


def starts_nothing(store: Store) -> bool:
    """Nothing becomes due, expires or is pruned either: jobs may be on their way into it."""
    return store.mode in ("filling", "frozen", "moved")


def require_enqueue(store: Store, jobs: Sequence[NewJob] = ()) -> None:
    """Raises NamespaceFrozen or NamespaceMoved. While draining only what belongs to jobs there is taken."""
    is_bound = store.mode == "draining" and any(_belongs_here(store, job) for job in jobs)
    if not (store.mode in ("open", "filling") or is_bound):
        _refuse(store)


def _belongs_here(store: Store, job: NewJob) -> bool:
    """It needs another job, or stands at a gate that is in use."""
    gate = job.gate
    return bool(job.needs) or (gate is not None and bool(store.places.get(gate.key) or store.lines.get(gate.key)))


def require_dequeue(store: Store) -> None:
    """Raises NamespaceFrozen or NamespaceMoved."""
    if starts_nothing(store):
        _refuse(store)


def require_change(store: Store) -> None:
    """Raises NamespaceFrozen or NamespaceMoved."""
    if store.mode in ("frozen", "moved"):
        _refuse(store)


def _refuse(store: Store) -> None:
    if store.mode == "moved" or store.moved_to:
        raise NamespaceMoved(store.moved_to)
    raise NamespaceFrozen(f"the namespace is {store.mode}: jobs are being moved. Try again later")

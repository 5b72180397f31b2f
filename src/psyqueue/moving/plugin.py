"""`q.use(moving(sqlite("./jobs.db"), redis(url="redis://cache:6379")))`: the application while its jobs move."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psyqueue.errors import InvalidOption
from psyqueue.kernel.stores import plugin_for
from psyqueue.moving.backend import MovingBackend

if TYPE_CHECKING:
    from psyqueue.backend import BackendAdapter
    from psyqueue.kernel.extension import Kernel, Plugin


class Moving:
    """Brings two stores to a queue as one."""

    name = "moving"
    provides = "backend"

    def __init__(self, adapter: MovingBackend) -> None:
        self.adapter: MovingBackend = adapter

    def init(self, kernel: Kernel) -> None:
        """Install the adapter."""
        kernel.backend(self.adapter)


def moving(old: Plugin | str, new: Plugin | str) -> Moving:
    """Both stores of a move without a pause, as backend plugins or addresses such as "sqlite:./jobs.db".

    Before `psyqueue migrate run` everything happens in `old`, after `finish` in `new`. Raises InvalidOption.
    """
    first, second = _backend_of("old", old), _backend_of("new", new)
    if first is second:
        raise InvalidOption("new", new, "is the old store")
    return Moving(MovingBackend(first, second))


def _backend_of(option: str, store: Any) -> BackendAdapter:
    adapter = getattr(plugin_for(store, {}) if isinstance(store, str) else store, "adapter", None)
    if adapter is None or not hasattr(adapter, "export_part"):
        raise InvalidOption(
            option, store, "is no store", 'Give sqlite("./jobs.db"), redis(...), postgres(...), or an address'
        )
    found: BackendAdapter = adapter
    return found

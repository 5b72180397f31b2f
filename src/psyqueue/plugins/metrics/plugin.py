"""`q.use(Metrics())`: figures for Prometheus, on the health port of a worker and in any registry."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Final

from psyqueue.errors import ConfigError, InvalidOption, MissingExtra
from psyqueue.kernel.extension import Facade, Kernel, blocking

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.registry import Collector

BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_PREFIX = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class Metrics:
    """Figures of this process and of the store, for Prometheus; needs the extra `metrics`.

    `registry`: where they are from the start of the queue to its stop; the one of prometheus_client by default, so that
    a page that an application has already shows them, too. `prefix`: how all names begin. `buckets`: upper bounds of
    the two histograms, in seconds. `shows_store`: whether /metrics of a worker reads what is in the store, too.

    Raises MissingExtra, InvalidOption.
    """

    name = "metrics"

    def __init__(
        self,
        *,
        registry: CollectorRegistry | None = None,
        prefix: str = "psyqueue",
        buckets: Sequence[float] = BUCKETS_S,
        shows_store: bool = True,
    ) -> None:
        try:
            import prometheus_client  # noqa: PLC0415 - only what is used is loaded
        except ModuleNotFoundError as exc:
            raise MissingExtra("the plugin Metrics", "metrics") from exc
        from psyqueue.plugins.metrics.counting import Counting  # noqa: PLC0415 - as above
        from psyqueue.plugins.metrics.looking import StoreView  # noqa: PLC0415 - as above

        if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
            raise InvalidOption("prefix", prefix, "is no name for metrics: letters, digits and _, no digit first")
        self._prefix = prefix
        self._registry = prometheus_client.REGISTRY if registry is None else registry
        if not hasattr(self._registry, "register"):
            raise InvalidOption("registry", registry, "is no registry of prometheus_client")
        if type(shows_store) is not bool:
            raise InvalidOption("shows_store", shows_store, "is neither True nor False")
        self._shows_store = shows_store
        self._counting = Counting(prefix, _checked(buckets))
        self._view = StoreView(prefix)
        self._registered = ExitStack()
        self._kernel: Kernel | None = None

    # ── the plugin ────────────────────────────────────────────────────────────────────────────────────────────────────
    def init(self, kernel: Kernel) -> None:
        """Called by `use`. Raises ConfigError for a second queue."""
        if self._kernel is not None:
            raise ConfigError("these Metrics belong to another queue: make new ones for this")
        self._kernel = kernel
        self._counting.listen(kernel)
        kernel.page("/metrics", self._page)
        kernel.expose("metrics", self)

    def start(self) -> None:
        """Called when the queue starts. Raises ConfigError where another queue's metrics are in the registry."""
        with ExitStack() as registered:
            for collector in self._collectors():
                self._register(collector)
                registered.callback(self._registry.unregister, collector)
            self._registered = registered.pop_all()

    def stop(self) -> None:
        """Called when it stops: the registry is free for the next queue of this process."""
        self._registered.close()
        self._view.forget()

    def _collectors(self) -> Iterator[Collector]:
        yield from self._counting.collectors
        yield self._view

    def _register(self, collector: Collector) -> None:
        try:
            self._registry.register(collector)
        except ValueError as exc:
            text = f"another queue of this process has its metrics in this registry ({exc}). "
            text += "Give Metrics(prefix=...) or Metrics(registry=...)"
            raise ConfigError(text, prefix=self._prefix) from exc

    # ── look ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    async def look(self) -> None:
        """Read what is in the store, for the registry; that it does not answer is a figure, too.

        Raises NotStarted, and ConfigError before `use`.
        """
        await self._view.look(self._door().store)

    @property
    def sync(self) -> SyncMetrics:
        """For programs without asyncio: `metrics.sync.look()` blocks. Raises ConfigError before `use`."""
        return SyncMetrics(self._door().portal, self)

    def exposition(self) -> bytes:
        """All that is in the registry, as Prometheus reads it. Raises what a collector of somebody else raises."""
        from prometheus_client import generate_latest  # noqa: PLC0415 - as above

        return generate_latest(self._registry)

    def _door(self) -> Kernel:
        if self._kernel is None:
            raise ConfigError("these Metrics belong to no queue yet: q.use(metrics) first")
        return self._kernel

    async def _page(self) -> tuple[str, bytes]:
        from prometheus_client import CONTENT_TYPE_LATEST  # noqa: PLC0415 - as above

        if self._shows_store:
            await self.look()
        return CONTENT_TYPE_LATEST, self.exposition()


class SyncMetrics(Facade[Metrics]):
    """As Metrics, with a `look` that blocks."""

    __slots__ = ()

    look: Final = blocking(Metrics.look)


def _checked(buckets: Sequence[float]) -> Sequence[float]:
    is_several = isinstance(buckets, Sequence) and bool(buckets)
    if not is_several or not all(type(each) in (int, float) and 0 < each < inf for each in buckets):
        raise InvalidOption("buckets", buckets, "are no upper bounds in seconds, e.g. (0.1, 1, 10)")
    if any(high <= low for low, high in pairwise(buckets)):
        raise InvalidOption("buckets", buckets, "do not grow")
    return buckets

"""`psyqueue metrics`: what is in the store, for Prometheus; once, or over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from http import HTTPStatus
from typing import Any

import click

from psyqueue import PsyQueue
from psyqueue.backend import BackendAdapter
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.backend.compose import all_queues
from psyqueue.cli import output
from psyqueue.cli.existing import require_store
from psyqueue.cli.pages import Answer, PageServer
from psyqueue.cli.surface import DONE, Surface, on_store, with_queue
from psyqueue.cli.waits import is_set_within, on_signal
from psyqueue.errors import MissingExtra, NamespaceFrozen, StoreError, StoreUnavailable

log: logging.Logger = logging.getLogger(__name__)

TRY_AGAIN_MS = 2_000
UPKEEP_MS = 5_000


@click.command()
@click.option("--port", type=click.IntRange(0, 65_535), help="Serve /metrics there until stopped; 0: any free port.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the port.")
@on_store
def metrics(surface: Surface, port: int | None, host: str) -> int:
    """What is in the store as Prometheus reads it: jobs, the oldest, pauses, workers."""

    async def work(queue: PsyQueue) -> int:
        source = _Source(queue.get_exposed("backend"))
        if surface.is_json:
            output.print_json({"items": await source.samples()})
        else:
            click.echo((await source.exposition()).decode(), nl=False)
        return DONE

    if port is None:
        return with_queue(surface, work)
    queue = surface.queue()
    with contextlib.suppress(StoreUnavailable):
        require_store(queue.get_exposed("backend"))
    return asyncio.run(_serve(surface, queue, host, port))


class _Source:
    """A registry with nothing but the store in it."""

    def __init__(self, backend: BackendAdapter) -> None:
        try:
            from prometheus_client import CollectorRegistry  # noqa: PLC0415 - only what is used is loaded
        except ModuleNotFoundError as exc:
            raise MissingExtra("psyqueue metrics", "metrics") from exc
        from psyqueue.plugins.metrics.looking import StoreView  # noqa: PLC0415 - as above

        self._backend = backend
        self._view = StoreView("psyqueue")
        self._registry = CollectorRegistry()
        self._registry.register(self._view)

    async def samples(self) -> list[dict[str, Any]]:
        await self._view.look(self._backend)
        return [
            {"name": sample.name, "labels": sample.labels, "value": sample.value}
            for family in self._view.collect()
            for sample in family.samples
        ]

    async def exposition(self) -> bytes:
        from prometheus_client import generate_latest  # noqa: PLC0415 - as above

        await self._view.look(self._backend)
        return generate_latest(self._registry)

    async def page(self) -> Answer:
        from prometheus_client import CONTENT_TYPE_LATEST  # noqa: PLC0415 - as above

        return Answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, await self.exposition())


async def _serve(surface: Surface, queue: PsyQueue, host: str, port: int) -> int:
    """Until a signal. A store that is away at the start is waited for, and shown as such."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        on_signal(number, lambda _: stop.set())
    backend: BackendAdapter = queue.get_exposed("backend")
    server = PageServer({"/metrics": _Source(backend).page}, option="--port")
    url = f"{await server.start(host, port)}/metrics"
    is_announced = False

    def announce() -> None:
        """When the first try to reach the store is over: nobody is to see one as away that is only asked."""
        nonlocal is_announced
        if not is_announced:
            is_announced = True
            _announce(surface, url)

    try:
        while not stop.is_set():
            try:
                await asyncio.to_thread(require_store, backend)
                async with queue:
                    announce()
                    await _keep_up(backend, stop)
            except StoreError as exc:
                log.warning("no store to look at", extra={"error": str(exc)})
                announce()
                await is_set_within(stop, TRY_AGAIN_MS)
    finally:
        await server.stop()
    return DONE


def _announce(surface: Surface, url: str) -> None:
    if surface.is_json:
        output.print_json({"ready": True, "url": url})
    else:
        click.echo(f"psyqueue metrics ready: {url}")


async def _keep_up(backend: BackendAdapter, stop: asyncio.Event) -> None:
    """What workers do beside their jobs, since there may be none: then nothing would become pending."""
    while not await is_set_within(stop, UPKEEP_MS):
        try:
            while (await backend.reap(ITEMS_MAX)).more:
                pass
            names = [info.queue for info in await all_queues(backend)]
            while names and (await backend.promote(names, ITEMS_MAX)).more:
                pass
        except (StoreError, NamespaceFrozen) as exc:
            log.debug("upkeep postponed", extra={"error": str(exc)})

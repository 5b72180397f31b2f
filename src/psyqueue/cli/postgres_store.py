"""PostgreSQL stores as schemas: what can be known of one before anything opens it for writing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psyqueue.config import parse_url
from psyqueue.kernel.stores import plugin_for

if TYPE_CHECKING:
    from psyqueue.backends._postgres import PostgresOptions

SCHEMES = ("postgresql", "postgres")


def postgres_options(url: str) -> PostgresOptions | None:
    """How the store of a PostgreSQL URL is reached; None for other stores. Raises ConfigError."""
    if parse_url(url).scheme not in SCHEMES:
        return None
    from psyqueue.backends._postgres import PostgresBackend  # noqa: PLC0415 - only for PostgreSQL stores

    adapter = getattr(plugin_for(url, {}), "adapter", None)
    return adapter.options if isinstance(adapter, PostgresBackend) else None

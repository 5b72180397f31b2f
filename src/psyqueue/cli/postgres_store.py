"""PostgreSQL stores as schemas: what can be known of one before anything opens it for writing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psyqueue.cli.kinds import kind_of

if TYPE_CHECKING:
    from psyqueue.backend import BackendAdapter
    from psyqueue.backends._postgres import PostgresOptions


def postgres_options(backend: BackendAdapter) -> PostgresOptions | None:
    """How a PostgreSQL store is reached; None for other stores."""
    if kind_of(backend) != "postgres":
        return None
    options: PostgresOptions = backend.options  # type: ignore[attr-defined]
    return options

"""The PostgreSQL store: plpgsql functions over asyncpg."""

from psyqueue.backends._postgres.backend import PostgresBackend
from psyqueue.backends._postgres.options import PostgresOptions

__all__ = ["PostgresBackend", "PostgresOptions"]

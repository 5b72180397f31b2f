"""A whole store is taken away. No verb: who can enqueue is not meant to be able to."""

from __future__ import annotations

from psyqueue.backends._postgres import schema
from psyqueue.backends._postgres.connecting import connect
from psyqueue.backends._postgres.faults import CALL_ERRORS, translate
from psyqueue.backends._postgres.options import PostgresOptions


async def remove(options: PostgresOptions) -> None:
    """The schema, with all that lies in it. Raises StoreError."""
    connection = await connect(options)
    try:
        await connection.execute(schema.removal(options.schema))
    except CALL_ERRORS as exc:
        raise translate(exc, options.place) from exc
    finally:
        connection.terminate()

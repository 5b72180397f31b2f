"""Redis and Valkey stores as namespaces: what can be known of one before anything opens it for writing."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from psyqueue.cli.kinds import kind_of
from psyqueue.errors import StoreUnusable

if TYPE_CHECKING:
    from psyqueue.backend import BackendAdapter
    from psyqueue.backends._redis import RedisOptions


def redis_options(backend: BackendAdapter) -> RedisOptions | None:
    """How a Redis or Valkey store is reached; None for other stores."""
    if kind_of(backend) != "redis":
        return None
    options: RedisOptions = backend.options  # type: ignore[attr-defined]
    return options


def require_namespace(options: RedisOptions) -> None:
    """Raises StoreUnusable where no psyqueue store lies below the prefix, StoreError where that cannot be known.

    Commands that look or change never make one: a typing error must not leave keys behind.
    """
    from psyqueue.backends._redis.blocking import BlockingLink  # noqa: PLC0415 - only for Redis stores
    from psyqueue.backends._redis.faults import ReplyError, translate  # noqa: PLC0415 - as above

    place = options.address.place
    with contextlib.closing(BlockingLink(options.address)) as link:
        try:
            schema = link.call("HGET", f"{options.base}meta", "schema")
        except ReplyError as exc:
            raise translate(exc, place) from exc
    if schema is None:
        text = (
            f"{place} holds no psyqueue store with key_prefix {options.key_prefix!r} in database {options.address.db}"
        )
        way_out = "Look at these three; `psyqueue enqueue` and a worker create a store"
        raise StoreUnusable(f"{text}. {way_out}", server=place)

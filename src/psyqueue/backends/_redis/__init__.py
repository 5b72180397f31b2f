"""Redis and Valkey as a store: Lua scripts, one atomic step each."""

from psyqueue.backends._redis.backend import RedisBackend
from psyqueue.backends._redis.options import RedisOptions

__all__ = ["RedisBackend", "RedisOptions"]

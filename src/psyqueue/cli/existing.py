"""Whether the store that a command was given is there."""

from __future__ import annotations

from psyqueue.cli.redis_store import redis_options, require_namespace
from psyqueue.cli.sqlite_store import require_file, sqlite_file


def require_store(url: str) -> None:
    """Raises StoreUnusable where a URL leads to no psyqueue store: commands that look or change never make one."""
    file = sqlite_file(url)
    if file is not None:
        require_file(file)
    options = redis_options(url)
    if options is not None:
        require_namespace(options)

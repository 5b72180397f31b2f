"""Whether the store that a command was given is there."""

from __future__ import annotations

from urllib.parse import urlencode

from psyqueue.cli.postgres_store import SCHEMES
from psyqueue.cli.redis_store import redis_options, require_namespace
from psyqueue.cli.sqlite_store import require_file, sqlite_file
from psyqueue.config import parse_url


def require_store(url: str) -> None:
    """Raises StoreUnusable where a URL leads to no psyqueue store: commands that look or change never make one."""
    file = sqlite_file(url)
    if file is not None:
        require_file(file)
    options = redis_options(url)
    if options is not None:
        require_namespace(options)


def as_it_is(url: str) -> str:
    """The address under which a store is used as it is: a PostgreSQL store makes or upgrades no schema then."""
    parsed = parse_url(url)
    if parsed.scheme not in SCHEMES:
        return url
    return f"{parsed.address}?{urlencode({**parsed.options, 'schema_policy': 'require'})}"

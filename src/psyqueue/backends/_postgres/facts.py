"""What the server says of itself, and what follows from it for jobs that were accepted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from psyqueue.backend import Survives
from psyqueue.backends._postgres.faults import isolated
from psyqueue.backends._postgres.options import PostgresOptions
from psyqueue.errors import StoreUnavailable, StoreUnusable

VERSION_MIN: Final = 130_000
_SOURCES: Final = {
    "user": " for this role (ALTER ROLE)",
    "database": " for this database (ALTER DATABASE)",
    "database user": " for this role in this database (ALTER ROLE … IN DATABASE)",
    "client": " by this connection's own options",
    "environment variable": " by this connection's own options",
    "session": " by this connection's pool",
}
"""Where a setting comes from if not from the server's files, in words."""
_WAITING: Final = ("on", "remote_apply", "remote_write")
"""Values of synchronous_commit that wait for standbys, if any are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """As they hold for the connection that asked.

    `commit_source`: who set synchronous_commit. `standby_names`: whom commits wait for, empty: nobody. `standbys`: how
    many are connected; `waited_for`: how many of them are synchronous, None where this role is not shown that.
    """

    number: int
    version: str
    encoding: str
    isolation: str
    is_replica: bool
    fsync: bool
    synchronous_commit: str
    full_page_writes: bool
    standby_names: str
    database: str
    commit_source: str
    standbys: int
    waited_for: int | None

    @property
    def commit_words(self) -> str:
        """The setting and, if somebody set it for us alone, who."""
        return f"synchronous_commit is {self.synchronous_commit}{_SOURCES.get(self.commit_source, '')}"


def facts_of(row: Any) -> Facts:
    """From the one row of facts.sql."""
    is_shown = row[13] is not False
    return Facts(
        number=row[0],
        version=row[1],
        encoding=row[2],
        isolation=row[3],
        is_replica=row[4],
        fsync=row[5] == "on",
        synchronous_commit=row[6],
        full_page_writes=row[7] == "on",
        standby_names=row[8],
        database=row[9],
        commit_source=row[10],
        standbys=row[11],
        waited_for=row[12] if is_shown else None,
    )


def require_usable(found: Facts, options: PostgresOptions) -> None:
    """Raises StoreUnusable where no store can be; for a replica StoreUnavailable: it may be promoted."""
    place = options.place
    if found.number < VERSION_MIN:
        raise StoreUnusable(f"{place} is PostgreSQL {found.version}; psyqueue needs 13 or newer. Upgrade the server")
    if found.encoding != "UTF8":
        text = f"{place}: the database has encoding {found.encoding}, which cannot hold all names. Use UTF8"
        raise StoreUnusable(text)
    if found.is_replica:
        raise StoreUnavailable(f"{place} is a replica and takes no writes. Point psyqueue to the primary", "refused")
    if found.isolation != "read committed":
        raise isolated(place, found.isolation)


def survives(found: Facts) -> dict[Literal["server_crash", "power_loss", "failover"], Survives]:
    """What becomes of acknowledged jobs. Without synchronous_commit a crash loses those of the last second or so."""
    is_synchronous = found.synchronous_commit != "off"
    return {
        "server_crash": "safe" if is_synchronous else "bounded_loss",
        "power_loss": _power_loss(found, is_synchronous=is_synchronous),
        "failover": _failover(found),
    }


def _power_loss(found: Facts, *, is_synchronous: bool) -> Survives:
    """Torn pages are no matter on a file system that never tears them, which is not known here."""
    if not found.fsync:
        return "lost"
    if not found.full_page_writes:
        return "unknown"
    return "safe" if is_synchronous else "bounded_loss"


def _failover(found: Facts) -> Survives:
    """Who of the standbys takes over is the operator's choice: one that was waited for has all.

    Without any, what the machine's operator copies below the server is not known here.
    """
    if found.standby_names and found.synchronous_commit in _WAITING:
        return "safe"
    return "bounded_loss" if found.standbys else "unknown"


def warnings(found: Facts, options: PostgresOptions) -> tuple[str, ...]:
    """What an operator should know, in words."""
    clock = ("the store's clock stands still: for tests only",) if options.test_clock else ()
    return (*about_disk(found), *about_commits(found), *about_standbys(found), *clock)


def about_disk(found: Facts) -> Iterator[str]:
    if not found.fsync:
        yield "fsync is off: a power loss may destroy the whole database"
    if not found.full_page_writes:
        yield "full_page_writes is off: a power loss may destroy pages, unless the file system never tears them"


def about_commits(found: Facts) -> Iterator[str]:
    if found.synchronous_commit == "off":
        yield f"{found.commit_words}: a crash may lose jobs of the last second or so"
    elif found.standby_names and found.synchronous_commit == "local":
        yield f"{found.commit_words}: the standbys of synchronous_standby_names are not waited for"


def about_standbys(found: Facts) -> Iterator[str]:
    if not found.standby_names or found.synchronous_commit not in _WAITING:
        return
    if not found.standbys or found.waited_for == 0:
        yield f"synchronous_standby_names is {found.standby_names!r}, and none of them is connected: every commit waits"

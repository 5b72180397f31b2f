"""How the schema is made, brought up to date, and looked at.

An upgrade goes on while clients of older releases work: changes of phase "pre" and the functions come first; functions
of releases that nobody has used for a while go; changes of phase "post" come when the last release that does not know
them is gone. All of it is one transaction under a lock, and each part may be run again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from psyqueue.backend.failpoints import failpoint
from psyqueue.backends._postgres.options import PostgresOptions
from psyqueue.backends._postgres.presence import PRESENT_MS
from psyqueue.backends._postgres.schema import Release, filled, frame
from psyqueue.backends.migrations import Applied, Migration, plan
from psyqueue.errors import InvalidOption, StoreUnusable

UNUSED_MS: Final = 7 * 24 * 3_600_000
"""Functions of a release of which no client was seen for so long are dropped."""
UNUSED_MS_MIN: Final = 6 * PRESENT_MS
"""A client that is alive says so more often."""

WAY_OUT: Final = "`psyqueue schema up` makes it, and so does a client with schema_policy='create', such as a worker"

_RIGHTS: Final = "the rights of the role"


@dataclass(frozen=True, slots=True)
class Found:
    """What the database holds. No line in the ledger: there is no schema."""

    ledger: Sequence[Applied]
    missing: tuple[Migration, ...]
    has_functions: bool

    @property
    def gaps(self) -> list[str]:
        """What this release cannot work without, in words."""
        if not self.ledger:
            return ["the schema is not there"]
        lacking = [f"change {each.number} ({each.name}) is missing" for each in self.missing if each.phase == "pre"]
        return lacking if self.has_functions else [*lacking, "the functions of this release are missing"]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the script, and what it is, for messages."""

    name: str
    text: str


async def look(connection: Any, options: PostgresOptions, release: Release, *, is_client: bool = False) -> Found:
    """Writes nothing, but that a client of the release is there. Raises SchemaTooNew, StoreUnusable."""
    schema = options.schema
    if not await connection.fetchval(frame("ledger.has_ledger", schema)):
        return Found((), release.migrations, False)
    ledger = [Applied(*row) for row in await connection.fetch(frame("ledger.changes", schema))]
    missing = plan(release.migrations, ledger, options.place)
    return Found(ledger, missing, await has_functions(connection, options, release, is_client=is_client))


async def sets(connection: Any, options: PostgresOptions) -> Sequence[Any]:
    """The sets of functions that are there, as rows of ledger.sql; the schema is."""
    found: Sequence[Any] = await connection.fetch(frame("ledger.sets", options.schema))
    return found


async def has_functions(connection: Any, options: PostgresOptions, release: Release, *, is_client: bool) -> bool:
    """Whether the set of the release is there. A client says so if nobody has for a while.

    Whoever drops the set just then either waits and sees it, or is done first: then nothing is found to say it of.
    """
    schema, suffix = options.schema, release.functions.suffix
    statement = frame("ledger.is_long_unseen", schema, present_ms=PRESENT_MS)
    is_long_unseen = await connection.fetchval(statement, suffix)
    if is_client and is_long_unseen:
        with contextlib.suppress(asyncpg.ReadOnlySQLTransactionError):  # one that may only look
            return bool(await connection.fetchval(frame("ledger.say_in_use", schema), suffix))
    return is_long_unseen is not None


async def ensure(connection: Any, options: PostgresOptions, release: Release, test_epoch_ms: int) -> None:
    """Have all that the release needs, by the policy of the options. Raises StoreUnusable, SchemaTooNew."""
    found = await look(connection, options, release, is_client=True)
    if found.gaps and options.schema_policy == "require":
        raise StoreUnusable(f"{options.place}: {'; '.join(found.gaps)}. {WAY_OUT}", server=options.place)
    if found.gaps:
        await bring_up(connection, options, release, test_epoch_ms)
    is_test_clock = await connection.fetchval(frame("ledger.is_test_clock", options.schema))
    if is_test_clock != options.test_clock:
        made = "with" if is_test_clock else "without"
        raise StoreUnusable(f"{options.place} was made {made} test_clock=True. Open it so, or give another schema")


async def bring_up(
    connection: Any,
    options: PostgresOptions,
    release: Release,
    test_epoch_ms: int,
    *,
    unused_ms: int = UNUSED_MS,
    role: str | None = None,
) -> None:
    """Make what is missing, drop what nobody uses; if any of it fails, none of it.

    `role` gets the rights to work. Raises StoreUnusable, SchemaTooNew, InvalidOption for a role that is not there.
    """
    clock_ms = test_epoch_ms if options.test_clock else None
    name = ""
    try:
        async with connection.transaction():
            await connection.execute(frame("script.lock", options.schema))
            await look(connection, options, release)  # somebody else was first, perhaps a newer release
            for part in parts(options.schema, release, clock_ms=clock_ms, unused_ms=unused_ms, role=role):
                name = part.name
                failpoint("postgres.schema.part")
                await connection.execute(part.text)
            failpoint("postgres.schema.commit")
    except asyncpg.InsufficientPrivilegeError as exc:
        (who,) = await connection.fetch(frame("ledger.who", options.schema))
        raise StoreUnusable(
            _lacks_rights(options, who[0], who[1], str(exc)), server=options.place, role=who[0]
        ) from exc
    except asyncpg.UndefinedObjectError as exc:
        if name != _RIGHTS:
            raise _foreign(options, name, exc) from exc
        way_out = "Make it first: CREATE ROLE … LOGIN PASSWORD …"
        raise InvalidOption("grant", role, f"is no role of {options.place}", way_out) from exc
    except (asyncpg.SyntaxOrAccessError, asyncpg.RaiseError) as exc:
        raise _foreign(options, name, exc) from exc


def parts(
    schema: str, release: Release, *, clock_ms: int | None, unused_ms: int = UNUSED_MS, role: str | None = None
) -> Iterator[Part]:
    """What is run, in order, after the lock. `role` gets the rights to work, and none to change definitions."""
    last, suffix = len(release.migrations), release.functions.suffix
    yield Part("the schema", frame("script.begin", schema))
    yield Part("the ledger", frame("script.ledger", schema))
    yield from (_change(schema, each) for each in release.migrations if each.phase == "pre")
    yield Part("the clock", frame("script.clock", schema, clock_ms="NULL" if clock_ms is None else clock_ms))
    text = filled(release.functions.text, schema)
    of_set = {"suffix": suffix, "version": release.version, "number": last, "text": text}
    yield Part("the set of functions", frame("script.functions", schema, **of_set))
    yield Part("the end of old functions", frame("script.drop_unused", schema, suffix=suffix, unused_ms=unused_ms))
    yield from (_change(schema, each) for each in release.migrations if each.phase == "post")
    if role is not None:
        yield Part(_RIGHTS, grants(schema, role))


def grants(schema: str, role: str) -> str:
    return frame("script.grants", schema, role='"' + role.replace('"', '""') + '"')


def script(schema: str, release: Release, role: str | None = None) -> str:
    """All of it for psql, as a store of the wall clock needs it."""
    texts = [frame("script.lock", schema), *(each.text for each in parts(schema, release, clock_ms=None, role=role))]
    head = (
        f"-- psyqueue {release.version}: makes the schema {schema}, or brings it up to date. For psql, as the role\n"
        "-- that owns it or may create it. It may be run again, and while workers of older releases run.\n"
    )
    return head + frame("script.whole", schema).replace("@parts@", ";\n\n".join(texts) + ";") + ";\n"


def _change(schema: str, migration: Migration) -> Part:
    about = {"number": migration.number, "name": migration.name, "checksum": migration.checksum}
    text = frame("script.change", schema, **about, phase=migration.phase, text=filled(migration.text, schema))
    return Part(f"schema change {migration.number} ({migration.name})", text)


def _foreign(options: PostgresOptions, name: str, exc: Exception) -> StoreUnusable:
    text = (
        f"{options.place}: {name} cannot be made: {exc}. Nothing was changed. The schema holds what psyqueue did not "
        "put there, or half of what it did: drop that, restore the schema, or give another one with schema="
    )
    return StoreUnusable(text, server=options.place)


def _lacks_rights(options: PostgresOptions, role: str, database: str, words: str) -> str:
    to, on = (name.replace('"', '""') for name in (role, database))
    return (
        f"{options.place}: role {role!r} may not make or change the schema ({words}). Run `psyqueue schema up "
        f"--grant {role}` as a role that may, and give this one schema_policy='require'; or, where there is no "
        f'schema yet, let it make one: GRANT CREATE ON DATABASE "{on}" TO "{to}"'
    )

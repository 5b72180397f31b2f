"""The schema while releases change: two side by side, the end of the old one, and what stands in the way.

Method: a newer release is this one with a change of the tables and another text in a function file.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from backends.postgres.releases import OLD, change, newer
from backends.postgres.stores import beside, connected, opened
from psyqueue.backends._postgres import PostgresBackend, PostgresOptions, presence, schema, upgrade
from psyqueue.backends._postgres.administration import Administration
from psyqueue.backends._postgres.schema import Release
from psyqueue.backends.migrations import SchemaStatus
from psyqueue.errors import SchemaTooNew, StoreBusy, StoreUnavailable, StoreUnusable
from support.servers import Server
from support.waiting import wait_until

ADD = change("colour", "ALTER TABLE @schema@.job ADD COLUMN colour text NOT NULL DEFAULT 'red'; ")
DROP = change("no_reason", "ALTER TABLE @schema@.job RENAME COLUMN held TO is_held; ", "post")
TELLS = ("c.now_ms, m.mode, m.epoch, m.moved_to,", "c.now_ms, m.mode, m.epoch, 'new'::text,")
NEW = newer("0.2", ADD, text=TELLS)
NEWEST = newer("0.3", ADD, DROP, text=("held", "is_held"))
LATER = newer("0.3", ADD, DROP, change("size", "ALTER TABLE @schema@.job ADD COLUMN kib integer; "))


HBA = "host all shop 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"


def options_of(url: str, namespace: str, **options: Any) -> PostgresOptions:
    return PostgresOptions(connection_string=url, schema=namespace, test_clock=True, **options)


def administration(url: str, namespace: str, release: Release = OLD, **options: Any) -> Administration:
    return Administration(options_of(url, namespace, **options), release)


async def age(url: str, namespace: str, release: Release, by: str = "8 days") -> None:
    """As if no client of the release had been there for a while."""
    async with connected(url) as connection:
        text = f"""update "{namespace}".function_set set seen_at = seen_at - interval '{by}' where suffix = $1"""
        await connection.execute(text, release.functions.suffix)


async def functions_of(url: str, namespace: str, release: Release) -> int:
    async with connected(url) as connection:
        text = "select count(*) from pg_proc where pronamespace = $1::text::regnamespace and proname like $2"
        return int(await connection.fetchval(text, f'"{namespace}"', f"%\\{release.functions.suffix}"))


def states(status: SchemaStatus) -> dict[str, str]:
    return {line.name: line.state for line in status.changes if line.number > len(OLD.migrations)}


# ── two releases side by side ─────────────────────────────────────────────────────────────────────────────────────────
async def test_an_old_client_goes_on_during_and_after_an_upgrade(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace, "old") as old:
        await old.add("begun")
        (delivery,) = await old.dequeue(session="old")
        async with opened(url, namespace, "new", release=NEW) as new:
            assert ((await old.backend.info()).moved_to, (await new.backend.info()).moved_to) == ("", "new")
            assert (await old.ack(delivery, session="old")).verdict == "ok"
            for mine, yours in ((old, new), (new, old)):
                await mine.add(f"of {mine.client}")
                assert await yours.run(session=yours.client) == f"of {mine.client}"
                assert await mine.status(f"of {mine.client}") == "completed"
        async with opened(url, namespace, "back", release=OLD, schema_policy="require") as back:
            assert await back.count("completed") == 3


async def test_a_release_that_is_rolled_back_makes_its_functions_again(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace):
        pass
    await age(url, namespace, OLD)
    async with opened(url, namespace, release=NEW):
        assert await functions_of(url, namespace, OLD) == 0
    async with opened(url, namespace) as back:
        await back.add("a")
        assert await back.run() == "a"


async def test_clients_that_come_at_once_make_one_schema(postgres_server: Server, namespace: str) -> None:
    releases = [OLD, NEW] * 4
    backends = [PostgresBackend(options_of(postgres_server.url, namespace), release=release) for release in releases]
    await asyncio.gather(*(backend.connect() for backend in backends))
    assert {(await backend.info()).schema for backend in backends} == {len(NEW.migrations)}
    await asyncio.gather(*(backend.disconnect() for backend in backends))
    status = await administration(postgres_server.url, namespace).status()
    assert sorted(line.version for line in status.sets) == sorted((OLD.version, NEW.version))


# ── the end of the old one ────────────────────────────────────────────────────────────────────────────────────────────
async def test_functions_of_a_release_in_use_are_kept(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace, "old") as old:
        await age(url, namespace, OLD, by="6 days")
        status = await administration(url, namespace, NEWEST).up()
        assert states(status) == {"colour": "applied", "no_reason": "waiting"}
        assert status.gaps == []
        await old.add("a")
        assert await old.run() == "a"


async def test_functions_that_nobody_uses_are_dropped_and_what_waited_for_that_is_done(
    postgres_server: Server, namespace: str
) -> None:
    url = postgres_server.url
    old = PostgresBackend(options_of(url, namespace))
    await old.connect()
    await age(url, namespace, OLD)
    status = await administration(url, namespace, NEWEST).up()
    assert states(status) == {"colour": "applied", "no_reason": "applied"}
    assert [line.version for line in status.sets] == ["0.3"]
    assert await functions_of(url, namespace, OLD) == 0
    assert await functions_of(url, namespace, NEWEST) > 50
    with pytest.raises(StoreUnusable, match="Connect anew"):
        await old.info()
    await old.disconnect()
    with pytest.raises(SchemaTooNew):
        await old.connect()
    async with opened(url, namespace, release=NEWEST) as store:
        await store.add("a")
        assert await store.run() == "a"


async def test_what_comes_later_does_not_wait(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace):
        status = await administration(url, namespace, LATER).up()
    assert states(status) == {"colour": "applied", "no_reason": "waiting", "size": "applied"}
    assert status.gaps == []


async def test_a_new_schema_waits_for_nobody(postgres_server: Server, namespace: str) -> None:
    status = await administration(postgres_server.url, namespace, NEWEST).up()
    assert states(status) == {"colour": "applied", "no_reason": "applied"}


async def test_a_client_that_comes_while_its_functions_are_dropped_makes_them_again(
    postgres_server: Server, namespace: str
) -> None:
    """It says that it is there and has to wait for the one who drops: then the set is gone, which it notices."""
    url = postgres_server.url
    async with opened(url, namespace):
        pass
    await age(url, namespace, OLD)
    async with connected(url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(schema.frame("script.lock", namespace))
        for part in upgrade.parts(namespace, NEW, clock_ms=None):
            await connection.execute(part.text)

        async def work() -> str:
            async with opened(url, namespace) as store:
                await store.add("a")
                return await store.run()

        assert await beside(url, namespace, work(), transaction.commit) == "a"
    assert await functions_of(url, namespace, OLD) > 50


async def test_functions_of_another_owner_are_left(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace), connected(url) as connection:
        low = namespace + "_low"
        await connection.execute(f"""
            create role "{low}" login; create role "{low}_app";
            grant usage, create on schema "{namespace}" to "{low}";
            grant all on all tables in schema "{namespace}" to "{low}"
        """)
        await age(url, namespace, OLD)
        try:
            status = await administration(url.replace("postgres@", f"{low}@"), namespace, newer("0.2", text=TELLS)).up()
            assert len(status.sets) == 2
            assert await functions_of(url, namespace, OLD) > 50
        finally:
            await connection.execute(f'drop owned by "{low}"; drop role "{low}", "{low}_app"')


async def test_a_client_says_that_it_is_there(
    postgres_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "PRESENT_MS", 10)
    url = postgres_server.url
    async with opened(url, namespace):
        await age(url, namespace, OLD)

        def is_fresh() -> bool:
            return asyncio.run(seen_days(url, namespace)) < 1

        assert await asyncio.to_thread(wait_until, is_fresh)


async def seen_days(url: str, namespace: str) -> float:
    async with connected(url) as connection:
        text = f"""select extract(epoch from now() - min(seen_at)) / 86400 from "{namespace}".function_set"""
        return float(await connection.fetchval(text))


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────────
async def test_who_requires_a_schema_makes_none(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    with pytest.raises(StoreUnusable, match=r"the schema is not there\. `psyqueue schema up` makes it"):
        async with opened(url, namespace, schema_policy="require"):
            pass
    async with opened(url, namespace), connected(url) as connection:
        with pytest.raises(StoreUnusable, match=r"change \d \(colour\) is missing; the functions of this release"):
            async with opened(url, namespace, release=NEW, schema_policy="require"):
                pass
        columns = "select count(*) from information_schema.columns where table_schema = $1 and column_name = 'colour'"
        assert await connection.fetchval(columns, namespace) == 0


async def test_a_schema_that_old_releases_cannot_use_is_left_alone(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    await administration(url, namespace, NEWEST).up()
    newest = len(NEWEST.migrations)
    for policy in ("create", "require"):
        with pytest.raises(SchemaTooNew, match=f"has schema {newest}, this psyqueue knows {len(OLD.migrations)}"):
            async with opened(url, namespace, schema_policy=policy):
                pass
    assert await functions_of(url, namespace, OLD) == 0


async def test_an_upgrade_that_breaks_off_leaves_nothing(
    postgres_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of its parts in turn; then it is done as if nothing had been."""
    url = postgres_server.url
    count = len(list(upgrade.parts(namespace, NEW, clock_ms=None)))
    async with opened(url, namespace) as store:
        await store.add("a")
        for broken in range(count + 1):
            left = iter(range(broken))

            def reached(_: str, left: Any = left) -> None:
                if next(left, None) is None:
                    raise StoreUnavailable("the process is gone")

            monkeypatch.setattr(upgrade, "failpoint", reached)
            with pytest.raises(StoreUnavailable, match="is gone"):
                await administration(url, namespace, NEW).up()
            monkeypatch.undo()
            status = await administration(url, namespace, NEW).status()
            assert (states(status), len(status.sets)) == ({"colour": "missing"}, 1)
        status = await administration(url, namespace, NEW).up()
        assert (states(status), len(status.sets)) == ({"colour": "applied"}, 2)
        assert await store.run() == "a"


async def test_a_change_that_was_half_made_by_hand_is_named(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store, connected(url) as connection:
        await connection.execute(f'alter table "{namespace}".job add column colour integer')
        with pytest.raises(StoreUnusable, match=r"schema change \d \(colour\) cannot be made: .*Nothing was changed"):
            await administration(url, namespace, NEW).up()
        assert states(await administration(url, namespace, NEW).status()) == {"colour": "missing"}
        await store.add("a")


async def test_a_schema_of_somebody_else_is_left_alone(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    async with connected(url) as connection:
        await connection.execute(f'create schema "{namespace}"; create table "{namespace}".job (id text)')
        with pytest.raises(StoreUnusable, match=r"schema change 1 \(jobs\) cannot be made"):
            async with opened(url, namespace):
                pass
        tables = await connection.fetch("select tablename from pg_tables where schemaname = $1", namespace)
        assert [row[0] for row in tables] == ["job"]


async def test_an_upgrade_stalls_no_worker_behind_a_long_transaction(
    postgres_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for a table only for a while: calls that come after it would wait behind it."""
    url = postgres_server.url
    assert "lock_timeout = '10s'" in schema.frame("script.lock", namespace)

    def hurried(name: str, place: str, /, **values: object) -> str:
        return schema.frame(name, place, **values).replace("lock_timeout = '10s'", "lock_timeout = '50ms'")

    async with opened(url, namespace) as store, connected(url) as connection:
        await store.add("a")
        async with connection.transaction():
            await connection.fetch(f'select * from "{namespace}".job')
            monkeypatch.setattr(upgrade, "frame", hurried)
            with pytest.raises(StoreBusy, match="nothing was written"):
                await administration(url, namespace, NEW).up()
        assert states(await administration(url, namespace, NEW).up()) == {"colour": "applied"}
        assert await store.run() == "a"


# ── rights and addresses ──────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_role_that_may_not_define_anything_is_told_what_to_grant(
    postgres_server: Server, namespace: str
) -> None:
    url = postgres_server.url
    low = url.replace("postgres@", f"{namespace}@")
    async with connected(url) as connection:
        await connection.execute(f'create role "{namespace}" login')
        try:
            with pytest.raises(StoreUnusable, match="may not make or change the schema") as caught:
                async with opened(low, namespace):
                    pass
            (grant,) = [part for part in caught.value.message.split(": ") if part.startswith("GRANT")]
            await connection.execute(grant)
            async with opened(low, namespace) as store:
                await store.add("a")
                assert await store.run() == "a"
        finally:
            await connection.execute(f'drop owned by "{namespace}"; drop role "{namespace}"')


async def test_a_role_that_may_not_read_the_schema_is_told_so(postgres_server: Server, namespace: str) -> None:
    url = postgres_server.url
    low = url.replace("postgres@", f"{namespace}@")
    async with opened(url, namespace), connected(url) as connection:
        await connection.execute(f'create role "{namespace}" login')
        try:
            for policy in ("create", "require"):
                with pytest.raises(StoreUnusable, match="schema up --grant ROLE"):
                    async with opened(low, namespace, schema_policy=policy):
                        pass
        finally:
            await connection.execute(f'drop role "{namespace}"')


async def test_a_wrong_password_is_said_and_not_shown(own_servers: Any) -> None:
    server = own_servers.postgres()
    async with connected(server.url) as connection:
        file = await connection.fetchval("show hba_file")
        await connection.execute("create role shop login password 'right'")
        await asyncio.to_thread(Path(file).write_text, HBA)
        await connection.execute("select pg_reload_conf()")

        async def is_refused() -> bool:
            try:
                await (await asyncpg.connect(server.url.replace("postgres@", "shop:wrong@"))).close()
            except asyncpg.InvalidPasswordError:
                return True
            return False

        assert await asyncio.to_thread(wait_until, lambda: asyncio.run(is_refused()))
    with pytest.raises(StoreUnusable, match="Look at user= and password=") as caught:
        async with opened(server.url.replace("postgres@", "shop:wrong@"), "s"):
            pass
    assert "wrong" not in str(caught.value)
    async with connected(server.url) as connection:
        await connection.execute("grant create on database postgres to shop")
    async with opened(server.url.replace("postgres@", "shop:right@"), "s") as store:
        await store.add("a")

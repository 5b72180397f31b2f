"""What a step can meet in the server: told by its type, nothing written; what can be done again at once is."""

from __future__ import annotations

import asyncpg
import pytest

from backends.postgres.stores import connected, opened
from psyqueue.backends._postgres.faults import of_callers_server, translate, unreachable
from psyqueue.errors import InvalidState, StoreBusy, StoreFull, StoreUnavailable, StoreUnusable
from psyqueue.testing.conformance.handle import job
from support.servers import Server

_REFUSE = """
    create sequence "{schema}".refusals;
    create function "{schema}".refuse() returns trigger language plpgsql as $$
        begin
            if nextval('"{schema}".refusals') <= {times} then
                raise exception using errcode = '{code}';
            end if;
            return new;
        end
    $$;
    create trigger refuse before insert on "{schema}".job for each row execute function "{schema}".refuse();
"""
ALWAYS = 1_000
PLACE = "PostgreSQL at far:1"


async def refuse(url: str, schema: str, code: str, times: int) -> None:
    """The first `times` jobs meet this error in the middle of their step. What a sequence gave is not taken back."""
    async with connected(url) as connection:
        await connection.execute(_REFUSE.format(schema=schema, code=code, times=times))


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("53100", StoreFull, "disk is full"),
        ("53200", StoreBusy, "out of memory"),
        ("25006", StoreUnavailable, "read-only"),
        ("0A000", StoreUnavailable, "read-only"),
        ("40001", StoreBusy, "again and again"),
        ("40P01", StoreBusy, "again and again"),
        ("55P03", StoreBusy, "holds a lock"),
        ("57014", StoreBusy, "statement_timeout"),
        ("25P04", StoreBusy, "transaction_timeout"),
        ("58030", StoreUnusable, "its own files"),
        ("26000", StoreUnusable, "prepared=False"),
        ("42P05", StoreUnusable, "prepared=False"),
        ("42501", StoreUnusable, "--grant ROLE"),
        ("XX001", StoreUnusable, "corrupt"),
        ("XX000", StoreUnusable, "defect"),
    ],
)
async def test_an_error_in_a_step_is_told_by_its_type_and_nothing_is_written(
    postgres_server: Server, namespace: str, code: str, kind: type[Exception], words: str
) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store:
        await refuse(url, namespace, code, ALWAYS)
        with pytest.raises(kind, match=words) as told:
            await store.enqueue(job("a"), job("b"))
        assert "PostgreSQL at 127.0.0.1" in str(told.value)
        assert await store.statuses("a", "b") == [None, None]


@pytest.mark.parametrize("code", ["40001", "40P01"])
async def test_a_step_that_was_in_somebodys_way_is_done_again(
    postgres_server: Server, namespace: str, code: str
) -> None:
    url = postgres_server.url
    async with opened(url, namespace) as store:
        await refuse(url, namespace, code, times=5)
        assert (await store.add("a")).created
        assert await store.status("a") == "pending"


@pytest.mark.parametrize(
    ("setting", "words"), [("lock_timeout=50", "holds a lock"), ("statement_timeout=2000", "statement_timeout")]
)
async def test_limits_that_the_server_sets_are_kept_and_told(
    postgres_server: Server, namespace: str, setting: str, words: str
) -> None:
    """Somebody else holds the id for longer than the settings of our sessions allow."""
    url = postgres_server.url
    async with (
        opened(url, namespace) as store,
        connected(url) as connection,
        opened(f"{url}?{setting}", namespace, "b") as hasty,
    ):
        transaction = connection.transaction()
        await transaction.start()
        await store.backend.bind(connection).enqueue((job("a"),))
        with pytest.raises(StoreBusy, match=words):
            await hasty.add("a")
        await transaction.rollback()
        assert (await hasty.add("a")).created


def error(code: str, text: str = "words of the server") -> asyncpg.PostgresError:
    made: asyncpg.PostgresError = asyncpg.PostgresError.new({"S": "FATAL", "C": code, "M": text})
    return made


@pytest.mark.parametrize("code", ["57P01", "57P02", "57P05", "08006"])
def test_a_server_that_hangs_up_on_a_call_leaves_its_outcome_unknown(code: str) -> None:
    told = translate(error(code), PLACE)
    assert isinstance(told, StoreUnavailable)
    assert told.outcome == "unknown"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("57P01", "does not let us in: 57P01 words of the server"),
        ("08P01", "does not let us in: 08P01 words of the server"),
        ("57P03", "starting or stopping"),
        ("53300", "max_connections"),
    ],
)
def test_a_server_that_lets_nobody_in_did_nothing(code: str, words: str) -> None:
    told = unreachable(error(code), PLACE)
    assert isinstance(told, StoreUnavailable)
    assert told.outcome == "refused"
    assert words in told.message
    assert "unknown" not in told.message


def test_a_transaction_of_the_caller_that_was_ended_for_idling_is_his_to_begin_again() -> None:
    assert isinstance(of_callers_server("25P03", "words", None, PLACE), InvalidState)

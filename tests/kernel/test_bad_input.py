"""What a store could stumble over: it is kept exactly, or refused, and every store says the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta, timezone
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from psyqueue import Cancel, Context, DeadLetter, InvalidOption, JobNotFound, KeyConflict, PayloadError, PsyQueue
from psyqueue.backend import NewJob, Op
from psyqueue.backends import memory, postgres, redis, sqlite

AWKWARD = [
    "o'r\"d",
    "'; drop table jobs; --",
    "%s %(x)s $1 :name ? {0} \\",
    "a`b[c]*?",
    "注文 🚚",
    "a.b:c/d#e@f",
    " padded ",
    "NULL",
]
"""Names that may be."""
FORBIDDEN = ["a\0b", "a\nb", "\x7f", "", "x" * 201, "\ud800"]
VALUES = ["\0", "a\0b", "\\u0000", "\u2028\uffff", "'\"\\", "🚚", "\x01\x1f\x7f", {"\0": [None, "\0"]}]


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres"])
async def q(request: pytest.FixtureRequest, tmp_path: Path, namespace: str) -> AsyncIterator[PsyQueue]:
    made: dict[str, Callable[[], Any]] = {
        "memory": memory,
        "sqlite": lambda: sqlite(path=tmp_path / "jobs.db"),
        "redis": lambda: redis(url=request.getfixturevalue("redis_server").url, key_prefix=f"{namespace}:"),
        "postgres": lambda: postgres(
            connection_string=request.getfixturevalue("postgres_server").url, schema=namespace
        ),
    }
    queue = PsyQueue().use(made[request.param]())
    async with queue:
        yield queue


async def test_values_are_kept_exactly(q: PsyQueue) -> None:
    @q.handle("echo", queue="q")
    async def echo(ctx: Context) -> Any:
        ctx.progress(ctx.job.payload)
        return ctx.job.payload

    for value in VALUES:
        job = await q.enqueue("echo", value, meta={"of": value})
        assert await q.process_next("q")
        view = await job.refresh()
        assert (view.payload, view.result, view.progress, view.meta) == (value, value, value, {"of": value})


@pytest.mark.parametrize("value", [float("nan"), "\ud800", {"a": "\udfff"}, 1j], ids=ascii)
async def test_what_is_no_json_is_refused(q: PsyQueue, value: Any) -> None:
    with pytest.raises(PayloadError):
        await q.enqueue("echo", {"value": value})
    assert len(await q.jobs()) == 0


@pytest.mark.parametrize("name", AWKWARD)
async def test_names_are_never_interpreted(q: PsyQueue, name: str) -> None:
    @q.handle(name, queue=name)
    async def handler(ctx: Context) -> str:
        return ctx.job.name

    keys: dict[str, Any] = {"unique_key": name, "idempotency_key": name, "order_key": name}
    job = await q.enqueue(name, {}, id=name, tenant=name, lane=name, **keys)
    assert (await q.enqueue(name, {}, id="other", tenant=name, lane=name, **keys)).id == name
    await q.pause(name)
    assert not await q.process_next(name)
    await q.resume(name)
    for found in (await q.jobs(name=name), await q.jobs(queue=name), await q.jobs(text=name)):
        assert [each.id for each in found] == [name]
    assert await q.process_next(name)
    assert (await job.refresh()).result == name


@pytest.mark.parametrize("name", FORBIDDEN, ids=ascii)
@pytest.mark.parametrize("option", ["id", "queue", "tenant", "lane", "unique_key", "idempotency_key", "order_key"])
async def test_names_with_control_characters_are_refused(q: PsyQueue, option: str, name: str) -> None:
    options: dict[str, Any] = {option: name}
    with pytest.raises(InvalidOption):
        await q.enqueue("echo", {}, **options)
    assert len(await q.jobs()) == 0


@pytest.mark.parametrize("name", FORBIDDEN, ids=ascii)
async def test_what_can_be_no_name_is_not_found(q: PsyQueue, name: str) -> None:
    assert await q.get(name) is None
    for look in (q.cancel, q.explain, q.dead_letter.replay):
        with pytest.raises(JobNotFound):
            await look(name)
    with pytest.raises(InvalidOption):
        await q.jobs(queue=name)


@pytest.mark.parametrize("text", ["a\0b", "a\nb", "\ud800", "'\"%s\\", "🚚" * 3_000, "\0" * 3_000], ids=ascii)
async def test_whatever_a_handler_says_its_job_ends(q: PsyQueue, text: str) -> None:
    """As an error, as the reason of a verdict, as a result."""

    @q.handle("raise", queue="q", max_retries=0)
    async def fail(ctx: Context) -> None:
        raise ValueError(text)

    @q.handle("bury", queue="q")
    async def bury(ctx: Context) -> None:
        raise DeadLetter(text)

    @q.handle("cancel", queue="q")
    async def cancel(ctx: Context) -> None:
        raise Cancel(text)

    @q.handle("return", queue="q")
    async def answer(ctx: Context) -> str:
        return text

    ends = []
    for name in ("raise", "bury", "cancel", "return"):
        job = await q.enqueue(name, {})
        assert await q.process_next("q")
        view = await job.refresh()
        ends.append(view.status)
        # It stands in the row that every look at the job reads.
        assert len(view.reason) <= 2_000
        assert view.reason[:1] == text[:1] or name not in ("bury", "cancel") or not text.isprintable()
    assert ends == ["dead", "dead", "cancelled", "dead" if text == "\ud800" else "completed"]


BEYOND = [
    datetime.max.replace(tzinfo=timezone(-timedelta(hours=12))),
    datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
]


@pytest.mark.parametrize("at", BEYOND, ids=str)
async def test_an_instant_that_could_not_be_read_back_is_refused(q: PsyQueue, at: datetime) -> None:
    """One such job made every list of jobs fail."""
    with pytest.raises(InvalidOption, match="run_at"):
        await q.enqueue("echo", {}, run_at=at)
    with pytest.raises(InvalidOption, match="until"):
        await q.pause("q", until=at)
    with pytest.raises(InvalidOption, match="created_after"):
        await q.jobs(created_after=at)


async def test_an_instant_beyond_all_years_that_is_in_the_store_hides_no_other_job(q: PsyQueue) -> None:
    far = NewJob(id="far", queue="q", name="echo", payload=b"1", run_at_ms=1 << 50)
    await q.get_exposed("backend").enqueue(Op("other", 1, 1), (far,))
    near = await q.enqueue("echo", {}, queue="q")
    found = {each.id: each.run_at for each in await q.jobs(queue="q")}
    assert found.keys() == {"far", near.id}
    assert found["far"].year == 9999


@pytest.mark.parametrize("lane", [0, False, 0.0, [], (), b""], ids=repr)
async def test_a_lane_that_is_no_text_is_refused(q: PsyQueue, lane: Any) -> None:
    """Also one that counts as false, as no lane does."""
    given: list[Any] = [{}, {"weight": 2}]
    for limits in given:
        with pytest.raises(InvalidOption, match="lane"):
            await q.limits("q", lane, **limits)
    assert (await q.limits("q", "", weight=2)).lane == ""


@pytest.mark.parametrize("option", ["text", "cursor", "tenant"])
async def test_what_is_looked_for_holds_no_lone_surrogate(q: PsyQueue, option: str) -> None:
    given: Any = {option: "\ud800"}
    with pytest.raises(InvalidOption, match=option):
        await q.jobs(**given)
    if option == "cursor":
        with pytest.raises(InvalidOption, match=option):
            await q.dead_letter.list(**given)


async def test_options_with_names_that_are_no_text_are_refused(q: PsyQueue) -> None:
    with pytest.raises(InvalidOption, match="option 1="):
        await q.enqueue_bulk([{"name": "echo", "options": {1: 2}}])


@pytest.mark.parametrize("keyed", ["idempotency_key", "unique_key"])
async def test_a_conflict_names_the_key_as_it_was_given(q: PsyQueue, keyed: str) -> None:
    options: dict[str, Any] = {keyed: "order-7", "tenant": "acme"}
    if keyed == "unique_key":
        options["on_conflict"] = "reject"
    await q.enqueue("echo", 1, **options)
    with pytest.raises(KeyConflict, match="key 'order-7'") as caught:
        await q.enqueue("echo", 2, **options)
    assert caught.value.key == "order-7"


class Place(str, Enum):  # noqa: UP042 - what older programs have, and what `str()` does not give the value of
    QUEUE = "mails"
    HANDLER = "send"


async def test_a_member_of_a_text_enumeration_counts_as_its_value_everywhere(q: PsyQueue) -> None:
    @q.handle(Place.HANDLER, queue=Place.QUEUE)
    async def send() -> None: ...

    await send.enqueue()
    await q.enqueue(Place.HANDLER, {}, queue=Place.QUEUE, lane=Place.QUEUE, tenant=Place.QUEUE, id=Place.QUEUE)
    found = await q.jobs(queue=Place.QUEUE, name=Place.HANDLER)
    assert {(each.name, each.queue) for each in found} == {("send", "mails")}
    assert all(type(text) is str for each in found for text in (each.name, each.queue, each.id))
    assert await q.process_next(Place.QUEUE)
    assert await q.process_next("mails")


@pytest.mark.parametrize("text", ["\0", "%", "_", "'", "\\", "*", "[a"], ids=ascii)
async def test_a_text_that_is_looked_for_is_no_pattern(q: PsyQueue, text: str) -> None:
    await q.enqueue("echo", "plain")
    await q.enqueue("echo", f"a{text}b", id="found")
    found = [each.id for each in await q.jobs(text=text)]
    # Payloads are looked at as the JSON that they are, which has no NUL.
    assert found == ([] if text == "\0" else ["found"])

"""Assertions find the job that was meant, and where there is none they say what came near."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import ANY

import pytest

from psyqueue import PsyQueue
from psyqueue.backends import memory
from psyqueue.errors import InvalidOption

q = PsyQueue().use(memory())
NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)


@q.handle("email.send", queue="mail")
async def send(to: str, subject: str = "Hi", parts: object = None) -> None: ...


@pytest.fixture
async def t():
    async with q.testing(now=NEW_YEAR) as t:
        yield t


async def test_part_of_a_payload_is_enough(t):
    job = await send.enqueue("ada", "Hello", {"text": "…", "files": [{"name": "a", "size": 1}]})
    (found,) = t.assert_enqueued("email.send", payload={"to": "ada"})
    assert found.id == job.id
    t.assert_enqueued(send, payload={"parts": {"files": [{"name": "a"}]}}, queue="mail", count=1)
    t.assert_enqueued("email.send", payload={"to": ANY, "parts": {"text": ANY}})
    t.assert_enqueued("email.send")


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({"to": "eve"}, "payload.to is 'ada', not 'eve'"),
        ({"cc": "eve"}, "payload has no 'cc'"),
        ({"parts": {"files": []}}, "payload.parts.files has 1 items, not 0"),
        ({"parts": {"files": [{"name": "b"}]}}, "payload.parts.files[0].name is 'a', not 'b'"),
        ({"to": {"name": "ada"}}, "payload.to is 'ada', no mapping"),
        (None, "payload is {'to': 'ada'"),
    ],
)
async def test_near_misses_name_the_fields_that_differ(t, payload, text):
    await send.enqueue("ada", "Hello", {"files": [{"name": "a"}]})
    with pytest.raises(AssertionError) as caught:
        t.assert_enqueued("email.send", payload=payload)
    assert text in str(caught.value)
    assert t.enqueued("email.send", payload=payload) == []


async def test_nearest_comes_first(t):
    await send.options(queue="other").enqueue("eve", "Bye")
    job = await send.enqueue("ada", "Bye")
    with pytest.raises(AssertionError) as caught:
        t.assert_enqueued("email.send", payload={"to": "ada", "subject": "Hi"}, queue="mail")
    first, near, nearest, farther = str(caught.value).splitlines()
    assert first == ("job 'email.send' with payload={'to': 'ada', 'subject': 'Hi'}, queue='mail' was not enqueued")
    assert near == "near misses:"
    assert nearest == f"  {job.id} 'email.send' on 'mail', pending: payload.subject is 'Bye', not 'Hi'"
    assert farther.endswith(
        "payload.to is 'eve', not 'ada'; payload.subject is 'Bye', not 'Hi'; queue is 'other', not 'mail'"
    )


async def test_many_near_misses_are_cut(t):
    for number in range(9):
        await send.enqueue(str(number))
    with pytest.raises(AssertionError, match="and 4 more"):
        t.assert_enqueued("email.send", payload={"to": "ada"})


async def test_wrong_name_is_told_with_the_names_there_are(t):
    await send.enqueue("ada")
    with pytest.raises(AssertionError, match=r"enqueued were: 'email.send' \(1\)\ndid you mean 'email.send'\?"):
        t.assert_enqueued("email.sent")


async def test_nothing_at_all_is_told(t):
    with pytest.raises(AssertionError, match=r"job 'email\.send' was not enqueued\nno job was"):
        t.assert_enqueued("email.send")


async def test_count_is_exact(t):
    for _ in range(2):
        await send.enqueue("ada")
    assert len(t.assert_enqueued("email.send", count=2)) == 2
    with pytest.raises(AssertionError, match="2 were enqueued, not 3"):
        t.assert_enqueued("email.send", count=3)
    with pytest.raises(AssertionError, match="2 were enqueued, not 0"):
        t.assert_enqueued("email.send", count=0)
    t.assert_enqueued("other", count=0)


async def test_refute_names_what_it_found(t):
    t.refute_enqueued()
    job = await send.enqueue("ada")
    t.refute_enqueued("email.send", payload={"to": "eve"})
    t.refute_enqueued("other")
    for arguments in ((), ("email.send",)):
        with pytest.raises(AssertionError, match=f"{job.id} 'email.send' on 'mail', pending payload="):
            t.refute_enqueued(*arguments)


async def test_jobs_that_have_ended_were_enqueued_too(t):
    await send.enqueue("ada")
    await t.drain()
    t.assert_enqueued("email.send", status="completed", attempt=1)
    t.refute_enqueued("email.send", status="pending")


OPTIONS: dict[str, tuple[Any, Any]] = {
    "id": ("one", "two"),
    "queue": ("other", "mail"),
    "priority": (5, 0),
    "delay": ("1h", 3601),
    "run_at": (NEW_YEAR + timedelta(hours=1), NEW_YEAR),
    "expires": (timedelta(hours=2), "1h"),
    "deadline": (NEW_YEAR + timedelta(hours=3), NEW_YEAR),
    "max_retries": (7, 3),
    "timeout": ("5s", 4),
    "tenant": ("acme", "other"),
    "idempotency_key": ("k", "l"),
    "unique_key": ("u", "v"),
    "order_key": ("o", "p"),
    "lane": ("fast", "slow"),
    "meta": ({"a": 1, "b": 2}, {"a": 2}),
}


@pytest.mark.parametrize("option", OPTIONS)
async def test_options_are_compared_as_they_were_given(t, option):
    given, other = OPTIONS[option]
    asked: Any = {option: given}
    await send.options(**asked).enqueue("ada")
    t.assert_enqueued("email.send", **asked)
    with pytest.raises(AssertionError, match=option):
        t.assert_enqueued("email.send", **{option: other})


async def test_part_of_the_meta_is_enough(t):
    await send.options(meta={"a": 1, "b": 2}).enqueue("ada")
    t.assert_enqueued("email.send", meta={"b": 2})


async def test_dependencies_and_parents_are_compared_by_handle_or_id(t):
    first = await send.enqueue("ada")
    await send.options(depends_on=[first]).enqueue("eve")
    t.assert_enqueued("email.send", depends_on=first)
    t.assert_enqueued("email.send", depends_on=[first.id])
    with pytest.raises(AssertionError, match="depends_on"):
        t.assert_enqueued("email.send", depends_on="other")
    t.refute_enqueued("email.send", parent=first)


async def test_values_that_json_writes_as_text_may_be_given_as_they_were(t):
    await send.enqueue("ada", parts=NEW_YEAR)
    t.assert_enqueued("email.send", payload={"parts": NEW_YEAR})


async def test_field_that_jobs_do_not_have_is_refused(t):
    with pytest.raises(InvalidOption, match=r"Did you mean queue\?"):
        t.assert_enqueued("email.send", queu="mail")


# ── history ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_history_tells_of_each_job_and_name_in_order(t):
    first, second = await send.enqueue("ada"), await q.enqueue("elsewhere")
    await t.drain()
    assert t.history.of(first).events == ["enqueued", "started", "completed"]
    assert t.history.of(second.id).events == t.history.of("elsewhere").events == ["enqueued", "snoozed"]
    assert [each.job_id for each in t.history[:2]] == [first.id, second.id]
    assert (t.history[0].name, t.history[0].queue, t.history[0].at) == ("email.send", "mail", NEW_YEAR)
    assert len(t.history) == len(list(t.history)) == 5


async def test_history_can_be_read(t):
    assert str(t.history) == "nothing happened"
    job = await send.enqueue("ada")
    await t.advance("1h")
    assert str(t.history.of(job)).splitlines()[1] == f"+0:00:00 started 'email.send' {job.id} attempt=1"
    assert repr(t.history) == "<History of 3 moments>"

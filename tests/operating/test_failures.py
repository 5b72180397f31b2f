"""Dead jobs grouped by what killed them, and the filter of each group, on jobs whose errors hold just anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from psyqueue import InvalidOption, PsyQueue
from psyqueue.backend import Op, Session
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.backend.compose import dequeue, nack
from psyqueue.backend.outcomes import Dead
from psyqueue.backends import memory
from psyqueue.clock import to_datetime
from psyqueue.ids import new_token
from psyqueue.operating.failures import GIST_CHARS_MAX, FailureGroup, Failures, failure_groups, fingerprint
from psyqueue.operating.query import Term, check_terms
from psyqueue.operating.selection import Selection


class Deadly:
    """A store in which jobs die when they are told to, of whatever they are told."""

    def __init__(self, queue: PsyQueue) -> None:
        self.queue = queue
        self.backend: Any = queue.get_exposed("backend")
        self.session = new_token()
        self._turn = 0

    def _op(self) -> Op:
        self._turn += 1
        return Op(self.session, 1, self._turn)

    async def open(self) -> None:
        await self.backend.open_session(
            self._op(), Session(id=self.session, worker="w", queues=("q",), lease_ms=60_000)
        )

    async def die(self, *errors: dict[str, Any], name: str = "n", reason: str = "exhausted", queue: str = "q") -> str:
        """A job that failed with these, one after the other; its id."""
        job_id = (await self.queue.enqueue(name, queue=queue)).id
        for number, error in enumerate(errors, start=1):
            (run,) = await dequeue(self.backend, self._op(), self.session, queue)
            body = msgspec.json.encode(error)
            if number < len(errors):
                await nack(self.backend, self._op(), self.session, run, body)
                continue
            dead = Dead(job_id=run.id, completion_token=run.completion_token, error=body, reason=reason)
            await self.backend.settle(self._op(), self.session, (dead,))
        return job_id

    async def groups(self, text: str = "", jobs_max: int = 1_000) -> Failures:
        return await failure_groups(self.queue, check_terms(text), jobs_max=jobs_max)

    async def found(self, where: str) -> set[str]:
        page, _ = await (await Selection.open(self.queue, check_terms(where))).page(ITEMS_MAX, None)
        return {view.id for view in page}


@asynccontextmanager
async def opened() -> AsyncIterator[Deadly]:
    async with PsyQueue().use(memory(test_clock=True)) as queue:
        made = Deadly(queue)
        await made.open()
        yield made


@pytest.fixture
async def deadly():
    async with opened() as made:
        yield made


def failed(message: str, kind: str = "ValueError") -> dict[str, Any]:
    return {"type": kind, "message": message}


def only(found: Failures) -> FailureGroup:
    (group,) = found.groups
    return group


# ── fingerprints ──────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("message", "left"),
    [
        ("cannot reach smtp-3:587", "cannot reach smtp-*:*"),
        ("took 3.5 s of 10,000", "took * s of *"),
        ("is -5, not 1e-05", "is *, not *"),
        ("error_code_4012 in v2beta", "error_code_* in v*beta"),
        ("rows ١٢", "rows *"),
        ("10.0.0.1:8080 refused", "*:* refused"),
        ("ids [1, 2, 3] of 4; 5", "ids [*] of *"),
        ("commit deadbeefcafe12 is gone", "commit * is gone"),
        ("blob e3b0c44298fc1c149afbf4c8996fb924", "blob *"),
        ("a deadbeef facade defaced", "a deadbeef facade defaced"),
        ("order 550E8400-e29b-41d4-a716-446655440000!", "order *!"),
        ("ulid 01ARZ3NDEKTSV4RRFFQ69G5FAV", "ulid *"),
        ("<Order object at 0x7f8a9bcdef>", "<Order object at *>"),
        ("no user ann.b+x@mail.example.org here", "no user * here"),
        ("'customer_42'", "*"),
        ("no field \"to\" in b'ab'", "no field * in *"),
        (r"'it\'s' is not 'it's'", "* is not *"),
        ("can't reach it, won't retry", "can't reach it, won't retry"),
        ("cannot read 'one\ntwo'", "cannot read *"),
        ("{'a': 1}", "{*: *}"),
        ("Zürich 日本 🙂 nicht erreichbar", "Zürich 日本 🙂 nicht erreichbar"),
        ("\x1b[31mred\x07", "*[*mred*"),
        ("tab\there \udcff", "tab*here *"),
        ("first\nsecond", "first*"),
        ("\n\n  first\r\nsecond", "*first*"),
        ("only\n", "only"),
        ("* ? **", "* ? *"),
        ("?", "?"),
        ("***", "*"),
    ],
)
def test_what_varies_is_taken_out_of_a_message(message, left):
    assert fingerprint(failed(message)) == f"ValueError: {left}"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ({}, ""),
        ({"type": "", "message": ""}, ""),
        ({"type": "KeyError", "message": ""}, "KeyError"),
        ({"type": "KeyError", "message": " \n\t"}, "KeyError"),
        ({"type": "KeyError"}, "KeyError"),
        ({"message": "lost 3"}, "lost *"),
        ({"type": "boto.S3Error", "message": "x"}, "boto.S3Error: x"),
        ({"type": "a\nb", "message": "x"}, "a*b: x"),
        ({"type": 5, "message": None}, "5: None"),
        ({"type": "A", "message": "b", "traceback": "secret", "note": "secret"}, "A: b"),
    ],
)
def test_errors_of_every_shape_have_a_fingerprint(error, text):
    assert fingerprint(error) == text


def test_what_is_too_long_is_cut():
    text = fingerprint(failed("word " * 400, "Kind" * 100))
    assert len(text) == 2 * GIST_CHARS_MAX + len(": ")
    assert text.endswith("*")
    # What is cut away is no part of it, and what varies before that moves nothing.
    assert fingerprint(failed("9 " + "word " * 400)) == fingerprint(failed("1000 " + "word " * 300))


NASTY = st.sampled_from(
    [*"*?<>=:,;'\"\\ \t\n\r\x1b\x85\u2028\u00a0@.-0x9", "''", '""', "12", "0xff", "a@b.c", "deadbeef01", "\\'"]
)
TEXTS = st.lists(NASTY | st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=40).map("".join)
LONG = TEXTS.map(lambda text: text * 30)


@given(TEXTS | LONG, TEXTS)
def test_a_fingerprint_is_one_short_printable_line_and_stays_what_it_is(message, kind):
    text = fingerprint(failed(message, kind))
    assert text.isprintable()
    assert len(text) <= 2 * GIST_CHARS_MAX + len(": ")
    assert fingerprint(failed(message, kind)) == text


# ── filters ───────────────────────────────────────────────────────────────────────────────────────────────────────────
NAMES = TEXTS.map(lambda text: "".join(ch for ch in text if ch.isprintable())[:200]).filter(bool)
DEATHS = st.tuples(
    NAMES, TEXTS | LONG, st.sampled_from(["ValueError", "a.B2", ""]) | TEXTS, TEXTS | st.just("exhausted")
)


@given(st.lists(DEATHS, min_size=1, max_size=4))
@example([("n", "12", "", "x")])
@example([('a "b" \\', ">= 3 'x", ">", "<gone 4")])
@example([("n", "\n said, \u2028x", "T: U", " \n"), ("n", "", "", "")])
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_the_filter_of_a_group_can_be_read_and_finds_all_of_it(deaths):
    async def run() -> None:
        async with opened() as deadly:
            ids = [await deadly.die(failed(text, kind), name=name, reason=why) for name, text, kind, why in deaths]
            found = await deadly.groups()
            members = [only(await deadly.groups(f'id:"{job_id}"')).where for job_id in ids]
            assert set(members) == {group.where for group in found.groups}
            assert sum(group.count for group in found.groups) == found.looked == len(ids)
            for job_id, where in zip(ids, members, strict=True):
                assert job_id in await deadly.found(where), where

    asyncio.run(run())


async def test_the_filter_of_a_group_is_for_a_shell_and_for_people(deadly):
    await deadly.die(failed('can\'t reach smtp-3:587, it said "no" to us', "ConnectionError"), name="email")
    group = only(await deadly.groups())
    assert (
        group.where
        == 'status:dead name:"email" reason:"exhausted" error:ConnectionError:?can?t?reach?smtp-*:*??it?said?*?to?us'
    )
    assert "'" not in group.where


async def test_a_filter_finds_no_other_name_and_no_other_reason(deadly):
    mine = await deadly.die(failed("a 1"), name="n*")
    await deadly.die(failed("a 2"), name="nn")
    await deadly.die(failed("a 3"), name="n*", reason="fatal")
    await deadly.die(failed("b 4"), name="n*")
    groups = {(group.name, group.reason, group.error): group for group in (await deadly.groups()).groups}
    assert len(groups) == 4
    assert await deadly.found(groups["n*", "exhausted", "ValueError: a *"].where) == {mine}


async def test_a_filter_finds_what_failed_so_before_and_the_group_does_not_count_it(deadly):
    one = await deadly.die(failed("timeout 1"))
    two = await deadly.die(failed("timeout 2"), failed("refused"))
    first, second = sorted((await deadly.groups()).groups, key=lambda group: group.error)
    assert (first.error, second.error) == ("ValueError: refused", "ValueError: timeout *")
    assert (second.count, await deadly.found(second.where)) == (1, {one, two})


# ── groups ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_groups_say_how_many_where_and_when(deadly):
    began_ms = (await deadly.backend.info()).now_ms
    ids = []
    for number in range(3):
        ids.append(await deadly.die(failed(f"smtp-{number} refused"), name="email", queue="zq" if number == 1 else "q"))
        await deadly.backend.advance_clock(1_000)
    group = only(await deadly.groups())
    assert (group.name, group.reason, group.error) == ("email", "exhausted", "ValueError: smtp-* refused")
    assert (group.count, group.queues, group.example_id) == (3, ("q", "zq"), ids[2])
    assert (group.first_at, group.last_at) == (to_datetime(began_ms), to_datetime(began_ms + 2_000))


async def test_the_largest_group_comes_first_then_the_latest(deadly):
    for text in ("old", "many", "many", "new"):
        await deadly.backend.advance_clock(1_000)
        await deadly.die(failed(text))
    assert [group.error for group in (await deadly.groups()).groups] == [
        f"ValueError: {t}" for t in ("many", "new", "old")
    ]


async def test_reasons_that_vary_are_one_group(deadly):
    ids = {await deadly.die(failed("x"), reason=f"customer {number} left\nfor good") for number in range(3)}
    group = only(await deadly.groups())
    assert (group.reason, group.count) == ("customer * left*", 3)
    assert await deadly.found(group.where) == ids


async def test_a_job_that_never_ran_is_grouped_by_its_reason():
    q = PsyQueue().use(memory())
    q.handle("work", lambda: None)
    async with q.testing() as t:
        await q.pause("work")
        job = await q.enqueue("work", expires="10m")
        await t.advance("1h")
        group = only(await failure_groups(q, (), jobs_max=10))
    assert (group.reason, group.error, group.example_id) == ("expired", "", job.id)
    assert group.where == 'status:dead name:"work" reason:"expired"'


async def test_only_dead_jobs_that_fit_are_looked_at(deadly):
    await deadly.queue.enqueue("n", queue="pending")
    await deadly.die(failed("a"), name="one")
    await deadly.die(failed("b"), name="two")
    found = await deadly.groups("name:t*")
    assert (only(found).name, found.looked, found.is_complete) == ("two", 1, True)
    assert await deadly.groups("status:pending") == Failures(groups=(), looked=0, is_complete=True)
    with pytest.raises(InvalidOption):
        await failure_groups(deadly.queue, (Term("stat", ()),), jobs_max=1)


@pytest.mark.parametrize(
    ("jobs_max", "looked", "is_complete"), [(1, 1, False), (4, 4, False), (5, 5, True), (6, 5, True)]
)
@pytest.mark.parametrize("page", [1, 2, 500])
async def test_no_more_than_the_bound_are_looked_at(deadly, monkeypatch, page, jobs_max, looked, is_complete):
    monkeypatch.setattr("psyqueue.operating.failures.ITEMS_MAX", page)
    for number in range(5):
        await deadly.die(failed(f"x {number}"))
    found = await deadly.groups(jobs_max=jobs_max)
    assert (only(found).count, found.looked, found.is_complete) == (looked, looked, is_complete)


async def test_the_bound_holds_for_a_filter_that_few_fit(deadly, monkeypatch):
    """What is looked at costs as much whether it fits or not."""
    for module in ("failures", "selection"):
        monkeypatch.setattr(f"psyqueue.operating.{module}.ITEMS_MAX", 1)
    for name in ("one", "one", "one", "two"):
        await deadly.die(failed("x"), name=name)
    few = await deadly.groups("name:t*", jobs_max=2)
    assert (few.groups, few.looked, few.is_complete) == ((), 0, False)
    assert (await deadly.groups("name:t*", jobs_max=4)).looked == 1

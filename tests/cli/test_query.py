"""The language of filters: what each condition means, on every store, and what is told of one that means nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psyqueue import PsyQueue
from psyqueue.backend import Change
from psyqueue.cli import output
from psyqueue.errors import InvalidOption
from psyqueue.operating.pace import Pace
from psyqueue.operating.query import FIELDS, Term, Value, check_terms
from psyqueue.operating.query.syntax import read_terms
from psyqueue.operating.selection import Selection
from support.source import ROOT


# ── syntax ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", ()),
        ("   ", ()),
        ("status:dead", (Term("status", (Value("dead"),), at=1),)),
        ("STATUS:dead", (Term("status", (Value("dead"),), at=1),)),
        (
            "name:a,b  -queue:c",
            (Term("name", (Value("a"), Value("b")), at=1), Term("queue", (Value("c"),), is_negated=True, at=11)),
        ),
        ('error:"timed out, twice"', (Term("error", (Value("timed out, twice", is_literal=True),), at=1),)),
        (r'text:"a \"b\" \\ c"', (Term("text", (Value(r'a "b" \ c', is_literal=True),), at=1),)),
        ("age:>1h", (Term("age", (Value("1h"),), ">", at=1),)),
        ("age:>=1h", (Term("age", (Value("1h"),), ">=", at=1),)),
        ("hello", (Term("text", (Value("hello"),), at=1),)),
        ('"a:b c"', (Term("text", (Value("a:b c", is_literal=True),), at=1),)),
        ("meta.Plan:gold", (Term("meta.Plan", (Value("gold"),), at=1),)),
        ("created:>2026-12-01T09:00:00Z", (Term("created", (Value("2026-12-01T09:00:00Z"),), ">", at=1),)),
        ('lane:""', (Term("lane", (Value("", is_literal=True),), at=1),)),
    ],
)
def test_a_text_is_read_as_terms(text, terms):
    assert read_terms(text) == terms


@pytest.mark.parametrize(
    ("value", "text", "is_match"),
    [
        (Value("email.*"), "email.send", True),
        (Value("email.*"), "emailXsend", False),
        (Value("email.*"), "my email.send", False),
        (Value("email.*", is_literal=True), "email.send", False),
        (Value("email.*", is_literal=True), "email.*", True),
        (Value("?at"), "cat", True),
        (Value("?at"), "at", False),
        (Value("[ab]"), "[ab]", True),
        (Value("a*"), "a\nb", True),
    ],
)
def test_patterns_stand_for_whole_values_and_quotes_take_them_by_the_word(value, text, is_match):
    assert value.matches(text) is is_match


@given(st.text("ab*?", max_size=8), st.text("abA", max_size=12))
@settings(max_examples=500)
def test_a_pattern_finds_what_a_plain_one_would(pattern, text):
    plain = "".join({"*": ".*", "?": "."}.get(each, each) for each in pattern)
    assert Value(pattern).matches(text) is bool(re.fullmatch(plain, text))
    assert Value(pattern).is_in(text) is bool(re.search(plain, text, re.IGNORECASE))


def test_a_pattern_of_many_stars_takes_no_time_on_a_text_that_nearly_fits():
    pattern, text = Value("x*" * 20 + "y"), "x1 " * 600
    assert not pattern.matches(text)
    assert not pattern.is_in(text)
    assert pattern.is_in(text + "y")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stat:dead", "filter='stat:dead': there is no field 'stat' (character 1). There are id, queue, status, "),
        ("name:x  stat:dead", "there is no field 'stat' (character 9)"),
        ("https://example.org", "Text with a colon belongs in quotes"),
        ("status:ded", "there is no status 'ded' (character 1). There are waiting, scheduled, "),
        ("status:>dead", "status has no order, so > means nothing (character 1)"),
        ('name:x error:"timed', "filter='error:\"timed': this quote is never closed (character 14)"),
        ("name:", "filter='name:': a value is missing (character 6)"),
        ("name:a,", "a value is missing (character 8)"),
        ('name:"a"b', "a space belongs between two conditions (character 9)"),
        ("attempt:>many", "'many' is no whole number (character 1)"),
        ("attempt:>1,2", "> takes one value"),
        ("-attempt:>1", "an order is not negated: turn its sign round"),
        ("age:1h", "age is compared (character 1). Write age:>1h or <"),
        ("age:>soon", "'soon' is no duration (character 1). Write e.g. 30s, 5m, 24h, 7d"),
        ("created:>2026-12-01", "Write e.g. created:>2026-12-01T09:00:00Z, with its zone"),
        ("completed:<then", "'then' is no instant"),
        ("text:\udcff", "is no text: its bytes are not UTF-8"),
    ],
)
def test_what_means_nothing_is_told_with_its_place(text, told):
    with pytest.raises(InvalidOption) as caught:
        check_terms(text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_filter_is_one_line_and_wrong_use_for_every_command_that_takes_one(cli):
    cli.enqueue("mail")
    for command in (["jobs", "ls"], ["dead", "ls"], ["dead", "groups"], ["dead", "replay"], ["dead", "purge"]):
        answer = cli.call(*command, "stat:dead")
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1), answer
    for verb in ("retry", "cancel", "rm"):
        assert cli.call("jobs", verb, "--where", "age:1h").code == 2
    assert cli.call("jobs", "ls", "stat:dead", "--json").json["error"]["code"] == "INVALID_OPTION"


def test_every_field_is_documented():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = page.split("\n## Filters\n")[1].split("\n## ")[0]
    for field in (*FIELDS, "meta.KEY"):
        assert f"`{field}`" in section, field


# ── meaning ───────────────────────────────────────────────────────────────────────────────────────────────────────────
MAIL = {"tenant": "acme", "meta": {"plan": "gold", "seats": 5}}


@pytest.fixture
def filled(stored):
    """Jobs called one to six, and a dead one that is called by its number in `ids`."""
    stored.enqueue("email.send", {"to": "ann"}, id="one", queue="mail", **MAIL)
    stored.enqueue("email.send", {"to": "bob"}, id="two", queue="mail-bulk", lane="slow", priority=7)
    stored.enqueue("email.bounce", None, id="three", queue="mail", delay="1h", order_key="o", tenant="b")
    stored.enqueue("report", {"note": "acme"}, id="four", queue="reports", unique_key="u")
    stored.enqueue("report", None, id="five", queue="reports", depends_on="four")
    (dead,) = stored.make_dead("fails", text="Timed OUT after 3 s")
    return stored, {"dead": dead}


def found(cli: Any, *words: str) -> set[str]:
    return {item["id"] for item in cli.json("jobs", "ls", *words)["items"]}


def test_each_condition_means_the_same_on_every_store(filled):
    cli, names = filled
    dead = names["dead"]
    every = {"one", "two", "three", "four", "five", dead}
    expected = {
        "": every,
        "id:one": {"one"},
        "id:one,two,nobody": {"one", "two"},
        "id:t*": {"two", "three"},
        "id:one,two id:two,three": {"two"},
        "queue:mail": {"one", "three"},
        "queue:mail*": {"one", "two", "three"},
        "queue:mail* -queue:mail": {"two"},
        "queue:none*": set(),
        "queue:mail queue:reports": set(),
        "status:dead": {dead},
        "status:dead,scheduled": {dead, "three"},
        "-status:pending,waiting": {dead, "three"},
        "status:dead status:pending": set(),
        "status:*ed": {"three"},
        "name:email.send": {"one", "two"},
        "name:email.*": {"one", "two", "three"},
        'name:"email.*"': set(),
        "name:email.* -name:*.send": {"three"},
        "name:email.send name:report": set(),
        "lane:slow": {"two"},
        'lane:"" queue:reports': {"four", "five"},
        "tenant:acme": {"one"},
        "tenant:a*": {"one"},
        "tenant:acme,b": {"one", "three"},
        "-tenant:acme queue:mail": {"three"},
        "acme": {"one", "four"},
        "text:bob": {"two"},
        "-text:acme queue:mail,reports": {"three", "five"},
        "text:acme text:note": {"four"},
        'error:"timed out"': {dead},
        "error:value*3": {dead},
        'error:"timed*"': set(),
        "-error:timed status:dead": set(),
        "reason:exhausted": {dead},
        "reason:ex*": {dead},
        "unique:u": {"four"},
        "order:o": {"three"},
        "meta.plan:gold": {"one"},
        "meta.seats:5": {"one"},
        "meta.plan:silver": set(),
        "attempt:1": {dead},
        "attempt:>0": {dead},
        "attempt:<1 queue:mail": {"one", "three"},
        "-attempt:0": {dead},
        "lost:0 status:dead": {dead},
        "priority:>=7": {"two"},
        "age:<1h": every,
        "age:>1h": set(),
        "created:>2020-01-01T00:00:00Z created:<=2100-01-01T00:00:00Z": every,
        "created:<2020-01-01T00:00:00Z": set(),
        "ended:<1h": {dead},
        "ended:>1h": set(),
        "completed:>2020-01-01T00:00:00Z": {dead},
        "completed:<2020-01-01T00:00:00Z": set(),
        "completed:<2100-01-01T00:00:00Z": {dead},
        "running:<1h": set(),
        "worker:*": set(),
        "parent:*": set(),
        "schedule:*": set(),
    }
    answers = {text: found(cli, text) if '"' in text else found(cli, *text.split()) for text in expected}
    assert answers == expected


def test_jobs_that_run_are_found_by_their_worker_and_how_long(stored):
    job_id = stored.make_active("slow")
    assert found(stored, "worker:w", "running:<1h") == {job_id}
    assert found(stored, "running:>1h") == set()


def test_pages_of_what_is_sorted_out_here_lose_nothing(stored):
    wanted = {stored.enqueue("email.x" if number % 3 else "other", queue="q") for number in range(9)}
    wanted -= found(stored, "name:other")
    seen: list[str] = []
    cursor: list[str] = []
    while True:
        page = stored.json("jobs", "ls", "name:email.*", "--limit", "2", *cursor)
        assert len(page["items"]) <= 2
        seen += [item["id"] for item in page["items"]]
        if page["cursor"] is None:
            break
        cursor = ["--cursor", page["cursor"]]
    assert len(seen) == len(wanted) == 6
    assert set(seen) == wanted


def test_a_condition_may_begin_with_a_dash_and_an_option_is_still_one(cli):
    cli.enqueue("mail", id="one", queue="q")
    cli.enqueue("mail", {"x": "-queue:q"}, id="two", queue="r")
    assert found(cli, "-queue:q", "--limit", "5") == {"two"}
    assert found(cli, "--text", "-queue:q") == {"two"}
    behind = cli.call("--json", "jobs", "ls", "--", "-queue:r").json
    assert [item["id"] for item in behind["items"]] == ["one"]
    assert "No such option" in cli.call("jobs", "ls", "--lmit", "5").err


def test_options_and_conditions_hold_together(stored):
    stored.enqueue("mail", id="a*", queue="q")
    stored.enqueue("mail", id="ab", queue="r")
    assert found(stored, "name:ma*", "--queue", "q") == {"a*"}
    assert found(stored, "--queue", "q", "--queue", "r") == {"a*", "ab"}
    assert found(stored, "--name", "ma*") == set(), "an option is a plain name"


# ── many at once ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_jobs_are_cancelled_and_deleted_by_a_filter(filled):
    cli, names = filled
    dead = names["dead"]
    assert cli.json("jobs", "cancel", "--where", "name:email.*", "--dry-run") == {"dry_run": True, "matching": 3}
    refused = cli.call("jobs", "cancel", "--where", "name:email.*")
    assert (refused.code, "Cancel 3 jobs? Give --yes to do it" in refused.err) == (2, True)
    done = cli.json("jobs", "cancel", "--where", "name:email.*", "--yes")
    assert done == {"dry_run": False, "cancelled": 3, "skipped": 0}
    assert found(cli, "status:cancelled") == {"one", "two", "three"}
    assert cli.json("jobs", "rm", "--where", "status:cancelled queue:mail", "--yes")["deleted"] == 2
    assert cli.json("jobs", "rm", "--where", "", "--dry-run")["matching"] == 2, "only ended ones"
    assert cli.json("jobs", "rm", "--where", "status:pending", "--yes")["deleted"] == 0
    assert cli.json("jobs", "retry", "--where", "error:timed", "--yes")["retried"] == 1
    assert cli.show(dead)["status"] == "pending"


def test_what_cannot_be_changed_is_counted_apart(stored):
    parent = stored.enqueue("p")
    stored.call("jobs", "cancel", parent)
    stored.enqueue("kept", id="kept")
    (dead,) = stored.make_dead("u")
    live = stored.enqueue("child", depends_on="kept")
    stored.call("jobs", "cancel", "kept")
    assert stored.show(live)["status"] == "cancelled"
    done = stored.json("jobs", "rm", "--where", "", "--yes")
    assert (done["deleted"], done["skipped"]) == (4, 0)
    assert found(stored) == set()
    assert dead


def test_dead_jobs_are_replayed_at_a_pace_by_a_filter(stored):
    stored.make_dead("mail", "mail", "mail", text="timeout")
    stored.make_dead("other", text="broken")
    slow = stored.json("dead", "replay", "error:timeout", "--rate", "100/s", "--yes")
    assert (slow["replayed"], len(stored.json("dead", "ls")["items"])) == (3, 1)
    assert stored.json("dead", "replay", "--rate", "600/m", "--yes")["replayed"] == 1
    assert stored.json("dead", "purge", "name:*", "--yes")["purged"] == 0


@pytest.mark.parametrize("rate", ["fast", "0/s", "10", "10/d", "-1/s"])
def test_a_rate_that_is_none_is_told(cli, rate):
    cli.enqueue("mail")
    answer = cli.call("dead", "replay", "--rate", rate, "--yes")
    assert answer.code == 2
    assert "is no rate. Write e.g. 10/s, 600/m, 100/h" in answer.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["cancel"], "name the jobs by their ids, or by --where FILTER; --where '' means all"),
        (["retry", "x", "--where", "name:y"], "--where goes with --where, not with ids"),
        (["rm", "x", "--dry-run"], "--dry-run goes with --where, not with ids"),
    ],
)
def test_ids_and_a_filter_are_two_ways(cli, arguments, told):
    cli.enqueue("mail")
    answer = cli.call("jobs", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert told in answer.err


def test_a_walk_through_many_jobs_is_announced(cli, monkeypatch):
    for name in ("a", "b", "c"):
        cli.enqueue(name, queue="q")
    monkeypatch.setattr("psyqueue.operating.selection.SAID_FROM", 3)
    told = cli.call("jobs", "ls", "name:a*").err
    assert (
        told
        == "psyqueue: looking through up to 3 jobs; name: here, not in the store. status: and queue: make it shorter\n"
    )
    assert "looking through up to 3 jobs. " in cli.call("jobs", "ls", "text:x").err
    assert cli.call("jobs", "ls", "name:a*", "status:dead").err == ""
    assert cli.call("jobs", "ls", "status:pending").err == ""


@pytest.mark.parametrize("text", ["queue:mail", "error:broken"], ids=["by the store", "here"])
async def test_what_dies_again_while_a_replay_goes_on_is_left(stored, text):
    """Between two steps of the walk every job that was replayed runs, and dies once more."""
    async with PsyQueue.from_url(stored.url) as q:

        async def fails() -> None:
            raise ValueError("broken")

        q.handle("mail", fails, max_retries=0)
        for _ in range(3):
            await q.enqueue("mail", max_retries=0)
        while await q.process_next("mail"):
            pass
        selection = await Selection.open(q, check_terms(text), ("dead",))

        class Deadly(Pace):
            async def keep(self, count: int) -> None:
                while await q.process_next("mail"):
                    pass

        pace = Deadly(1 / 1000)
        assert pace.step == 1
        changed = await selection.change(Change(kind="replay"), pace)
        assert changed.count == 3
        assert [view.generation for view in await q.jobs()] == [1, 1, 1]


async def test_who_counts_and_then_changes_is_told_once(cli, monkeypatch, capsys):
    monkeypatch.setattr("psyqueue.operating.selection.SAID_FROM", 1)
    async with PsyQueue.from_url(cli.url) as q:
        await q.enqueue("mail")
        selection = await Selection.open(q, check_terms("text:mail"), say=output.say)
        assert await selection.count() == 1
        assert (await selection.change(Change(kind="cancel"))).count == 1
    assert capsys.readouterr().err.count("looking through up to 1 job") == 1


# ── however it is written ─────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("a*" + "a" * 490 + "b*z", "a" * 8_000),
        ("*" * 500, "a" * 8_000),
        ("*" + "?" * 450 + "z", "a" * 8_000),
        ("*a" * 240 + "*b", "a" * 8_000),
        ("?*" * 240 + "b", "a" * 8_000),
    ],
)
def test_a_pattern_takes_no_longer_than_its_text_and_itself(pattern, text):
    """On a text that nearly fits, an expression of `re` thinks for minutes."""
    for _ in range(200):
        assert Value(pattern).matches(text) == Value(pattern).is_in(text) == (set(pattern) == {"*"})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a " * 51, "more than 50 conditions"),
        ("name:" + ",".join("a*" for _ in range(21)), "more than 20 values with * or ?"),
        ("name:" + "a" * 500 + "*", "a value with * or ? of more than 500 characters"),
        ("id:" + "a" * 30_000, "has more than 30,000 characters"),
    ],
)
def test_a_filter_has_its_bounds(text, told):
    with pytest.raises(InvalidOption, match=re.escape(told)):
        check_terms(text)


def test_many_plain_values_are_fine():
    (term,) = check_terms("id:" + ",".join(f"01a21e16-dcee-77a6-a87c-{number:012}" for number in range(500)))
    assert len(term.values) == 500

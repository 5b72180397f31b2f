"""`psyqueue dead groups`: what killed them, how often, and the way back for just those. On every store."""

from __future__ import annotations

from typing import Any

import pytest

from psyqueue import PsyQueue
from support.waiting import wait_until


@pytest.fixture
def failing(stored):
    """Two `email` that could not reach a server, one without an address, and a `report`; their ids in this order."""
    ids = [
        *(stored.make_dead("email", text=f"cannot reach smtp-{number}:587, sorry")[0] for number in (1, 2)),
        *stored.make_dead("email", text="no address in 'x'"),
        *stored.make_dead("report", text='can\'t say "why"'),
    ]
    return stored, ids


def wheres(cli: Any, *words: str) -> dict[str, str]:
    return {item["error"]: item["where"] for item in cli.json("dead", "groups", *words)["items"]}


def test_dead_jobs_are_grouped_by_what_killed_them(failing):
    cli, ids = failing
    found = cli.json("dead", "groups")
    assert (found["looked"], found["complete"], [item["count"] for item in found["items"]]) == (4, True, [2, 1, 1])
    died = [cli.show(job_id)["completed_at"] for job_id in ids]
    assert found["items"][0] == {
        "name": "email",
        "reason": "exhausted",
        "error": "ValueError: cannot reach smtp-*:*, sorry",
        "count": 2,
        "queues": ["email"],
        "first_at": died[0],
        "last_at": died[1],
        "example_id": ids[1],
        "where": 'status:dead name:"email" reason:"exhausted" error:ValueError:?cannot?reach?smtp-*:*??sorry',
    }


def test_just_one_group_is_run_again(failing):
    cli, ids = failing
    where = wheres(cli)["ValueError: cannot reach smtp-*:*, sorry"]
    assert cli.json("dead", "replay", where, "--dry-run")["matching"] == 2
    assert cli.json("dead", "replay", where, "--yes")["replayed"] == 2
    assert {item["id"] for item in cli.json("dead", "ls")["items"]} == set(ids[2:])
    assert cli.json("dead", "purge", wheres(cli)["ValueError: can't say *"], "--yes")["purged"] == 1
    assert sorted(wheres(cli)) == ["ValueError: no address in *"]


def test_people_see_a_table_and_nothing_else(failing):
    cli, _ = failing
    answer = cli.call("dead", "groups")
    assert (answer.code, answer.err) == (0, "")
    head, first, *others = (line.split() for line in answer.out.splitlines())
    assert head == ["COUNT", "NAME", "DIED", "OF", "QUEUES", "LAST"]
    assert first[:8] == ["2", "email", "ValueError:", "cannot", "reach", "smtp-*:*,", "sorry", "email"]
    assert len(others) == 2


def test_where_no_run_failed_the_reason_is_told(cli):
    job_id = cli.enqueue("mail", expires="1ms", queue="a")

    async def end_what_expired(queue: PsyQueue) -> None:
        await queue.get_exposed("backend").promote(("a",), 10)

    def is_dead() -> bool:
        cli.with_queue(end_what_expired)
        return bool(cli.show(job_id)["status"] == "dead")

    assert wait_until(is_dead)
    (line,) = cli.call("dead", "groups").out.splitlines()[1:]
    assert line.split()[:4] == ["1", "mail", "expired", "a"]


def test_filters_options_and_the_limit_say_which(cli):
    assert cli.call("dead", "groups").code == 2, "no store is made"
    cli.make_dead("mail", "other")
    assert cli.call("dead", "groups", "name:nobody").out == "No job is dead.\n"
    for words in (["name:oth*"], ["--name", "other"], ["--queue", "other"], ["-name:mail"]):
        assert [item["name"] for item in cli.json("dead", "groups", *words)["items"]] == ["other"], words
    found = cli.json("dead", "groups", "--limit", "1")
    assert (len(found["items"]), found["looked"], found["complete"]) == (1, 2, True)


def test_the_bound_is_told_where_it_was_reached(cli, monkeypatch):
    monkeypatch.setattr("psyqueue.cli.dead.GROUPED_MAX", 2)
    cli.make_dead("a", "b")
    assert cli.call("dead", "groups").err == ""
    cli.make_dead("c")
    answer = cli.call("dead", "groups", "--json")
    assert answer.err == "psyqueue: only the first 2 dead jobs were looked at. queue: chooses others\n"
    assert (answer.json["looked"], answer.json["complete"]) == (2, False)


def test_what_an_error_says_cannot_steer_a_terminal(cli):
    cli.make_dead("mail", text="\x1b[31mred\x07")
    answer = cli.call("dead", "groups")
    assert "ValueError: *[*mred*" in answer.out
    assert not {"\x1b", "\x07"} & set(answer.out)

"""`psyqueue circuits`: what it answers to people and to programs, on every store."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from psyqueue import PsyQueue
from psyqueue.plugins import CircuitBreaker, CircuitOpen


def in_an_application(url: str, name: str) -> bool:
    """Whether a run of an application gets through, which makes its circuit known."""

    async def ask() -> bool:
        breaker = CircuitBreaker(name)
        async with PsyQueue.from_url(url).use(breaker):
            try:
                async with breaker.call():
                    return True
            except CircuitOpen:
                return False

    return asyncio.run(ask())


@pytest.fixture
def office(stored: Any) -> Any:
    """A store with two circuits."""
    for name in ("payments", "mail"):
        assert in_an_application(stored.url, name)
    return stored


def test_ls_shows_all_that_runs_came_to(office):
    closed = [{"name": name, "state": "closed", "until": None} for name in ("mail", "payments")]
    assert office.json("circuits", "ls")["items"] == closed
    told = office.call("circuits", "ls").out
    assert told.splitlines()[1].split() == ["mail", "closed", "-"]


def test_open_and_close_hold_for_all_processes(office):
    opened = office.json("circuits", "open", "payments", "--for", "10m")
    until = datetime.fromisoformat(opened["until"])
    assert (opened["name"], opened["state"]) == ("payments", "open")
    assert timedelta(minutes=9) < until - datetime.now(UTC) <= timedelta(minutes=11)
    assert office.json("circuits", "ls")["items"][1] == opened
    assert not in_an_application(office.url, "payments")
    assert in_an_application(office.url, "mail")
    assert "closed" in office.call("circuits", "close", "payments").out
    assert office.json("circuits", "close", "payments")["state"] == "closed"
    assert in_an_application(office.url, "payments")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("open", "paymnets", "--for", "1m"), 1, "no run came to a circuit 'paymnets' yet"),
        (("close", "paymnets"), 1, "`psyqueue circuits ls` lists those that are there"),
        (("open", "payments"), 2, "Missing option '--for'"),
        (("open", "payments", "--for", "soon"), 2, "option --for='soon': is not a duration"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(cli, arguments, code, told):
    assert in_an_application(cli.url, "payments")
    answer = cli.call("circuits", *arguments)
    assert (answer.code, answer.out) == (code, "")
    assert told in answer.err
    assert "Traceback" not in answer.err


def test_a_store_without_circuits_has_none_and_one_that_is_not_there_is_not_made(cli):
    answer = cli.call("circuits", "ls", "--backend", "sqlite:./none.db")
    assert answer.code == 2
    assert not (cli.folder / "none.db").exists()
    cli.enqueue("mail")
    assert cli.call("circuits", "ls").out == "There are no circuits.\n"

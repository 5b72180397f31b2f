"""`psyqueue workflows`: what it answers to people and to programs."""

from __future__ import annotations

import sys

import pytest

APP = """
import asyncio, pathlib

from psyqueue import PsyQueue
from psyqueue.backends import sqlite
from psyqueue.plugins import Flow, Workflows

workflows = Workflows()
q = PsyQueue(name="office").use(sqlite(path="jobs.db")).use(workflows)


@q.handle("write", queue="office", max_retries=0)
async def write(text: str) -> str:
    if not pathlib.Path("paper").exists():
        raise RuntimeError("no paper")
    return text


async def main():
    flow = Flow("letter").add("draft", write.build("draft")).add("fair", write.build("fair"), after="draft")
    async with q:
        await workflows.enqueue(flow, id="letter-1")
        await drain()


async def drain():
    while await q.process_next("office") or await q.process_next("workflows"):
        pass


async def again():
    async with q:
        await drain()


if __name__ == "__main__":
    asyncio.run(again() if pathlib.Path("paper").exists() else main())
"""


@pytest.fixture
def office(cli):
    """A folder with a workflow that failed."""
    (cli.folder / "office.py").write_text(APP)
    assert cli.start("office.py", command=[sys.executable]).end() == 0
    return cli


def test_a_workflow_is_shown_with_its_steps(office):
    shown = office.json("workflows", "show", "letter-1")
    assert (shown["id"], shown["name"], shown["status"]) == ("letter-1", "letter", "failed")
    assert shown["reason"] == "step draft is dead: exhausted"
    assert [(step["step"], step["status"], step["job"], step["undone"]) for step in shown["steps"]] == [
        ("draft", "dead", "letter-1.draft", None),
        ("fair", "cancelled", "letter-1.fair", None),
    ]
    text = office.call("workflows", "show", "letter-1").out
    assert "step draft is dead" in text
    assert "letter-1.fair" in text


def test_a_workflow_goes_on_where_it_failed(office):
    assert office.json("workflows", "resume", "letter-1")["status"] == "running"
    (office.folder / "paper").touch()
    assert office.start("office.py", command=[sys.executable]).end() == 0
    shown = office.json("workflows", "show", "letter-1")
    assert (shown["status"], [step["status"] for step in shown["steps"]]) == ("completed", ["completed", "completed"])
    answer = office.call("workflows", "resume", "letter-1")
    assert answer.code == 1
    assert "there is nothing to resume" in answer.err


def test_a_workflow_is_cancelled(office):
    office.call("workflows", "resume", "letter-1")
    shown = office.json("workflows", "cancel", "letter-1")
    assert {step["status"] for step in shown["steps"]} == {"cancelled"}


@pytest.mark.parametrize("verb", ["show", "cancel", "resume"])
def test_what_is_not_there_is_told(office, verb):
    answer = office.call("workflows", verb, "nothing")
    assert (answer.code, answer.out) == (1, "")
    assert "'nothing'" in answer.err

"""Commands that look again and again: `top`, and `jobs tail`."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
from typing import Any

import pytest

from cli.conftest import COMMAND, LIMIT_S
from psyqueue.backend import Limits, QueueInfo, Session, SessionInfo
from psyqueue.cli.top import OTHER_SCREEN, OWN_SCREEN, frame
from psyqueue.kernel.throughput import Rates
from psyqueue.operating.queues import Snapshot, queue_lines
from support.waiting import wait_until

NO_RATES = Rates({})
COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


# ── top ───────────────────────────────────────────────────────────────────────────────────────────────────────────────
def queue(name: str, **counts: int) -> QueueInfo:
    return QueueInfo(queue=name, counts=counts, oldest_pending_at_ms=1_000, lanes=0, limits=Limits(queue=name))


def seen(*queues: QueueInfo, rates: Rates = NO_RATES, workers: tuple[SessionInfo, ...] = ()) -> Snapshot:
    return Snapshot(store="memory 1", mode="open", now_ms=61_000, rates=rates, queues=queues, sessions=workers)


def worker(*queues: str, left_ms: int = 1) -> SessionInfo:
    session = Session(id="s", worker="w", queues=queues, lease_ms=30_000)
    return SessionInfo(session=session, held=2, opened_at_ms=1_000, expires_in_ms=left_ms)


def test_rates_are_those_that_workers_tell():
    rates = Rates(
        {("mail", "completed"): 7.5, ("mail", "dead"): 1.0, ("mail", "cancelled"): 0.5, ("mail", "retried"): 3}
    )
    lines = {line.queue: line for line in queue_lines(seen(queue("mail"), queue("idle"), rates=rates))}
    assert (lines["mail"].ended_per_second, lines["mail"].dead_per_second) == (9.0, 1.0)
    assert (lines["idle"].ended_per_second, lines["idle"].dead_per_second) == (0.0, 0.0)


def test_the_busiest_queue_stands_first_with_what_it_needs():
    found = queue_lines(seen(queue("a", pending=1), queue("b", pending=1, active=5), workers=(worker("b"),)))
    assert [(line.queue, line.state, line.workers) for line in found] == [("b", "running", 1), ("a", "stalled", 0)]
    assert found[0].oldest_pending_ms == 60_000
    late = queue_lines(seen(queue("b", pending=1), workers=(worker("b", left_ms=-1),)))
    assert (late[0].state, late[0].workers) == ("stalled", 0)


def test_a_frame_fits_its_width():
    lines = frame(seen(queue("q" * 50, pending=1_234_567), workers=(worker("b"),)), width=100)
    plain = [COLOUR.sub("", line) for line in lines]
    assert max(map(len, plain)) <= 100
    assert "1,234,567 pending" in plain[1]
    assert plain[-1].split()[:3] == ["w", "open", "2"]


def test_top_is_one_document_or_one_look_on_every_store(stored):
    stored.enqueue("mail")
    stored.make_active("slow")
    document = stored.json("top")
    assert list(document) == ["store", "mode", "at", "queues", "workers"]
    lines = {line["queue"]: line for line in document["queues"]}
    assert (lines["mail"]["state"], lines["mail"]["pending"], lines["mail"]["workers"]) == ("stalled", 1, 0)
    assert (lines["slow"]["state"], lines["slow"]["active"], lines["slow"]["workers"]) == ("running", 1, 1)
    assert document["workers"][0]["held"] == 1
    told = stored.call("top").out
    assert "2 queues, 1 worker; 1 pending, 1 active, 0 dead" in told
    assert "\x1b" not in told


def test_top_lives_on_a_terminal_and_leaves_it_as_it_was(cli):
    cli.enqueue("mail")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "top", "--backend", cli.url, "--interval", "100ms"],
        cwd=cli.folder,
        env={**cli.environment, "TERM": "xterm", "COLUMNS": "100", "LINES": "20"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):
        while said.count(b"psyqueue top") < 3:
            said += os.read(ours, 65_536)
        process.send_signal(signal.SIGINT)
        while part := os.read(ours, 65_536):
            said += part
    os.close(ours)
    text = said.decode()
    assert process.wait(LIMIT_S) == 0, text
    assert text.startswith(OTHER_SCREEN)
    assert text.endswith(OWN_SCREEN)
    assert "stalled" in text
    assert "ENDED/S" in text
    assert "Traceback" not in text


# ── tail ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
def documents(running: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in running.lines if line.startswith("{")]


def test_named_jobs_are_followed_to_their_ends_on_every_store(stored, shop):
    first = shop.enqueue("note", {"text": "a"}, id="first")
    tail = shop.start("jobs", "tail", first, "--interval", "100ms", "--json", store=True)
    tail.line('"status":"pending"')
    worker = shop.start("worker", "shop:bare", "--backend", shop.url)
    assert tail.end() == 0
    told = documents(tail)
    assert [each["status"] for each in told][-1] == "completed"
    assert (told[0]["id"], told[0]["queue"], told[0]["name"]) == ("first", "note", "note")
    assert told[-1]["before"] in ("pending", "active")
    worker.send(signal.SIGTERM)
    assert worker.end() == 0


def test_a_job_that_dies_is_a_no_with_its_error(cli):
    (dead,) = cli.make_dead("mail")
    answer = cli.call("jobs", "tail", dead)
    assert answer.code == 1
    assert re.search(r"^\d\d:\d\d:\d\d  \S+  mail  dead  attempt 1, exhausted, ValueError: broken$", answer.out.strip())
    waiting = cli.enqueue("mail")
    assert cli.call("jobs", "tail", waiting, "--for", "1ms").code == 1, "it has not ended"


def test_all_jobs_of_a_filter_are_followed(shop):
    shop.enqueue("other", id="not-meant")
    tail = shop.start("jobs", "tail", "--where", "queue:mail", "--interval", "100ms", store=True)
    shop.enqueue("mail", id="new")
    tail.line("new  mail  pending")
    shop.call("jobs", "cancel", "new")
    tail.line("new  mail  pending → cancelled  cancelled by request")
    shop.enqueue("mail", id="brief", delay="1h")
    tail.line("brief  mail  scheduled")
    tail.send(signal.SIGINT)
    assert tail.end() == 0
    assert "not-meant" not in tail.text
    assert "Traceback" not in tail.text


def test_a_job_that_is_deleted_is_told(shop):
    shop.enqueue("mail", id="one", delay="1h")
    tail = shop.start("jobs", "tail", "--where", "", "--interval", "10s", "--json", store=True)
    tail.line('"status":"scheduled"')
    shop.call("jobs", "cancel", "one")
    shop.call("jobs", "rm", "one", "--yes")
    assert wait_until(lambda: any(each["status"] in ("gone", "cancelled") for each in documents(tail)), limit_s=LIMIT_S)


def test_a_job_that_is_not_there_is_a_no(cli):
    cli.enqueue("mail")
    assert cli.call("jobs", "tail", "nobody").code == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name the jobs by their ids, or by --where FILTER"),
        (["x", "--where", "name:y"], "name the jobs by their ids, or by --where FILTER"),
        (["--where", "", "--interval", "1ms"], "is less than 50 ms"),
        (["--where", "nope:1"], "there is no field 'nope'"),
    ],
)
def test_a_tail_of_nothing_is_told(cli, arguments, told):
    cli.enqueue("mail")
    answer = cli.call("jobs", "tail", *arguments)
    assert (answer.code, told in answer.err) == (2, True), answer

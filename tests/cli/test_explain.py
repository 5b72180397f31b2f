"""`psyqueue jobs explain` on every store: each gate that can hold a job is closed, and named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from psyqueue import PsyQueue
from psyqueue.backend import Limits, Op, Session
from psyqueue.backend.compose import dequeue
from psyqueue.ids import new_token
from psyqueue.kernel.presence import Presence
from support.waiting import wait_until


def why(cli: Any, job_id: str) -> dict[str, str]:
    """The reasons by code, as the command tells them to programs; to people it says the same."""
    found = cli.json("jobs", "explain", job_id)
    assert list(found) == ["id", "status", "reasons"]
    told = cli.call("jobs", "explain", job_id).out
    # What is told of a moment (how long it still takes) may differ between two calls.
    assert len(told.splitlines()) == len(found["reasons"]) + 1
    return {reason["code"]: reason["text"] for reason in found["reasons"]}


def work(cli: Any, *queues: str, lease_ms: int = 60_000, take: int = 0, worker: str = "w", **said: Any) -> None:
    """A worker that says this of itself, and holds so many jobs."""

    async def run(queue: PsyQueue) -> None:
        backend, session = queue.get_exposed("backend"), new_token()
        meta = msgspec.json.encode(Presence(**said))
        await backend.open_session(
            Op(session, 1, 1), Session(id=session, worker=worker, queues=queues, lease_ms=lease_ms, meta=meta)
        )
        if take:
            await dequeue(backend, Op(session, 1, 2), session, *queues, count=take)

    cli.with_queue(run)


# ── what the store holds back ─────────────────────────────────────────────────────────────────────────────────────────
def test_a_job_that_is_not_due_says_when(stored):
    job_id = stored.enqueue("mail", delay="1h")
    found = why(stored, job_id)
    assert list(found) == ["run_at", "no_worker"]
    assert found["run_at"].startswith("it is due at 20")
    assert "in 59 min" in found["run_at"]
    assert found["no_worker"].startswith("no running worker takes jobs of queue 'mail': start one")


def test_a_paused_queue_says_until_when(stored):
    job_id = stored.enqueue("mail")
    stored.json("queues", "pause", "mail")
    assert why(stored, job_id)["paused:queue"] == "queue 'mail' is paused until somebody resumes it"
    until = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    stored.json("queues", "pause", "mail", "--until", until)
    assert f"paused until {until[:13]}" in why(stored, job_id)["paused:queue"]
    assert "another 1 h 59 min" in why(stored, job_id)["paused:queue"]


def test_a_job_that_waits_for_others_says_how_these_are(stored):
    parent = stored.enqueue("parent", delay="1h")
    child = stored.enqueue("child", depends_on=parent)
    assert why(stored, child)[f"needs:{parent}"] == f"it waits for job {parent}, which is scheduled"


def test_a_closed_gate_says_who_is_in_it(stored):
    first = stored.enqueue("mail", order_key="k", tenant="acme", lane="slow")
    second = stored.enqueue("mail", order_key="k", tenant="acme")
    assert why(stored, second)["gate:k"] == (f"another job of order key 'k' goes first: job {first}, which is pending")
    other = stored.enqueue("elsewhere", order_key="k", tenant="acme")
    assert why(stored, other)["gate:k"] == "another job of order key 'k' goes first"


def test_limits_say_their_figures(stored):
    async def limit(queue: PsyQueue) -> None:
        await queue.limits("mail", active_max=1)
        await queue.limits("mail", "acme", active_max=0)
        await queue.limits("paced", starts_per_minute=1)

    stored.with_queue(limit)
    held, paced = stored.make_active("mail"), stored.make_active("paced")
    assert held
    assert paced
    found = why(stored, stored.enqueue("mail", tenant="acme"))
    assert found["limit:queue"] == "as many jobs of its queue run as active_max of queue 'mail' allows (1)"
    assert found["limit:lane"] == "as many jobs of its lane run as active_max of lane 'acme' allows (0)"
    assert "starts_per_minute of queue 'paced' (1 a minute)" in why(stored, stored.enqueue("paced"))["rate:queue"]


def test_a_paused_lane_says_until_when(stored):
    job_id = stored.enqueue("mail", tenant="acme")

    async def pause(queue: PsyQueue) -> None:
        backend = queue.get_exposed("backend")
        until_ms = (await backend.info()).now_ms + 7_200_000
        limits = Limits(queue="mail", lane="acme", paused_until_ms=until_ms, starts_per_minute=0)
        await backend.put_limits(Op("test", 1, 1), [limits])

    stored.with_queue(pause)
    found = why(stored, job_id)
    assert found["paused:lane"].startswith("lane 'acme' is paused until 20")
    assert found["paused:lane"].endswith("another 1 h 59 min")


def test_a_namespace_that_is_frozen_says_so(stored):
    job_id = stored.enqueue("mail")

    async def freeze(queue: PsyQueue) -> None:
        backend = queue.get_exposed("backend")
        await backend.set_mode(Op("test", 1, 1), "frozen", (await backend.info()).epoch + 1)

    stored.with_queue(freeze)
    assert why(stored, job_id)["mode:frozen"] == "the namespace is frozen: nothing is dequeued"


def test_a_job_that_is_too_late_says_so(stored):
    expired = stored.enqueue("mail", expires="1ms")
    overdue = stored.enqueue("mail", deadline="1ms")
    assert wait_until(lambda: "expired" in why(stored, expired))
    assert "the next look at its queue ends it" in why(stored, expired)["expired"]
    assert wait_until(lambda: "deadline" in why(stored, overdue))
    assert "it dies instead of starting" in why(stored, overdue)["deadline"]


# ── who would run it ──────────────────────────────────────────────────────────────────────────────────────────────────
def test_workers_of_other_queues_are_counted_but_are_none(stored):
    job_id = stored.enqueue("mail")
    work(stored, "other")
    assert "(1 takes other queues)" in why(stored, job_id)["no_worker"]


def test_workers_that_are_all_late_are_named(stored):
    job_id = stored.enqueue("mail")
    work(stored, "mail", lease_ms=1, worker="gone")
    assert wait_until(lambda: "workers_late" in why(stored, job_id))
    assert why(stored, job_id)["workers_late"].endswith("its lease is over: gone")


def test_a_handler_that_no_worker_knows_is_told(stored):
    job_id = stored.enqueue("mail.send", queue="mail")
    work(stored, "mail", handlers={"mail.bounce": 1})
    assert why(stored, job_id)["unknown_handler"].startswith(
        "the one worker of queue 'mail' did not know handler 'mail.send' when it started: deploy it"
    )
    work(stored, "mail", handlers={})
    assert "none of the 2 workers of queue 'mail' knew" in why(stored, job_id)["unknown_handler"]
    work(stored, "mail", handlers={"mail.send": 1})
    assert list(why(stored, job_id)) == ["next"]


def test_a_worker_that_says_nothing_of_its_handlers_may_know_all(stored):
    job_id = stored.enqueue("mail")
    work(stored, "mail")
    work(stored, "mail", handlers={})
    assert list(why(stored, job_id)) == ["next"]


def test_a_job_of_a_newer_version_is_told(stored):
    async def enqueue(queue: PsyQueue) -> str:
        async def send(to: str) -> None: ...

        return (await queue.handle("mail", send, version=3).enqueue("ann")).id

    job_id = stored.with_queue(enqueue)
    work(stored, "mail", handlers={"mail": 2})
    assert "version 3 of handler 'mail', and its workers have version 2" in why(stored, job_id)["newer_version"]


def test_workers_without_a_free_slot_are_told(stored):
    ids = [stored.enqueue("mail") for _ in range(3)]
    work(stored, "mail", slots=2, take=2, handlers={"mail": 1})
    (left,) = [job_id for job_id in ids if stored.show(job_id)["status"] == "pending"]
    assert why(stored, left) == {
        "busy": "every slot is taken: the one worker of queue 'mail' holds 2 jobs, for 2 slots"
    }


def test_nothing_holds_it_back_and_others_are_pending_too(stored):
    stored.enqueue("mail")
    job_id = stored.enqueue("mail")
    work(stored, "mail", slots=1, handlers={"mail": 1})
    assert why(stored, job_id)["next"].endswith("; others of queue 'mail' that are pending: 1")


# ── it runs ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_running_job_says_where_and_how_long_its_lease_is(stored):
    job_id = stored.make_active("mail")
    found = why(stored, job_id)
    assert list(found) == ["active", "leased"]
    assert found["active"].startswith("attempt 1 runs on worker w, for ")
    assert "its worker's lease lasts until 20" in found["leased"]
    stored.json("jobs", "cancel", job_id)
    assert "cancel_requested" in why(stored, job_id)


def test_a_job_whose_worker_is_gone_says_so(stored):
    job_id = stored.make_active("mail", lease_ms=1)
    assert wait_until(lambda: "lease_ended" in why(stored, job_id))
    assert "any running worker gives the job to others" in why(stored, job_id)["lease_ended"]


def test_a_real_worker_says_what_it_knows(shop):
    running = shop.start("worker", "shop:q", "--queues", "note,fails")
    running.line("psyqueue worker ready")
    job_id = shop.enqueue("nobody.knows", queue="note", delay="1h")
    assert "did not know handler 'nobody.knows'" in why(shop, job_id)["unknown_handler"]
    known = shop.enqueue("note", {"text": "x"}, delay="1h")
    assert list(why(shop, known)) == ["run_at"]

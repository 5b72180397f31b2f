"""`psyqueue workers`: what they say of themselves, and orders to real ones, on every store."""

from __future__ import annotations

import os

from psyqueue import PsyQueue
from psyqueue.backend import Effects, Op, StateWrite
from support.waiting import is_process_alive, wait_until

WAIT = ("--wait", "30s", "--yes")


def test_a_worker_says_who_it_is(stored, shop):
    worker = shop.start("worker", "shop:bare", "--name", "till", "--concurrency", "3", "--backend", shop.url)
    worker.line("psyqueue worker ready")
    (item,) = shop.json("workers", "ls")["items"]
    assert (item["worker"], item["state"], item["slots"]) == ("till", "open", 3)
    assert item["pid"] == worker.process.pid
    assert item["version"]
    assert item["host"] == os.uname().nodename
    assert "till" in shop.call("workers", "ls").out


def test_a_worker_that_is_drained_ends_its_jobs_and_itself(stored, shop):
    (shop.folder / "slow.py").write_text(
        "from shop import bare as q, until_told, write_note\nq.handle('until_told', until_told.fn)\n"
    )
    running = shop.enqueue("until_told")
    worker = shop.start("worker", "slow:q", "--name", "till", "--concurrency", "1", "--backend", shop.url)
    shop.wait_for_note("begun until_told")
    waiting = shop.enqueue("note", {"text": "later"})
    assert shop.json("workers", "drain", "till", "--dry-run")["workers"][0]["held"] >= 1
    assert shop.call("workers", "drain", "till").code == 2, "nobody is there to ask"
    told = shop.json("workers", "drain", "ti*", "--yes")
    assert (told["order"], told["ended"], [each["worker"] for each in told["workers"]]) == ("drain", None, ["till"])
    worker.line("ordered to end")
    assert shop.json("workers", "ls")["items"][0]["state"] == "draining"
    (shop.folder / "go").touch()
    assert worker.end() == 0
    assert shop.show(running)["result"] == "told"
    assert (shop.show(waiting)["status"], shop.show(waiting)["attempt"]) == ("pending", 0)
    assert shop.json("workers", "ls")["items"] == []


def test_a_worker_that_is_stopped_hands_its_jobs_back_within_the_grace(shop):
    job_id = shop.enqueue("forever")
    worker = shop.start("worker", "shop:q", "--name", "till")
    shop.wait_for_note("begun forever")
    late = shop.call("workers", "drain", "till", "--wait", "10ms", "--yes")
    assert (late.code, "not all of them have ended within 10 ms" in late.err) == (1, True)
    told = shop.json("workers", "stop", "till", "--grace", "100ms", *WAIT)
    assert (told["order"], told["ended"]) == ("stop", True)
    assert worker.end() == 0
    assert (shop.show(job_id)["status"], shop.show(job_id)["attempt"]) == ("pending", 0)


def test_an_order_that_nobody_heard_is_found_with_the_next_renewal(stored, shop):
    worker = shop.start("worker", "shop:bare", "--lease", "1s", "--backend", shop.url)
    worker.line("psyqueue worker ready")
    (info,) = shop.sessions()

    async def write(queue: PsyQueue) -> None:
        order = StateWrite(kind="put", key=f"order:{info.session.id}", value=b'{"kind":"drain"}')
        await queue.get_exposed("backend").write_state(Op("test", 1, 1), Effects(writes=(order,)))

    shop.with_queue(write)
    assert worker.end() == 0


def test_one_of_two_workers_of_a_process_may_end(shop):
    worker = shop.start("worker", "shop:q", "--queues", "note:1,fails:1", "--name", "w", "--health-port", "0")
    worker.line("psyqueue worker ready")
    assert shop.json("workers", "stop", "w-1", *WAIT)["ended"] is True
    assert [item["worker"] for item in shop.json("workers", "ls")["items"]] == ["w-2"]
    assert worker.process.poll() is None
    assert shop.json("workers", "stop", "w-2", *WAIT)["ended"] is True
    assert worker.end() == 0


def test_a_supervisor_starts_nobody_in_the_place_of_one_that_was_told_to_end(shop):
    supervisor = shop.start("worker", "shop:q", "--processes", "2", "--name", "till")
    pids = [int(pid) for pid in supervisor.line(r"pids (\d+), (\d+)").groups()]
    assert shop.json("workers", "stop", "till.1", *WAIT)["ended"] is True
    supervisor.line("was told to end, and is not started again")
    assert wait_until(lambda: sum(map(is_process_alive, pids)) == 1)
    assert shop.json("workers", "drain", "till.2", *WAIT)["ended"] is True
    assert supervisor.end() == 0


def test_a_worker_that_is_not_there_is_a_no(cli):
    cli.make_active("slow")
    answer = cli.call("workers", "stop", "till", "--yes")
    assert (answer.code, answer.err) == (1, "psyqueue: no worker 'till' runs; there are: w\n")

"""`psyqueue worker`, as a process that is started, signalled, asked for its health, and killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from psyqueue import PsyQueue
from psyqueue.cli.reload import changed, snapshot
from psyqueue.cli.waits import ECHO_MS, on_signal
from psyqueue.cli.worker_plan import Pool, WorkerPlan, read_pools
from psyqueue.cli.worker_process import WorkerProcess
from psyqueue.errors import InvalidOption, StoreUnavailable
from support.waiting import is_process_alive, wait_until
from worker import process_handlers

READY = r"psyqueue worker ready: pid (\d+)"


def after_its_echo() -> None:
    threading.Event().wait(2 * ECHO_MS / 1000)


def test_jobs_are_run_and_a_signal_ends_the_worker_with_0(shop):
    job_id = shop.enqueue("note", {"text": "hello"})
    worker = shop.start("worker", "shop:q")
    ready = worker.line(
        READY + r", queues note, forever, until_told, stubborn, stuck, blocking, fails \(10\), lease 30s"
    )
    assert int(ready[1]) == worker.process.pid
    assert shop.wait_for_status(job_id, "completed")["result"] == "HELLO"
    worker.send(signal.SIGTERM)
    assert worker.end() == 0
    assert shop.sessions() == []


def test_a_signal_that_was_blocked_by_whoever_started_the_worker_is_heard(shop):
    blocked = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})"
    program = f"{blocked}; os.execv(sys.executable, [sys.executable, '-m', 'psyqueue', 'worker', 'shop:q'])"
    worker = shop.start(command=[sys.executable, "-c", program])
    worker.line(READY)
    worker.send(signal.SIGTERM)
    assert worker.end() == 0


def test_a_folder_that_was_removed_is_told_in_one_line(shop, tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    worker = shop.start(
        command=["bash", "-c", f"cd {folder} && rmdir {folder} && exec {sys.executable} -m psyqueue worker shop:q"]
    )
    assert worker.end() == 2
    assert "the current folder is of no use" in worker.line("psyqueue: (.*)")[1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file that takes nothing is needed")
def test_a_worker_whose_ready_line_finds_no_room_runs_jobs(shop):
    job_id = shop.enqueue("note", {"text": "hello"})
    worker = shop.start(command=["bash", "-c", f"exec {sys.executable} -m psyqueue worker shop:q > /dev/full"])
    assert shop.wait_for_status(job_id, "completed")["result"] == "HELLO"
    worker.send(signal.SIGTERM)
    assert worker.end() == 0


def test_a_drain_lets_running_jobs_end_and_hands_the_others_back_untouched(shop):
    running = shop.enqueue("until_told")
    worker = shop.start("worker", "shop:q", "--concurrency", "1")
    shop.wait_for_note("begun until_told")
    waiting = shop.enqueue("forever")
    worker.send(signal.SIGTERM)
    worker.line("draining")
    (shop.folder / "go").touch()
    assert worker.end() == 0
    assert shop.show(running)["result"] == "told"
    untouched = shop.show(waiting)
    assert (untouched["status"], untouched["attempt"], untouched["lost"]) == ("pending", 0, 0)
    assert shop.notes() == ["begun until_told"]


def test_what_is_not_done_within_the_grace_is_handed_back(shop):
    job_id = shop.enqueue("forever")
    worker = shop.start("worker", "shop:q", "--grace", "200ms")
    shop.wait_for_note("begun forever")
    worker.send(signal.SIGINT)
    assert worker.end() == 0
    view = shop.show(job_id)
    assert (view["status"], view["lost"]) == ("pending", 0)


def test_a_second_signal_stops_at_once_and_still_hands_back(shop):
    job_id = shop.enqueue("forever")
    worker = shop.start("worker", "shop:q", "--grace", "1h")
    shop.wait_for_note("begun forever")
    worker.send(signal.SIGTERM)
    worker.line("draining")
    after_its_echo()
    worker.send(signal.SIGTERM)
    assert worker.end() == 128 + signal.SIGTERM
    view = shop.show(job_id)
    assert (view["status"], view["lost"]) == ("pending", 0)


def test_a_thread_that_never_returns_cannot_keep_a_worker_that_is_told_twice(shop):
    shop.enqueue("stuck")
    worker = shop.start("worker", "shop:q", "--grace", "1h")
    shop.wait_for_note("begun stuck")
    worker.send(signal.SIGINT)
    worker.line("draining")
    after_its_echo()
    worker.send(signal.SIGINT)
    assert worker.end() == 128 + signal.SIGINT


async def test_a_signal_that_is_sent_on_to_a_process_which_has_it_already_counts_once(monkeypatch):
    """A terminal sends Ctrl-C to all of its processes, and `timeout` or a process manager sends it again."""
    heard: list[signal.Signals] = []
    loop = asyncio.get_running_loop()
    on_signal(signal.SIGUSR1, heard.append)
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        while not heard:
            await asyncio.sleep(0)
        now_s = loop.time()
        monkeypatch.setattr(loop, "time", lambda: now_s)
        os.kill(os.getpid(), signal.SIGUSR1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert heard == [signal.SIGUSR1]
        monkeypatch.setattr(loop, "time", lambda: now_s + 2 * ECHO_MS / 1000)
        os.kill(os.getpid(), signal.SIGUSR1)
        while len(heard) < 2:
            await asyncio.sleep(0)
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)


def test_a_loop_that_hangs_ends_the_process_with_70_and_says_where(shop):
    make = (
        "import psyqueue.kernel.lease_keeper as keeper\n"
        "made = keeper.LeaseKeeper.__init__\n"
        "def make(self, *args, **options):\n"
        "    made(self, *args, **{**options, 'hang_ms': 2_000})\n"
        "keeper.LeaseKeeper.__init__ = make\n"
        "from shop import q\n"
    )
    (shop.folder / "hanging.py").write_text(make)
    job_id = shop.enqueue("blocking")
    worker = shop.start("worker", "hanging:q", "--lease", "1s")
    assert worker.end() == 70
    assert "the event loop hangs" in worker.text
    assert "in blocking" in worker.text, "the traceback shows the handler"
    assert shop.show(job_id)["status"] == "active", "the lease gives it back, not the dying process"


FORKING = """
from shop import q
from process_handlers import end_what_it_forked

q.handle("fork", end_what_it_forked)
"""


def test_what_a_handler_forked_can_be_ended_and_its_signal_is_none_for_the_worker(shop):
    """Before Python 3.12 it shares the wake-up of the worker's event loop."""
    (shop.folder / "forking.py").write_text(FORKING)
    (shop.folder / "process_handlers.py").symlink_to(process_handlers.__file__)
    worker = shop.start("worker", "forking:q")
    worker.line(READY)
    job_id = shop.enqueue("fork")
    assert shop.wait_for_status(job_id, "completed")["result"] == -signal.SIGTERM
    job_id = shop.enqueue("note", {"text": "on"})
    assert shop.wait_for_status(job_id, "completed")["result"] == "ON"
    assert "draining" not in worker.text
    worker.send(signal.SIGTERM)
    assert worker.end() == 0


RUDE = """
from shop import q

@q.handle("rude")
async def rude():
    raise KeyboardInterrupt("mine")
"""


@pytest.mark.parametrize("options", [(), ("--processes", "2")])
def test_a_handler_that_plays_a_ctrl_c_fails_its_run_and_does_not_end_the_worker(shop, options):
    """Handed back as if the user had interrupted it, it would take down one worker after the other, for ever."""
    (shop.folder / "rude.py").write_text(RUDE)
    rude = shop.enqueue("rude", queue="note")
    polite = shop.enqueue("note", {"text": "hello"})
    worker = shop.start("worker", "rude:q", *options)
    assert shop.wait_for_status(polite, "completed")["result"] == "HELLO"
    view = shop.wait_for_status(rude, "dead")
    assert (view["reason"], view["attempt"], view["errors"][0]["type"]) == ("fatal", 1, "KeyboardInterrupt")
    worker.send(signal.SIGINT)
    assert worker.end() == 0


def test_a_worker_that_fails_ends_the_process_with_70(shop):
    shop.enqueue("stubborn")
    worker = shop.start("worker", "shop:q", "--queues", "stubborn", "--concurrency", "1", "--grace", "1s")
    assert worker.end() == 70
    assert "a worker ended by a failure" in worker.text


# ── which queue, which store ──────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("shop", "'shop' does not name a queue; write module:queue"),
        ("shop.py:q", "Write 'shop', no .py"),
        ("shop:", "does not name a queue"),
        ("shop/jobs:q", "does not name a queue"),
        ("missing:q", "no module 'missing' in"),
        ("shop:r", "module 'shop' has no 'r'; it holds shop:bare, shop:q"),
        ("shop:number", "'shop:number' is int, not a PsyQueue; it holds shop:bare, shop:q"),
        ("empty:q", "module 'empty' has no 'q'; it holds no PsyQueue"),
        ("broken:q", "module 'broken' cannot be imported: ZeroDivisionError: division by zero ("),
        ("broken:q", "broken.py, line 2)"),
        ("crooked:q", "module 'crooked' cannot be imported: '(' was never closed ("),
        ("needy:q", "module 'needy' cannot be imported: ModuleNotFoundError: No module named 'nowhere' ("),
        ("leaving:q", "module 'leaving' ended the process when it was imported (exit 3)"),
    ],
)
def test_a_wrong_target_is_told_in_one_line(shop, target, told):
    for name, text in {
        "empty": "",
        "broken": "x = 1\nx / 0\n",
        "crooked": "x = (\n",
        "needy": "import nowhere\n",
        "leaving": "import sys\nsys.exit(3)\n",
    }.items():
        (shop.folder / f"{name}.py").write_text(text)
    answer = shop.run("worker", target, store=False)
    assert answer.code == 2, answer
    assert told in answer.err
    assert answer.out == ""
    assert "Traceback" not in answer.err


def test_the_command_line_gives_a_store_to_a_queue_without_one(shop):
    job_id = shop.enqueue("note", {"text": "bare"})
    worker = shop.start("worker", "shop:bare", store=True)
    shop.wait_for_status(job_id, "completed")
    worker.send(signal.SIGTERM)
    assert worker.end() == 0


def test_a_queue_without_any_store_is_told_about(shop):
    answer = shop.run("worker", "shop:bare", store=False)
    assert answer.code == 2
    assert "shop:bare has no store: use() one there, or give --backend URL" in answer.err


def test_two_stores_are_one_too_many(shop):
    answer = shop.run("worker", "shop:q", "--backend", "sqlite:other.db", store=False)
    assert answer.code == 2
    assert "shop:q brings a store of its own; leave --backend out" in answer.err
    assert not (shop.folder / "other.db").exists()


def test_the_environment_does_not_overrule_the_store_of_the_queue(shop):
    worker = shop.start("worker", "shop:q", PSYQUEUE_URL="sqlite:other.db")
    worker.line(READY)
    worker.send(signal.SIGTERM)
    assert worker.end() == 0
    assert not (shop.folder / "other.db").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--grace", "soon"), "option grace='soon': is not a duration"),
        (("--lease", "1"), "option lease='1': is not a duration"),
        (("--lease", "10ms"), "option lease='10ms': is less than"),
        (("--queues", "a:0"), "option queues='a:0': the number is outside 1 to"),
        (("--queues", "a,b:2,a"), "names 'a' twice"),
        (("--concurrency", "0"), "option concurrency=0: is outside 1 to"),
        (("--processes", "0"), "Invalid value for '--processes'"),
        (("--nonsense",), "No such option '--nonsense'"),
    ],
)
def test_a_wrong_option_is_told_before_anything_runs(shop, options, told):
    answer = shop.run("worker", "shop:q", *options, store=False)
    assert answer.code == 2, answer
    assert told in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("text", "pools"),
    [
        (None, [((), 7)]),
        ("a", [(("a",), 7)]),
        ("a,b", [(("a", "b"), 7)]),
        ("a:20,b:5", [(("a",), 20), (("b",), 5)]),
        (" a:2 , b ,c ", [(("b", "c"), 7), (("a",), 2)]),
        ("mail:eu,mail:us:3", [(("mail:eu",), 7), (("mail:us",), 3)]),
    ],
)
def test_queues_get_slots_of_their_own_or_share(text, pools):
    assert read_pools(text, 7) == tuple(Pool(queues=queues, concurrency=slots) for queues, slots in pools)


def test_a_queue_that_no_handler_has_is_warned_of(shop):
    worker = shop.start("worker", "shop:q", "--queues", "note,note:many")
    worker.line(READY)
    worker.send(signal.SIGTERM)
    assert worker.end() == 0
    warned = [line for line in worker.text.splitlines() if "no handler has this queue" in line]
    assert len(warned) == 1
    assert warned[0].endswith("queue=note:many")


def test_a_queue_cannot_have_no_slot():
    with pytest.raises(InvalidOption, match="outside 1 to"):
        read_pools("a:0", 7)


def test_each_pool_is_a_worker_of_its_own(shop):
    worker = shop.start("worker", "shop:q", "--queues", "note:2,forever:3", "--name", "till")
    worker.line(READY + r", queues note \(2\); forever \(3\)")
    found = {info.session.worker: info.session.queues for info in shop.sessions()}
    assert found == {"till-1": ("note",), "till-2": ("forever",)}
    worker.send(signal.SIGTERM)
    assert worker.end() == 0


# ── health ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def ask(url: str, method: str = "GET") -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as answer:
            return answer.status, json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_health_is_served_on_loopback_until_the_end(shop):
    shop.enqueue("until_told")
    worker = shop.start("worker", "shop:q", "--health-port", "0", "--concurrency", "1")
    url = worker.line(r"health (http://127\.0\.0\.1:\d+)/healthz")[1]
    shop.wait_for_note("begun until_told")
    status, body = ask(f"{url}/healthz")
    assert (status, body["ok"], body["store_answers"], body["pid"]) == (200, True, True, worker.process.pid)
    assert body["workers"][0]["running"] == 1
    status, ready = ask(f"{url}/readyz")
    assert (status, ready["ready"], ready["stopping"]) == (200, True, False)
    assert ready["loop_turn_age_ms"] >= 0
    assert body["workers"][0]["loop_turn_age_ms"] >= 0
    assert ask(f"{url}/readyz?verbose=1")[0] == 200
    assert ask(f"{url}/else") == (404, {"ok": False, "error": "there are /healthz, /readyz"})
    assert ask(f"{url}/healthz", "POST")[0] == 405
    assert ask(f"{url}/healthz", "HEAD") == (200, {})
    worker.send(signal.SIGTERM)
    worker.line("draining")
    assert wait_until(lambda: ask(f"{url}/readyz")[0] == 503)
    assert ask(f"{url}/healthz")[0] == 200, "a draining worker is alive"
    (shop.folder / "go").touch()
    assert worker.end() == 0


PAGED = """
from psyqueue import PsyQueue
from shop import q

class Paged:
    name = "paged"

    def init(self, kernel):
        kernel.page("/page", self.show)
        kernel.page("/broken", self.fail)

    async def show(self):
        return "text/plain", b'"shown"'

    async def fail(self):
        raise RuntimeError("no ink")

q.use(Paged())
"""


def test_pages_of_plugins_are_beside_those_of_the_worker(shop):
    (shop.folder / "paged.py").write_text(PAGED)
    worker = shop.start("worker", "paged:q", "--health-port", "0")
    url = worker.line(r"health (http\S+)/healthz")[1]
    with urllib.request.urlopen(f"{url}/page", timeout=10) as answer:
        assert (answer.headers["Content-Type"], answer.read()) == ("text/plain", b'"shown"')
    assert ask(f"{url}/broken") == (500, {"ok": False, "error": "it failed; the log says why"})
    worker.line("no ink")
    assert ask(f"{url}/else") == (404, {"ok": False, "error": "there are /healthz, /readyz, /page, /broken"})
    worker.send(signal.SIGTERM)
    assert worker.end() == 0


PLAN = WorkerPlan(
    target="shop:q",
    pools=(),
    lease="30s",
    grace_ms=0,
    name=None,
    health_host="127.0.0.1",
    health_port=None,
    log_level="info",
    log_format="text",
    supervisor_fd=None,
)


def healthz(**facts: Any) -> tuple[bool, dict[str, Any]]:
    """What /healthz says of one worker with these facts, on a store that answers."""

    class Worker:
        is_running = facts.pop("is_running", True)
        was_ordered = False

        def health(self) -> dict[str, Any]:
            return {"store_call_age_ms": 10, **facts}

    async def look() -> tuple[bool, dict[str, Any]]:
        async with PsyQueue.from_url(facts.pop("url", "memory:")) as queue:
            process = WorkerProcess(queue, PLAN)
            process._workers.append(Worker())  # type: ignore[arg-type]
            answer = await process._healthz()
            return answer.status == 200, json.loads(answer.body)

    return asyncio.run(look())


def test_a_worker_is_healthy_while_it_runs_and_the_store_answers():
    assert healthz()[0] is True
    assert healthz(store_call_age_ms=15_001)[0] is True, "all slots are busy: the store is asked anew, and answers"
    assert healthz(store_call_age_ms=None)[0] is False, "the store has never answered"
    assert healthz(is_running=False)[0] is False


def test_a_worker_whose_store_is_silent_is_not_healthy(monkeypatch):
    async def info(_: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr("psyqueue.backends._memory.MemoryBackend.info", info)
    monkeypatch.setattr("psyqueue.backends._memory.MemoryBackend.connect", info_of_nothing)
    is_well, body = healthz(store_call_age_ms=15_001)
    assert (is_well, body["store_answers"]) == (False, False)


async def info_of_nothing(_: object) -> None: ...


def test_the_health_port_turns_away_what_is_not_http(shop):
    worker = shop.start("worker", "shop:q", "--health-port", "0")
    port = int(worker.line(r"health http://127\.0\.0\.1:(\d+)/")[1])
    for request, status in ((b"scribble\r\n\r\n", b"400"), (b"x" * 20_000 + b"\r\n\r\n", b"")):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(request)
            with contextlib.suppress(ConnectionResetError):
                assert status in client.recv(1_000)
    assert ask(f"http://127.0.0.1:{port}/healthz")[0] == 200


def test_a_store_that_is_away_at_the_start_is_told_in_one_line(shop):
    (shop.folder / "away.py").write_text(
        "from psyqueue import PsyQueue\nq = PsyQueue()\n@q.handle('a')\ndef a(): ...\n"
    )
    answer = shop.run("--backend", "redis://127.0.0.1:1", "worker", "away:q", store=False)
    assert answer.code == 2, answer
    assert answer.err == (
        "psyqueue: 127.0.0.1:1 cannot be reached: nobody listens there. Is the server running, and is the port right?\n"
    )


def test_a_health_port_that_is_taken_is_told(shop):
    first = shop.start("worker", "shop:q", "--health-port", "0")
    port = first.line(r"health http://127\.0\.0\.1:(\d+)/")[1]
    answer = shop.run("worker", "shop:q", "--health-port", port, store=False)
    assert answer.code == 2, answer
    assert f"port {port} on 127.0.0.1 cannot be opened" in answer.err
    assert "Choose another --health-port" in answer.err
    assert "Traceback" not in answer.err


# ── the log ───────────────────────────────────────────────────────────────────────────────────────────────────────────
LOUD = """
import logging
from shop import q

@q.handle("loud")
async def loud(what: str) -> None:
    logging.getLogger("shop.mail").warning("in %s", what, extra={"spam": {1, 2}})

@q.handle("loud_thread", max_retries=0)
def loud_thread(what: str) -> None:
    logging.getLogger("shop.mail").warning("in %s", what)
    try:
        raise ValueError("odd\x1b[31m")
    except ValueError:
        logging.getLogger("shop.mail").exception("caught")
"""


def test_a_log_of_documents_says_which_job_each_line_is_of(shop):
    (shop.folder / "loud.py").write_text(LOUD)
    ids = {name: shop.enqueue(name, {"what": name}) for name in ("loud", "loud_thread")}
    worker = shop.start("worker", "loud:q", "--log-format", "json", "--queues", "loud,loud_thread")
    worker.line("caught")
    worker.line('in loud"')
    worker.send(signal.SIGTERM)
    assert worker.end() == 0
    documents = [json.loads(line) for line in worker.lines if line.startswith("{")]
    mail = {document["text"]: document for document in documents if document["logger"] == "shop.mail"}
    for name, job_id in ids.items():
        told = mail[f"in {name}"]
        assert (told["job_id"], told["job_name"], told["queue"], told["attempt"]) == (job_id, name, name, 1)
        assert (told["level"], told["at"][-6:]) == ("warning", "+00:00")
    assert sorted(mail["in loud"]["spam"]) == [1, 2]
    assert "ValueError: odd" in mail["caught"]["error"]
    drained = next(document for document in documents if document["text"] == "draining")
    assert (drained["signal"], "job_id" in drained) == ("SIGTERM", False)
    assert not any("\x1b" in line for line in worker.lines)


def test_a_supervisor_of_a_log_of_documents_keeps_to_it(shop):
    supervisor = shop.start("worker", "shop:q", "--processes", "2", "--log-format", "json")
    pids = supervisor.line(r"pids (\d+), (\d+)")
    os.kill(int(pids[1]), signal.SIGKILL)
    told = json.loads(supervisor.line("ended")[0] and next(line for line in supervisor.lines if "ended" in line))
    assert told["text"] == f"worker process {pids[1]} ended (killed by SIGKILL)"
    supervisor.send(signal.SIGTERM)
    assert supervisor.end() == 0


def test_a_log_for_people_says_which_job_a_line_is_of(shop):
    (shop.folder / "loud.py").write_text(LOUD)
    job_id = shop.enqueue("loud", {"what": "loud"})
    worker = shop.start("worker", "loud:q", "--queues", "loud")
    assert worker.line(r"WARNING shop.mail: in loud .*job_id=(\S+) queue=loud job_name=loud attempt=1")[1] == job_id


# ── many processes ────────────────────────────────────────────────────────────────────────────────────────────────────
def children(running, shop, count: int) -> list[int]:
    running.line("psyqueue supervisor ready: ")
    pids = [int(running.line(READY, number + 1)[1]) for number in range(count)]
    shop.pids += pids
    return pids


def test_a_worker_process_that_dies_is_started_again(shop):
    supervisor = shop.start("worker", "shop:q", "--processes", "2", "--lease", "2s")
    first, second = children(supervisor, shop, 2)
    os.kill(first, signal.SIGKILL)
    supervisor.line(rf"worker process {first} ended \(killed by SIGKILL\)")
    third = int(supervisor.line(READY, 3)[1])
    shop.pids.append(third)
    job_id = shop.enqueue("note", {"text": "after"})
    shop.wait_for_status(job_id, "completed")
    supervisor.send(signal.SIGTERM)
    assert supervisor.end() == 0
    assert not any(is_process_alive(pid) for pid in (first, second, third))


def test_all_processes_drain_together(shop):
    job_ids = [shop.enqueue("until_told") for _ in range(2)]
    supervisor = shop.start("worker", "shop:q", "--processes", "2", "--concurrency", "1")
    pids = children(supervisor, shop, 2)
    shop.wait_for_note("begun until_told", 2)
    supervisor.send(signal.SIGINT)
    supervisor.line("draining", 2)
    (shop.folder / "go").touch()
    assert supervisor.end() == 0
    assert {shop.show(job_id)["result"] for job_id in job_ids} == {"told"}
    assert not any(is_process_alive(pid) for pid in pids)


def test_processes_have_a_name_and_a_health_port_each(shop):
    supervisor = shop.start("worker", "shop:q", "--processes", "2", "--health-port", "0", "--name", "till")
    children(supervisor, shop, 2)
    urls = {supervisor.line(r"health (http\S+)/healthz", number)[1] for number in (1, 2)}
    assert len(urls) == 2
    assert all(ask(f"{url}/healthz")[0] == 200 for url in urls)
    assert {info.session.worker for info in shop.sessions()} == {"till.1", "till.2"}
    supervisor.send(signal.SIGTERM)
    assert supervisor.end() == 0


def test_many_processes_are_told_as_one_document(shop):
    supervisor = shop.start("worker", "shop:q", "--processes", "2", "--json")
    wait_until(lambda: '"processes"' in supervisor.text, limit_s=30)
    supervisor.send(signal.SIGTERM)
    assert supervisor.end() == 0
    told = json.loads(supervisor.text[supervisor.text.index("{") : supervisor.text.rindex("}") + 1])
    assert (told["ready"], told["pid"], len(told["processes"])) == (True, supervisor.process.pid, 2)


def test_one_process_is_told_as_one_document(shop):
    worker = shop.start("worker", "shop:q", "--json", "--queues", "note:3")
    wait_until(lambda: "}" in worker.lines, limit_s=30)
    worker.send(signal.SIGTERM)
    assert worker.end() == 0
    told = json.loads(worker.text[worker.text.index("{") : worker.text.rindex("}") + 1])
    assert (told["ready"], told["pid"], told["health"]) == (True, worker.process.pid, None)
    assert told["workers"][0]["queues"] == ["note"]
    assert told["workers"][0]["slots"] == 3


def test_workers_end_with_a_supervisor_that_was_killed(shop):
    supervisor = shop.start("worker", "shop:q", "--processes", "2")
    pids = children(supervisor, shop, 2)
    supervisor.send(signal.SIGKILL)
    assert wait_until(lambda: not any(is_process_alive(pid) for pid in pids), limit_s=20)
    assert shop.sessions() == [], "they closed their sessions"


def test_workers_that_die_at_once_are_given_up(shop):
    (shop.folder / "broken.py").write_text("1 / 0\n")
    answer = shop.run("worker", "broken:q", "--processes", "2", store=False)
    assert answer.code == 1, answer
    assert "worker processes ended 3 times before they were ready (the last with exit code 2); giving up" in answer.err
    assert "ZeroDivisionError" in answer.err, "the children say why"
    assert "Traceback" not in answer.err


def test_reload_restarts_when_a_file_changes(shop):
    job_id = shop.enqueue("note", {"text": "old"})
    worker = shop.start("worker", "shop:q", "--reload")
    shop.pids.append(int(worker.line(READY)[1]))
    shop.wait_for_status(job_id, "completed")
    module = shop.folder / "shop.py"
    module.write_text("x = (\n")
    worker.line("shop.py changed, restarting the workers")
    worker.line("was never closed")
    module.write_text(OTHER_SHOP)
    shop.pids.append(int(worker.line(READY, 2)[1]))
    newer = shop.enqueue("note", {"text": "new"})
    assert shop.wait_for_status(newer, "completed")["result"] == "changed new"
    worker.send(signal.SIGTERM)
    assert worker.end() == 0


OTHER_SHOP = """
from psyqueue import PsyQueue
from psyqueue.backends import sqlite
q = PsyQueue(name="shop").use(sqlite(path="jobs.db"))
@q.handle("note")
def note(text: str) -> str:
    return "changed " + text
"""


def test_only_sources_of_the_project_are_watched(tmp_path):
    for name in ("a.py", "pkg/b.py", "c.txt", ".hidden/d.py", "__pycache__/e.py", "venv/lib/f.py", "node_modules/g.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    before = snapshot(tmp_path)
    assert {os.path.relpath(path, tmp_path) for path in before} == {"a.py", "pkg/b.py"}
    (tmp_path / "a.py").unlink()
    os.utime(tmp_path / "pkg" / "b.py", ns=(1, 1))
    (tmp_path / "new.py").touch()
    paths = changed(before, snapshot(tmp_path))
    assert [os.path.relpath(path, tmp_path) for path in paths] == ["a.py", "new.py", "pkg/b.py"]
    assert changed(before, before) == []

"""systemd's protocol: what a worker says to the socket of NOTIFY_SOCKET, and what it keeps from others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from psyqueue.cli.notify import Notifier
from support.waiting import wait_until


class Systemd:
    """Listens as the service manager does."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)
        self.told: list[str] = []

    def count(self, line: str) -> int:
        """Datagrams with this line so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.told.append(self.socket.recv(4_096).decode())
        return sum(line in told.split("\n") for told in self.told)

    def heard(self, line: str, count: int = 1) -> bool:
        """Whether so many of them come within the time that tests give."""
        return wait_until(lambda: self.count(line) >= count, limit_s=30)


async def turns_until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_true():
            await asyncio.sleep(0)


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(str(tmp_path / "notify"))
    yield made
    made.socket.close()


def test_a_worker_says_that_it_is_ready_alive_and_stopping(shop, systemd):
    (shop.folder / "peek.py").write_text(
        "import os\nfrom shop import q\n\n@q.handle('peek')\ndef peek():\n    return sorted(os.environ)\n"
    )
    peeked = shop.enqueue("peek")
    worker = shop.start(
        "worker", "peek:q", "--grace", "3s", NOTIFY_SOCKET=str(shop.folder / "notify"), WATCHDOG_USEC="300000"
    )
    assert systemd.heard("READY=1")
    assert systemd.heard("WATCHDOG=1", count=3)
    seen = shop.wait_for_status(peeked, "completed")["result"]
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(seen), "handlers' processes must not speak for us"
    worker.send(signal.SIGTERM)
    assert systemd.heard("STOPPING=1")
    assert systemd.heard("EXTEND_TIMEOUT_USEC=9000000")
    assert worker.end() == 0
    first = next(told for told in systemd.told if "READY=1" in told)
    assert "STATUS=" in first


async def test_signs_of_life_come_from_the_event_loop_alone(systemd, tmp_path):
    """While a handler blocks the loop there are none, so that systemd sees it."""
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000"})
    async with notifier.alive():
        await turns_until(lambda: systemd.count("WATCHDOG=1") >= 2)
        systemd.told.clear()
        threading.Event().wait(0.05)
        assert systemd.count("WATCHDOG=1") == 0
        await turns_until(lambda: systemd.count("WATCHDOG=1") >= 1)


def test_a_supervisor_speaks_for_its_processes(shop, systemd):
    supervisor = shop.start(
        "worker", "shop:q", "--processes", "2", NOTIFY_SOCKET=str(shop.folder / "notify"), WATCHDOG_USEC="600000"
    )
    assert systemd.heard("STATUS=2 worker processes")
    assert systemd.heard("WATCHDOG=1", count=2)
    supervisor.send(signal.SIGTERM)
    assert systemd.heard("STOPPING=1")
    assert supervisor.end() == 0
    assert sum("READY=1" in told for told in systemd.told) == 1


def test_nothing_is_said_where_nobody_asked():
    quiet = Notifier({"WATCHDOG_USEC": "1000"})
    assert quiet.watchdog_ms is None
    quiet.ready("x")


def test_the_watchdog_of_another_process_is_not_ours(tmp_path):
    asked = {"NOTIFY_SOCKET": str(tmp_path / "x"), "WATCHDOG_USEC": "1000000"}
    assert Notifier({**asked, "WATCHDOG_PID": str(os.getpid())}).watchdog_ms == 1_000
    assert Notifier({**asked, "WATCHDOG_PID": "1"}).watchdog_ms is None


@pytest.mark.skipif(sys.platform != "linux", reason="the abstract name space is Linux's")
def test_the_socket_may_be_abstract(namespace):
    listener = Systemd(f"\0{namespace}")
    Notifier({"NOTIFY_SOCKET": f"@{namespace}"}).ready("well")
    assert listener.heard("READY=1")
    listener.socket.close()


def test_a_socket_that_is_gone_is_no_failure(tmp_path, caplog):
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("x")
    assert "systemd was not told" in caplog.text

"""One story of steps on a store, told by a child process that may be killed in any of them.

    python -m crash.scenario PLACE LOG
    python -m crash.scenario --serve

Each step is written to LOG when it begins and when its reply is there. The same steps run on the in-memory model, whose
state after each of them is what a survivor is measured by. `--serve`: for each line of JSON [PLACE, LOG, failpoint,
is repeating] a forked process tells the story, and its exit code is answered. If it is repeating, a step of unknown
outcome is done once more.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from psyqueue.backend import (
    Ack,
    BackendAdapter,
    Change,
    Dependency,
    Effects,
    Fetch,
    Filter,
    Gate,
    Idempotency,
    Limits,
    NewJob,
    Op,
    Record,
    Retry,
    Schedule,
    Session,
    SettleReply,
    Snooze,
    StateWrite,
    Unique,
    failpoints,
)
from psyqueue.backend.state_rules import TEST_EPOCH_MS
from psyqueue.errors import StoreUnavailable
from support.store_at import store_at

LEASE_MS = 10_000
IDS = tuple(f"j{number}" for number in range(8))
Tokens = dict[str, str]
"""Job id → the token of its newest delivery."""
Step = Callable[[BackendAdapter, Op, Tokens], Awaitable[Any]]


def _job(job_id: str, **fields: Any) -> NewJob:
    return NewJob(id=job_id, queue="q", name="work", payload=b"{}", digest=b"same", **fields)


def _session(name: str) -> Session:
    return Session(id=name, worker="w", queues=("q",), lease_ms=LEASE_MS)


def _fetch(count: int) -> Fetch:
    # A client draws a new seed for each call; a repeated call brings its own again.
    return Fetch(queues=("q",), count=count, token_seed=f"{count:032x}")


async def _settle(backend: BackendAdapter, op: Op, session: str, outcomes: tuple[Any, ...], count: int) -> SettleReply:
    return await backend.settle(op, session, outcomes, _fetch(count) if count else None)


async def _enqueue(backend: BackendAdapter, op: Op, _: Tokens) -> Any:
    jobs = (
        _job("j0"),
        _job("j1", unique=Unique("u"), idempotency=Idempotency("i")),
        _job("j2", gate=Gate("g")),
        _job("j3", gate=Gate("g")),
        _job("j4", needs=(Dependency("j0"),)),
        _job("j5", delay_ms=1_000),
    )
    effects = Effects((_job("j6"),), (StateWrite(kind="add", key="n1", number=1),), (Record("r", b"1"),))
    return await backend.enqueue(op, jobs, effects)


async def _end_them(backend: BackendAdapter, op: Op, tokens: Tokens) -> Any:
    effects = Effects((_job("j7"),), (StateWrite(kind="put", key="k1", value=b"1", expected=0),), (Record("r", b"2"),))
    outcomes = (
        Ack(job_id="j0", completion_token=tokens["j0"], result=b"1", effects=effects),
        Retry(job_id="j1", completion_token=tokens["j1"], error=b"1", delay_ms=500),
        Snooze(job_id="j2", completion_token=tokens["j2"], delay_ms=500),
    )
    return await _settle(backend, op, "s", outcomes, 2)


async def _renew(backend: BackendAdapter, _: Op, __: Tokens) -> Any:
    keeper = backend.keeper()
    try:
        return await asyncio.to_thread(keeper.renew, "s")
    finally:
        await asyncio.to_thread(keeper.close)


def _advance_to(at_ms: int) -> Step:
    """To an instant, not by a distance: a step that is repeated must not go twice as far."""

    async def step(backend: BackendAdapter, _: Op, __: Tokens) -> Any:
        by_ms = TEST_EPOCH_MS + at_ms - (await backend.info()).now_ms
        if by_ms:
            await backend.advance_clock(by_ms)

    return step


async def _fire(backend: BackendAdapter, op: Op, _: Tokens) -> Any:
    schedule = Schedule(id="n", spec=b"{}", version=1)
    return await backend.fire(op, schedule, 1_000, (_job("j7"),), 2_000)


STEPS: dict[str, Step] = {
    "open_session": lambda backend, op, _: backend.open_session(op, _session("s")),
    "put_limits": lambda backend, op, _: backend.put_limits(op, (Limits(queue="q", retain_ended=(0, 0)),)),
    "enqueue": _enqueue,
    "dequeue": lambda backend, op, _: _settle(backend, op, "s", (), 3),
    "settle": _end_them,
    "renew": _renew,
    "promote due": _advance_to(1_000),
    "promote": lambda backend, _, __: backend.promote(("q",), 500),
    "reap nothing": lambda backend, _, __: backend.reap(500),
    "lease over": _advance_to(LEASE_MS * 2),
    "reap": lambda backend, _, __: backend.reap(500),
    "open another": lambda backend, op, _: backend.open_session(op, _session("t")),
    "dequeue again": lambda backend, op, _: _settle(backend, op, "t", (), 4),
    "cancel": lambda backend, op, _: backend.amend(op, Filter(ids=("j3", "j5")), Change(kind="cancel"), None, 500),
    "put_schedule": lambda backend, op, _: backend.put_schedule(op, Schedule(id="n", spec=b"{}")),
    "fire": _fire,
    "write_state": lambda backend, op, _: backend.write_state(
        op, Effects(writes=(StateWrite(kind="add", key="n1", number=5),))
    ),
    "lock": lambda backend, op, _: backend.lock(op, "l", "me", 1_000),
    "prune": lambda backend, _, __: backend.prune(500),
    "close_session": lambda backend, op, _: backend.close_session(op, "t"),
    "set_mode": lambda backend, op, _: backend.set_mode(op, "draining", 1),
}
NAMES = tuple(STEPS)


async def do(backend: BackendAdapter, number: int, tokens: Tokens) -> Any:
    """Step `number`, under its own op; the tokens of its deliveries are remembered."""
    reply = await STEPS[NAMES[number]](backend, Op("crash", 0, number + 1), tokens)
    if isinstance(reply, SettleReply):
        tokens.update({each.id: each.completion_token for each in reply.deliveries})
    return reply


class Log:
    """Where a process got to: its last words survive it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, kind: str, number: int, tokens: Tokens) -> None:
        os.write(self._file, msgspec.json.encode([kind, number, tokens]) + b"\n")

    @staticmethod
    def begun(path: Path) -> int:
        """Steps that were begun."""
        return path.read_bytes().count(b'["begin"') if path.exists() else 0

    @staticmethod
    def read(path: Path) -> tuple[int, Tokens]:
        """(steps that were acknowledged, the tokens known by then)"""
        lines = path.read_bytes().splitlines() if path.exists() else []
        done = [msgspec.json.decode(line) for line in lines if line.startswith(b'["ok"')]
        return len(done), done[-1][2] if done else {}


async def main(place: str, log_path: Path, *, is_repeating: bool) -> None:
    """Connect and go through all steps."""
    log, tokens = Log(log_path), Tokens()
    backend = store_at(place, test_clock=True).adapter
    await _until_known(backend.connect, is_repeating=is_repeating)
    for number in range(len(NAMES)):
        log.write("begin", number, tokens)
        await _until_known(lambda number=number: do(backend, number, tokens), is_repeating=is_repeating)  # type: ignore[misc]
        log.write("ok", number, tokens)
    await backend.disconnect()


async def _until_known(call: Callable[[], Awaitable[Any]], *, is_repeating: bool) -> None:
    for _ in range(3 if is_repeating else 0):
        try:
            await call()
        except StoreUnavailable:
            continue
        return
    await call()


def serve() -> None:
    """What is imported once is not imported by each of the processes that are killed."""
    for line in sys.stdin:
        place, log_path, plan, is_repeating = msgspec.json.decode(line)
        pid = os.fork()
        if pid == 0:
            failpoints._plan = failpoints._Plan(plan)
            asyncio.run(main(place, Path(log_path), is_repeating=is_repeating))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    if "--serve" in sys.argv:
        serve()
    else:
        asyncio.run(main(sys.argv[1], Path(sys.argv[2]), is_repeating=False))

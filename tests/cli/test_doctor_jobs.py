"""What the doctor sees of workers, queues and jobs: each is made wrong in a store whose clock is moved by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from psyqueue import PsyQueue
from psyqueue.backend import Change, Effects, Filter, Op, Schedule, Session, SessionInfo, StateWrite
from psyqueue.backend.compose import all_queues, all_sessions, dequeue, nack
from psyqueue.backends import memory
from psyqueue.cli import doctor_jobs
from psyqueue.cli.doctor_jobs import DAY_MS, MINUTE_MS, job_findings, look_at
from psyqueue.cli.doctor_workers import worker_findings
from psyqueue.kernel.presence import Presence, own_version

ERROR = msgspec.json.encode({"type": "ValueError", "message": "broken"})


class Ward:
    """A queue in memory, and what the doctor says of it."""

    def __init__(self, q: PsyQueue) -> None:
        self.q = q
        self.backend: Any = q.get_exposed("backend")
        self.turn = 0

    def op(self) -> Op:
        self.turn += 1
        return Op("ward", 1, self.turn)

    async def work(self, *queues: str, **said: Any) -> str:
        name = f"w{self.turn}"
        session = Session(
            id=name, worker=name, queues=queues, lease_ms=30 * DAY_MS, meta=msgspec.json.encode(Presence(**said))
        )
        await self.backend.open_session(self.op(), session)
        return name

    async def die(self, queue: str, count: int) -> None:
        session = await self.work(queue)
        for delivery in await dequeue(self.backend, self.op(), session, queue, count=count):
            await nack(self.backend, self.op(), session, delivery, ERROR)

    async def pass_ms(self, by_ms: int) -> None:
        await self.backend.advance_clock(by_ms)

    async def failed(self) -> dict[str, str]:
        queues, sessions = await all_queues(self.backend), await all_sessions(self.backend)
        look = await look_at(self.backend, queues, sessions, (await self.backend.info()).now_ms)
        found = {each.name: each for each in job_findings(look)}
        assert all(bool(each.advice) != each.ok for each in found.values())
        return {name: each.detail for name, each in found.items() if not each.ok}


@pytest.fixture
async def ward() -> AsyncIterator[Ward]:
    async with PsyQueue().use(memory(test_clock=True)) as q:
        yield Ward(q)


async def test_nothing_is_wrong_with_nothing(ward):
    assert await ward.failed() == {}


# ── queues ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_pause_that_nobody_ends_is_found_after_a_day(ward):
    await ward.q.enqueue("mail")
    await ward.q.pause("mail")
    await ward.pass_ms(DAY_MS)
    assert await ward.failed() == {}
    await ward.pass_ms(1)
    assert await ward.failed() == {"forgotten pauses": "mail, a job for 1 d"}


async def test_limits_that_start_nothing_are_found(ward):
    await ward.q.limits("one", active_max=0)
    await ward.q.limits("two", starts_per_minute=0)
    await ward.q.limits("three", active_max=1)
    assert await ward.failed() == {"limits of nothing": "one, two"}


async def test_a_queue_whose_workers_do_not_keep_up_is_found(ward):
    await ward.q.enqueue("mail")
    await ward.work("mail")
    await ward.pass_ms(15 * MINUTE_MS)
    assert await ward.failed() == {}
    await ward.pass_ms(1)
    assert await ward.failed() == {"backlog": "mail for 15 min"}
    await ward.q.pause("mail")
    assert await ward.failed() == {}


async def test_a_queue_that_is_nearly_full_is_found(ward):
    await ward.work("mail")
    await ward.q.limits("mail", pending_max=10)
    for _ in range(8):
        await ward.q.enqueue("mail")
    assert await ward.failed() == {}
    await ward.q.enqueue("mail", delay="1h")
    assert await ward.failed() == {"full queues": "mail (9 of 10)"}


async def test_what_is_kept_for_ever_and_what_nobody_deletes_are_found(ward, monkeypatch):
    monkeypatch.setattr(doctor_jobs, "ENDLESS_JOBS_MAX", 2)
    monkeypatch.setattr(doctor_jobs, "PRUNED_LATE_JOBS", 0)
    for _ in range(3):
        await (await ward.q.enqueue("mail")).cancel()
    await ward.q.limits("mail", retain_ended=("1d", 2))
    assert await ward.failed() == {}
    await ward.q.limits("mail", retain_ended=("1d", 1))
    assert await ward.failed() == {"growth": "mail: 3 ended, to be 1"}
    await ward.q.limits("mail", retain_ended=None)
    assert await ward.failed() == {"retention": "mail: 3 ended"}


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_jobs_that_no_worker_knows_are_found(ward):
    await ward.q.enqueue("mail.send", queue="mail")
    await ward.q.enqueue("mail.later", queue="mail", delay="1h")
    await ward.work("mail", handlers={"mail.later": 1})
    assert await ward.failed() == {"unknown handlers": "mail.send (1)"}
    await ward.work("mail")
    assert await ward.failed() == {}, "this one may know it"


async def test_jobs_that_are_due_and_not_looked_at_are_found(ward):
    await ward.q.enqueue("mail", delay="1s")
    await ward.pass_ms(1_000 + MINUTE_MS)
    assert await ward.failed() == {}
    await ward.pass_ms(1)
    assert await ward.failed() == {"overdue jobs": "mail (1)"}


async def test_schedules_whose_jobs_nobody_makes(ward):
    now_ms = (await ward.backend.info()).now_ms
    for name, next_at_ms, paused in (("due", now_ms, False), ("paused", now_ms, True), ("over", None, False)):
        schedule = Schedule(id=name, spec=b"{}", next_at_ms=next_at_ms, paused=paused)
        await ward.backend.put_schedule(ward.op(), schedule)
    await ward.pass_ms(MINUTE_MS)
    assert await ward.failed() == {}
    await ward.pass_ms(1)
    assert await ward.failed() == {"overdue schedules": "due, for 1 min"}


async def test_circuits_that_are_not_closed(ward):
    for name, state in (("mail", "open"), ("payments", "half-open"), ("search", "closed")):
        value = b'{"state":"%s"}' % state.encode()
        write = StateWrite(kind="put", key=f"circuit:{name}", value=value)
        await ward.backend.write_state(ward.op(), Effects(writes=(write,)))
    assert await ward.failed() == {"open circuits": "mail (open), payments (half-open)"}


async def test_tiers_that_no_code_declares_while_tenants_have_them(ward):
    tiers = (
        b'{"tiers":{"free":{"weight":1},"pro":{"weight":4},"old":{"weight":2}},"declared":["free"],"default":"free"}'
    )
    keys = {"tenant-tiers": tiers, "tenant:acme": b'{"tier":"pro"}', "tenant:bob": b'{"tier":"pro"}'}
    for key, value in {**keys, "tenant:cleo": b'{"tier":"free"}'}.items():
        write = StateWrite(kind="put", key=key, value=value)
        await ward.backend.write_state(ward.op(), Effects(writes=(write,)))
    assert await ward.failed() == {"dropped tiers": "pro (2 tenants)"}


async def test_jobs_that_wait_for_ever_are_found(ward):
    parent = await ward.q.enqueue("parent", delay="100d")
    await ward.q.enqueue("child", depends_on=parent)
    await ward.pass_ms(7 * DAY_MS + 1)
    assert await ward.failed() == {"stuck jobs": "child (1)"}


async def test_jobs_that_a_move_holds_are_found(ward):
    await ward.q.enqueue("mail", delay="1h")
    await ward.backend.amend(ward.op(), Filter(), Change(kind="hold"), None, 10)
    assert await ward.failed() == {"held jobs": "mail (1)"}


async def test_slow_handlers_and_unheeded_cancels_are_found(ward):
    slow = await ward.q.enqueue("slow")
    session = await ward.work("slow")
    await dequeue(ward.backend, ward.op(), session, "slow")
    await slow.cancel()
    await ward.pass_ms(5 * MINUTE_MS)
    assert await ward.failed() == {}
    await ward.pass_ms(1)
    assert await ward.failed() == {"unheeded cancels": "slow (1)"}
    await ward.pass_ms(55 * MINUTE_MS)
    assert await ward.failed() == {"unheeded cancels": "slow (1)", "slow handlers": "slow (1)"}


async def test_dead_jobs_and_their_share_are_found_for_a_day(ward):
    for _ in range(10):
        await ward.q.enqueue("mail", max_retries=0)
    await ward.die("mail", 9)
    assert await ward.failed() == {"dead in the last day": "9 jobs"}
    await ward.die("mail", 1)
    assert await ward.failed() == {"dead in the last day": "10 jobs", "dead ratio": "mail (10 of 10)"}
    await ward.pass_ms(DAY_MS + 1)
    assert await ward.failed() == {}


async def test_jobs_that_kill_their_workers_are_found(ward):
    await ward.q.enqueue("killer", max_retries=9)
    for number in range(4):
        session = Session(id=f"s{number}", worker="w", queues=("killer",), lease_ms=1)
        await ward.backend.open_session(ward.op(), session)
        await dequeue(ward.backend, ward.op(), session.id, "killer")
        # After a time without a reaper the first gives a lease of grace, the second finds it over.
        for by_ms in (70_000, 1_000):
            await ward.pass_ms(by_ms)
            await ward.backend.reap(10)
    assert (await ward.failed())["deadly jobs"] == "killer (1)"


# ── workers ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def worker(name: str = "w", *, left_ms: int = 1, lease_ms: int = 30_000, **said: Any) -> SessionInfo:
    session = Session(
        id=name, worker=name, queues=("q",), lease_ms=lease_ms, meta=msgspec.json.encode(Presence(**said))
    )
    return SessionInfo(session=session, held=2, opened_at_ms=1_000_000, expires_in_ms=left_ms)


@pytest.mark.parametrize(
    ("sessions", "expected"),
    [
        ([], {}),
        ([worker(psyqueue=own_version(), clock_ms=1_001_999)], {}),
        (
            [worker("a", left_ms=-61_000), worker("b")],
            {"worker sessions": "1 of 2 late, up to 1 min 1 s: a", "stranded jobs": "2 held by late sessions"},
        ),
        ([worker(psyqueue="9.9")], {"worker versions": f"here {own_version()}, workers 9.9 (1)"}),
        ([worker(), worker()], {"worker names": "w"}),
        ([worker(clock_ms=1_062_000)], {"worker clocks": "w by 1 min 2 s"}),
        ([worker(lease_ms=4_999)], {"leases": "w 4 s"}),
        ([worker(lease_ms=600_001)], {"leases": "w 10 min"}),
    ],
)
def test_what_is_wrong_with_workers_is_found(sessions: list[SessionInfo], expected: dict[str, str]):
    found: dict[str, Any] = {each.name: each for each in worker_findings(sessions)}
    assert all(bool(each.advice) != each.ok for each in found.values())
    assert {name: each.detail for name, each in found.items() if not each.ok} == expected


def test_what_a_foreign_worker_says_is_read_as_far_as_it_fits():
    for meta in (b"{}", b"[]", b"no json", b'{"psyqueue": 7}', b'{"slots": "many"}'):
        session = Session(id="s", worker="w", queues=("q",), lease_ms=30_000, meta=meta)
        info = SessionInfo(session=session, held=0, opened_at_ms=0, expires_in_ms=1)
        assert all(each.ok for each in worker_findings([info])), meta


def test_every_check_is_documented():
    from support.doctor import IN_THE_STORE, ON_POSTGRES, ON_REDIS
    from support.source import ROOT

    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for name in (*IN_THE_STORE, *ON_POSTGRES, *ON_REDIS):
        assert f"| `{name}` |" in page, name

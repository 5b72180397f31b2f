"""Tenants and their tiers in the time of a test: which limits whose lanes have, enqueues a minute, options."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from enum import StrEnum
from typing import Any

import pytest

from plugins.circuits import Counting
from psyqueue import (
    ConfigError,
    Context,
    InvalidOption,
    InvalidState,
    NotStarted,
    PsyQueue,
    RateLimitError,
    Rejected,
    StoreUnavailable,
    TooLarge,
)
from psyqueue.backend import UNTIL_RESUMED, Effects, Limits, StateWrite
from psyqueue.backends import memory
from psyqueue.plugins import Schedules, SyncTenancy, Tenancy, TenantView, Tier
from psyqueue.plugins.tenancy import porter

FREE = Tier(active_max=2, starts_per_minute=60, pending_max=1_000, enqueues_per_minute=6)
PRO = Tier(weight=4, active_max=20)
UNLIMITED = Tier(weight=1)


class Office:
    """A queue with tenants, in memory; `told` is what it tells of them."""

    def __init__(self, tiers: dict[str, Tier] | None = None, default: str = "free") -> None:
        self.tenancy = Tenancy(tiers or {"free": FREE, "pro": PRO}, default=default)
        self.counting = Counting()
        self.q = PsyQueue().use(memory(test_clock=True)).use(self.tenancy).use(self.counting)
        self.send = self.q.handle("send", self._send, queue="mail")
        self.told: list[dict[str, Any]] = []
        self.q.events.on("tenancy:*", lambda event: self.told.append({"type": event.type, **event.data}))

    async def _send(self) -> str | None:
        return "sent"

    async def enqueue(self, tenant: str, count: int = 1, **options: Any) -> None:
        for _ in range(count):
            await self.send.options(tenant=tenant, **options).enqueue()

    async def lane(self, tenant: str, queue: str = "mail") -> dict[str, int]:
        """What differs from a lane without limits."""
        limits = await self.q.limits(queue, tenant)
        found = {name: getattr(limits, name) for name in ("weight", "active_max", "starts_per_minute", "pending_max")}
        return {name: value for name, value in found.items() if value not in (None, 1)}

    @property
    def porter(self) -> porter.Porter:
        assert self.tenancy._porter is not None
        return self.tenancy._porter

    async def advance(self, seconds: float) -> None:
        await self.q.get_exposed("backend").advance_clock(round(seconds * 1000))


OF_FREE = {"active_max": 2, "starts_per_minute": 60, "pending_max": 1_000}
OF_PRO = {"weight": 4, "active_max": 20}


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture
async def open_office(office) -> Any:
    async with office.q:
        yield office


# ── whose lane has which limits ───────────────────────────────────────────────────────────────────────────────────────
async def test_a_lane_has_the_limits_of_its_tenants_tier(open_office):
    office = open_office
    await office.tenancy.assign("acme", "pro")
    await office.enqueue("acme")
    await office.enqueue("bob")
    assert (await office.lane("acme"), await office.lane("bob")) == (OF_PRO, OF_FREE)
    assert await office.lane("acme", "other") == {}, "it has enqueued nothing there"


async def test_who_is_given_another_tier_has_its_limits_in_all_queues_at_once(open_office):
    office = open_office
    for queue in ("mail", "images"):
        await office.enqueue("acme", queue=queue)
    await office.tenancy.assign("acme", "pro")
    assert [await office.lane("acme", queue) for queue in ("mail", "images")] == [OF_PRO, OF_PRO]
    await office.tenancy.unassign("acme")
    assert [await office.lane("acme", queue) for queue in ("mail", "images")] == [OF_FREE, OF_FREE]


async def test_a_lane_whose_tier_limits_nothing_is_found_again():
    """The store keeps nothing of such limits."""
    office = Office({"open": UNLIMITED, "shut": Tier(active_max=0)}, default="open")
    async with office.q:
        await office.enqueue("acme")
        assert await office.lane("acme") == {}
        await office.tenancy.assign("acme", "shut")
        assert await office.lane("acme") == {"active_max": 0}
        await office.tenancy.unassign("acme")
        assert await office.lane("acme") == {}


async def test_the_pause_of_a_lane_stays(open_office):
    office, kernel = open_office, open_office.tenancy._kernel
    await office.enqueue("acme")
    paused = Limits(queue="mail", lane="acme", paused_until_ms=UNTIL_RESUMED)
    await kernel.operate(lambda op: kernel.store.put_limits(op, (paused,), only=("paused_until_ms",)))
    await office.tenancy.assign("acme", "pro")
    assert (await office.q.limits("mail", "acme")).paused_until_ms == UNTIL_RESUMED
    assert await office.lane("acme") == OF_PRO


async def test_jobs_in_a_lane_that_is_not_the_tenants_own_are_left_alone(open_office):
    office = open_office
    await office.enqueue("acme", lane="night")
    await office.send.options(lane="acme").enqueue()
    await office.send.enqueue()
    assert [await office.lane(lane) for lane in ("night", "acme", "")] == [{}, {}, {}]
    await office.enqueue("acme", lane="acme")
    assert await office.lane("acme") == OF_FREE


async def test_middleware_may_say_whose_job_it_is_and_in_which_queue(office):
    async def whose(ctx: Any, call_next: Any) -> Any:
        for draft in ctx.jobs:
            draft.options.update(tenant="acme", queue="images")
        return await call_next()

    office.q.pipeline("enqueue", whose)
    async with office.q:
        await office.send.enqueue()
        assert await office.lane("acme", "images") == OF_FREE


async def test_what_middleware_makes_wrong_is_refused_as_ever(office):
    async def whose(ctx: Any, call_next: Any) -> Any:
        for draft in ctx.jobs:
            draft.options["tenant"] = ["acme"]
        return await call_next()

    office.q.pipeline("enqueue", whose)
    async with office.q:
        with pytest.raises(InvalidOption, match="tenant"):
            await office.send.enqueue()


async def test_jobs_of_runs_and_of_schedules_are_in_lanes_with_limits(office):
    schedules = Schedules()
    office.q.use(schedules)

    @office.q.handle("import", queue="import")
    async def load(ctx: Context) -> None:
        for _ in range(9):
            ctx.enqueue("send", queue="follow", tenant="acme")

    schedules.add("often", "send", cron="* * * * *", tenant="bob")
    async with office.q.testing() as t:
        await load.enqueue()
        await t.advance("1m")
        assert len([job for job in t.enqueued("send") if job.tenant_id == "acme"]) == 9, (
            "a run is over: none is refused"
        )
        assert (await office.lane("acme", "follow"), await office.lane("bob")) == (OF_FREE, OF_FREE)


async def test_a_lane_that_somebody_limits_by_hand_stays_so_until_the_tier_changes(open_office):
    office = open_office
    await office.enqueue("acme")
    await office.q.limits("mail", "acme", active_max=7)
    await office.advance(60)
    office.porter._known.clear()
    await office.enqueue("acme")
    assert (await office.lane("acme"))["active_max"] == 7
    await office.tenancy.assign("acme", "pro")
    assert await office.lane("acme") == OF_PRO


# ── what a process remembers ──────────────────────────────────────────────────────────────────────────────────────────
async def test_an_enqueue_costs_no_call_of_the_store_while_its_lane_is_remembered():
    office = Office({"free": PRO})
    async with office.q.testing() as t:
        await office.enqueue("acme")
        office.counting.take()
        await office.enqueue("acme", 50)
        await office.send.enqueue()
        assert office.counting.take() == {}
        await t.advance("29s")
        await office.enqueue("acme")
        assert office.counting.take() == {}
        await t.advance("2s")
        await office.enqueue("acme", 5)
        assert office.counting.take() == {"read_state": 1}


async def test_what_many_find_out_at_once_one_asks():
    office = Office({"free": PRO})
    async with office.q.testing():
        await office.tenancy.of("acme")
        office.counting.take()
        await asyncio.gather(*(office.enqueue("acme") for _ in range(50)))
        assert office.counting.take() == {"read_state": 2, "put_limits": 1}


async def test_a_bulk_call_looks_at_all_its_lanes_at_once():
    office = Office({"free": PRO})
    async with office.q.testing():
        await office.tenancy.of("acme")
        office.counting.take()
        items = [office.send.options(tenant=f"t{number}").build() for number in range(450)]
        await office.q.enqueue_bulk(items)
        assert office.counting.take() == {"read_state": 6, "put_limits": 3}
        assert {str(await office.lane(f"t{number}")) for number in range(450)} == {str(OF_PRO)}


async def test_it_remembers_so_many_lanes_and_no_more(monkeypatch):
    monkeypatch.setattr(porter, "KNOWN_MAX", 10)
    office = Office({"free": PRO})
    async with office.q.testing():
        for number in range(25):
            await office.enqueue(f"t{number}")
        assert [tenant for _, tenant in office.porter._known] == [f"t{number}" for number in range(15, 25)]
        await office.q.enqueue_bulk([office.send.options(tenant=f"u{number}").build() for number in range(25)])
        assert len(office.porter._known) == 10


async def test_what_it_looked_at_first_it_forgets_first(monkeypatch):
    monkeypatch.setattr(porter, "KNOWN_MAX", 2)
    office = Office({"free": PRO})
    async with office.q.testing() as t:
        for tenant in ("acme", "bob"):
            await office.enqueue(tenant)
        await t.advance("31s")
        for tenant in ("acme", "cleo"):
            await office.enqueue(tenant)
        assert [tenant for _, tenant in office.porter._known] == ["acme", "cleo"]


async def test_without_a_store_an_enqueue_fails_as_it_would_anyway(open_office):
    open_office.counting.is_away = True
    with pytest.raises(StoreUnavailable):
        await open_office.enqueue("acme")


class Slow:
    """A plugin whose store answers a look when `may_go` is set, and then that it is away."""

    name = "slow"

    def __init__(self) -> None:
        self.calls, self.may_go = 0, asyncio.Event()

    def init(self, kernel: Any) -> None:
        kernel.wrap_backend(lambda inner: SlowStore(inner, self))


class SlowStore:
    def __init__(self, inner: Any, slow: Slow) -> None:
        self._inner, self._slow = inner, slow

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._inner, verb)

    async def read_state(self, keys: Any) -> Any:
        self._slow.calls += 1
        await self._slow.may_go.wait()
        raise StoreUnavailable("it is away", "refused")


async def test_who_waits_for_a_look_that_fails_is_told_with_it(office):
    """And does not find out by himself, one after the other, each as long as the store lets him wait."""
    slow = Slow()
    office.q.use(slow)
    async with office.q:
        crowd = [asyncio.ensure_future(office.enqueue("acme")) for _ in range(20)]
        while not slow.calls:
            await asyncio.sleep(0)
        slow.may_go.set()
        assert {type(end) for end in await asyncio.gather(*crowd, return_exceptions=True)} == {StoreUnavailable}
        assert slow.calls <= 2, "that of the crowd, and that of the start"


async def test_lanes_are_told_once_the_store_is_there():
    office = Office()
    office.counting.is_away = True
    async with office.q.testing() as t:
        await t.advance("1m")
        office.counting.is_away = False
        await t.advance("10s")
        assert (await office.tenancy.of("acme")).tier == "free"
        assert (await office.porter._roster.tiers()).are_lanes_told


# ── enqueues a minute ─────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_tenant_enqueues_so_many_jobs_a_minute_in_all_queues_together(open_office):
    office = open_office
    for queue in ("mail", "images"):
        await office.enqueue("acme", 3, queue=queue)
    with pytest.raises(RateLimitError) as caught:
        await office.enqueue("acme")
    assert caught.value.retry_after == 10
    assert office.told == [{"type": "tenancy:rate-limited", "tenant": "acme", "retry_after_ms": 10_000}]
    assert len(await office.q.jobs(tenant="acme")) == 6
    await office.enqueue("bob", 6)
    await office.advance(10)
    await office.enqueue("acme")
    with pytest.raises(RateLimitError):
        await office.enqueue("acme", lane="night")


async def test_a_call_is_taken_as_a_whole_or_not_at_all(open_office):
    office = open_office
    await office.enqueue("bob")
    of_acme = [office.send.options(tenant="acme", queue=queue).build() for queue in ("mail", "other") * 2]
    of_bob = [office.send.options(tenant="bob").build() for _ in range(6)]
    with pytest.raises(RateLimitError):
        await office.q.enqueue_bulk([*of_acme, *of_bob])
    assert [len(await office.q.jobs(tenant=tenant)) for tenant in ("acme", "bob")] == [0, 1]
    await office.enqueue("acme", 6)
    await office.enqueue("bob", 5)


async def test_a_call_of_more_than_ever_fit_is_too_large(open_office):
    with pytest.raises(TooLarge, match="7 jobs of tenant 'acme' in one call, and its tier takes 6 a minute"):
        await open_office.q.enqueue_bulk([open_office.send.build() for _ in range(7)], tenant="acme")


async def test_another_tier_gives_nobody_a_burst():
    office = Office({"free": FREE, "quick": Tier(enqueues_per_minute=60), "slow": Tier(enqueues_per_minute=2)})
    async with office.q:
        await office.enqueue("acme", 6)
        for tier in ("quick", "slow", "quick"):
            await office.tenancy.assign("acme", tier)
            with pytest.raises(RateLimitError):
                await office.enqueue("acme")
        await office.advance(1)
        await office.enqueue("acme")
        with pytest.raises(RateLimitError):
            await office.enqueue("acme")
        await office.advance(60)
        await office.enqueue("acme", 60)


async def test_buckets_of_tenants_that_are_quiet_go_away(open_office):
    office = open_office
    await office.enqueue("acme")
    await office.advance(61)
    await office.q.get_exposed("backend").prune(500)
    items, _ = await office.q.get_exposed("backend").scan_state("tenant-enqueues:", None, 9)
    assert items == ()


async def test_what_other_middleware_turns_away_is_not_counted(office):
    async def refuse(ctx: Any, call_next: Any) -> Any:
        if ctx.jobs[0].options.get("meta"):
            raise Rejected("no")
        return await call_next()

    office.q.pipeline("enqueue", refuse)
    async with office.q:
        for _ in range(9):
            with pytest.raises(Rejected):
                await office.enqueue("acme", meta={"no": 1})
        await office.enqueue("acme", 6)


async def test_an_instant_of_a_schedule_is_made_later_when_it_is_refused():
    office = Office({"free": Tier(enqueues_per_minute=1)})
    schedules = Schedules()
    office.q.use(schedules)
    schedules.add("often", office.send.build(), every="20s", tenant="acme", missed="all")
    async with office.q.testing() as t:
        await t.advance("10m")
        assert 9 <= len(t.enqueued("send")) <= 11


# ── look and change ───────────────────────────────────────────────────────────────────────────────────────────────────
async def test_any_tenant_has_a_tier_and_the_list_shows_those_that_were_assigned_one(open_office):
    office, tenancy = open_office, open_office.tenancy
    assert await tenancy.of("acme") == TenantView(id="acme", tier="free", is_assigned=False, limits=FREE)
    given = await tenancy.assign("acme", "pro")
    assert given == TenantView(id="acme", tier="pro", is_assigned=True, limits=PRO) == await tenancy.of("acme")
    await tenancy.assign("bob", "free")
    await tenancy.assign("cleo", "pro")
    page = await tenancy.list(limit=2)
    rest = await tenancy.list(cursor=page.cursor)
    assert [(view.id, view.tier) for view in (*page.items, *rest.items)] == [
        ("acme", "pro"),
        ("bob", "free"),
        ("cleo", "pro"),
    ]
    assert rest.cursor is None
    assert (await tenancy.unassign("acme")).is_assigned is False
    assert (await tenancy.unassign("acme")).tier == "free"
    assert [(each["tenant"], each["tier"]) for each in office.told] == [
        ("acme", "pro"),
        ("bob", "free"),
        ("cleo", "pro"),
        ("acme", "free"),
    ]
    await tenancy.assign("cleo", "pro")
    assert len(office.told) == 4, "nothing is new"


def test_it_is_done_without_asyncio(office):
    assert isinstance(office.tenancy.sync, SyncTenancy)
    with office.q.sync.testing():
        assert office.tenancy.sync.assign("acme", "pro").tier == "pro"
        assert len(office.tenancy.sync.list()) == 1
        assert office.tenancy.sync.unassign("acme") == office.tenancy.sync.of("acme")


async def test_its_limits_hold_in_the_time_of_a_test(office):
    async with office.q.testing() as t:
        await office.enqueue("acme", 6)
        began = t.now
        await t.drain()
        await t.advance("1m")
        started = sorted(job.started_at - began for job in t.enqueued("send"))
        assert started == [timedelta(seconds=number) for number in range(6)], "60 starts a minute"
        await office.enqueue("acme", 6)


# ── tiers of the code and of the store ────────────────────────────────────────────────────────────────────────────────
async def redeclare(office: Office, tiers: dict[str, Tier], default: str) -> None:
    """As a process of another release does when it starts."""
    roster = await office.porter.roster()
    await roster.declare(tiers, default)
    await roster.tell_lanes()


async def test_a_new_release_changes_the_lanes_that_are_there(open_office):
    office = open_office
    for tenant in ("acme", "bob"):
        await office.enqueue(tenant)
    await office.tenancy.assign("bob", "pro")
    await redeclare(office, {"free": Tier(active_max=3), "pro": Tier(active_max=9)}, "free")
    assert [await office.lane(tenant) for tenant in ("acme", "bob")] == [{"active_max": 3}, {"active_max": 9}]
    await redeclare(office, {"free": Tier(active_max=3), "pro": Tier(active_max=9)}, "pro")
    assert [await office.lane(tenant) for tenant in ("acme", "bob")] == [{"active_max": 9}, {"active_max": 9}]


async def test_a_process_of_the_old_release_goes_by_what_is_in_the_store(open_office):
    office = open_office
    await redeclare(office, {"free": Tier(active_max=3, enqueues_per_minute=1), "pro": PRO}, "free")
    await office.enqueue("acme")
    assert await office.lane("acme") == {"active_max": 3}
    with pytest.raises(RateLimitError):
        await office.enqueue("acme")
    office.counting.take()
    await redeclare(office, {"free": Tier(active_max=3, enqueues_per_minute=1), "pro": PRO}, "free")
    assert office.counting.take() == {"read_state": 2}, "nothing differs"


async def test_a_start_that_died_before_it_told_all_lanes_is_finished_by_the_next_one(open_office):
    office = open_office
    await office.enqueue("acme")
    roster = await office.porter.roster()
    await roster.declare({"free": Tier(active_max=3), "pro": PRO}, "free")
    assert await office.lane("acme") == OF_FREE
    await redeclare(office, {"free": Tier(active_max=3), "pro": PRO}, "free")
    assert await office.lane("acme") == {"active_max": 3}


async def test_tenants_keep_a_tier_that_code_has_dropped(open_office):
    office = open_office
    await office.tenancy.assign("acme", "pro")
    await redeclare(office, {"free": FREE}, "free")
    await office.enqueue("acme")
    assert (await office.lane("acme"), (await office.tenancy.of("acme")).tier) == (OF_PRO, "pro")
    tiers = await office.porter._roster.tiers()
    assert (sorted(tiers.tiers), tiers.declared) == (["free", "pro"], ("free",))
    with pytest.raises(InvalidOption, match="is a tier that no code declares any more"):
        await office.tenancy.assign("bob", "pro")


async def test_who_puts_other_tiers_in_place_of_those_that_are_there_says_so(open_office, caplog):
    await open_office.tenancy.of("acme")
    assert "tiers of tenants are others now" not in caplog.text, "the first ones replace none"
    await redeclare(open_office, {"free": UNLIMITED}, "free")
    (record,) = [each for each in caplog.records if "are others now" in each.message]
    assert (sorted(record.were), record.are) == (["free", "pro"], {"free": {"weight": 1}})


async def test_who_was_given_a_higher_tier_by_another_process_is_not_refused_by_the_memory_of_this_one(open_office):
    office = open_office
    await office.enqueue("acme", 6)
    porter_ = office.porter
    for lane, known in list(porter_._known.items()):
        porter_._known[lane] = type(known)(known.at_ms - porter.FRESH_MS, known.rate)
    await porter_._roster.assign("acme", "pro")  # as another process does it: nothing is forgotten here
    await office.enqueue("acme", 3)
    assert [each for each in office.told if each["type"] == "tenancy:rate-limited"] == []


async def test_who_hammers_at_an_empty_bucket_is_looked_at_once_a_second(open_office):
    office = open_office
    await office.enqueue("acme", 6)
    office.counting.take()
    for _ in range(5):
        with pytest.raises(RateLimitError):
            await office.enqueue("acme")
    assert office.counting.take().get("read_state", 0) <= 1
    assert len(office.told) == 5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tenant-tiers", b'{"tiers":{},"declared":[],"default":"x","format":2}'),
        ("tenant-tiers", b'{"tiers":{"free":{"new":1}},"declared":[],"default":"free","format":1}'),
        ("tenant-tiers", b"7"),
        ("tenant:acme", b'{"tier":"pro","format":2}'),
        ("tenant:acme", b'{"tier":"gold","format":1}'),
    ],
)
async def test_what_it_cannot_read_it_says(open_office, key, value):
    office = open_office
    kernel = office.tenancy._kernel
    await office.tenancy.of("acme")
    write = StateWrite(kind="put", key=key, value=value)
    await kernel.operate(lambda op: kernel.store.write_state(op, Effects(writes=(write,))))
    with pytest.raises(InvalidState, match=r"later release|assign another"):
        await office.tenancy.of("acme")
    with pytest.raises(InvalidState):
        await office.enqueue("acme")


# ── options ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("fields", "option"),
    [
        ({}, "tiers"),
        ({"weight": 0}, "weight"),
        ({"weight": 10_001}, "weight"),
        ({"active_max": -1}, "active_max"),
        ({"active_max": 2.0}, "active_max"),
        ({"starts_per_minute": True}, "starts_per_minute"),
        ({"starts_burst": 0}, "starts_burst"),
        ({"starts_burst": 5, "weight": 2}, "starts_burst"),
        ({"pending_max": "7"}, "pending_max"),
        ({"enqueues_per_minute": 0}, "enqueues_per_minute"),
        ({"enqueues_per_minute": 1.5}, "enqueues_per_minute"),
    ],
)
def test_bad_tiers_are_refused_by_the_name_of_the_field(fields, option):
    with pytest.raises(InvalidOption) as caught:
        Tier(**fields)
    assert caught.value.option == option


@pytest.mark.parametrize(
    ("tiers", "default", "option"),
    [
        ({}, "free", "tiers"),
        ([FREE], "free", "tiers"),
        ({"free": {"active_max": 2}}, "free", "tiers"),
        ({"": FREE}, "", "tiers"),
        ({"a\x1fb": FREE}, "a\x1fb", "tiers"),
        ({"free": FREE}, "pro", "default"),
        ({"free": FREE}, None, "default"),
    ],
)
def test_bad_options_are_refused_by_name(tiers, default, option):
    with pytest.raises(InvalidOption) as caught:
        Tenancy(tiers, default=default)
    assert caught.value.option == option


@pytest.mark.parametrize(
    ("tenant", "tier", "option"),
    [("", "pro", "tenant"), ("a\x1fb", "pro", "tenant"), (3, "pro", "tenant"), ("a", "", "tier")],
)
async def test_names_that_cannot_be_are_refused(open_office, tenant, tier, option):
    with pytest.raises(InvalidOption) as caught:
        await open_office.tenancy.assign(tenant, tier)
    assert caught.value.option == option


async def test_a_tier_that_is_not_there_cannot_be_assigned(open_office):
    with pytest.raises(InvalidOption, match=r"'gold': is no tier. There are free, pro"):
        await open_office.tenancy.assign("acme", "gold")
    assert not (await open_office.tenancy.of("acme")).is_assigned


def names() -> Iterator[type[StrEnum]]:
    class Tenants(StrEnum):
        ACME = "acme"

    class Tiers(StrEnum):
        FREE = "free"
        PRO = "pro"

    yield Tenants
    yield Tiers


async def test_names_may_be_members_of_enumerations():
    tenants, tiers = names()
    office = Office({tiers["FREE"]: FREE, tiers["PRO"]: PRO}, default=tiers["FREE"])
    async with office.q:
        await office.tenancy.assign(tenants["ACME"], tiers["PRO"])
        await office.enqueue(tenants["ACME"])
        assert (await office.lane("acme"), (await office.tenancy.of("acme")).tier) == (OF_PRO, "pro")


async def test_it_belongs_to_one_queue_that_is_started(office):
    with pytest.raises(ConfigError, match="another queue"):
        PsyQueue().use(memory()).use(office.tenancy)
    with pytest.raises(NotStarted):
        await office.tenancy.of("acme")
    with pytest.raises(ConfigError, match="no queue yet"):
        await Tenancy({"free": FREE}, default="free").of("acme")
    assert office.q.get_exposed("tenancy") is office.tenancy

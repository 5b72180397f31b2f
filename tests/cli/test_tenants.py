"""`psyqueue tenants`: what it answers to people and to programs, on every store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from psyqueue import PsyQueue
from psyqueue.plugins import Tenancy, Tier

TIERS = {
    "free": Tier(active_max=2, starts_per_minute=60, enqueues_per_minute=120),
    "pro": Tier(weight=4, active_max=20),
}
NOTHING = {"weight": 1, "active_max": None, "starts_per_minute": None, "starts_burst": 1, "pending_max": None}
OF_FREE = {**NOTHING, "active_max": 2, "starts_per_minute": 60}
OF_PRO = {**NOTHING, "weight": 4, "active_max": 20}


def in_an_application(url: str, *tenants: str, tiers: dict[str, Tier] = TIERS) -> None:
    """Start one, enqueue a job for each of these tenants, and stop."""

    async def work() -> None:
        tenancy = Tenancy(tiers, default="free")
        async with PsyQueue.from_url(url).use(tenancy) as q:
            await tenancy.of("anybody")  # at the latest then the store knows the tiers
            for tenant in tenants:
                await q.enqueue("send", queue="mail", tenant=tenant)

    asyncio.run(work())


@pytest.fixture
def office(stored: Any) -> Any:
    """A store that knows two tiers, and two tenants with jobs."""
    in_an_application(stored.url, "acme", "bob")
    return stored


def test_a_tenant_is_given_a_tier_and_its_lanes_the_limits_of_it(office):
    free = {"id": "acme", "tier": "free", "is_assigned": False, "limits": {**OF_FREE, "enqueues_per_minute": 120}}
    assert office.json("tenants", "show", "acme") == {**free, "lanes": [{"queue": "mail", **OF_FREE}]}
    pro = {"id": "acme", "tier": "pro", "is_assigned": True, "limits": {**OF_PRO, "enqueues_per_minute": None}}
    assert office.json("tenants", "assign", "acme", "pro") == pro
    assert office.json("tenants", "show", "acme") == {**pro, "lanes": [{"queue": "mail", **OF_PRO}]}
    assert office.json("queues", "limits", "mail", "--lane", "acme")["active_max"] == 20
    assert office.json("tenants", "unassign", "acme") == free
    assert office.json("queues", "limits", "mail", "--lane", "acme")["active_max"] == 2


def test_ls_shows_those_that_were_assigned_one_page_by_page(office):
    assert office.call("tenants", "ls").out == "No tenant was assigned a tier.\n"
    for tenant in ("cleo", "acme", "bob"):
        assert office.call("tenants", "assign", tenant, "pro").code == 0
    page = office.json("tenants", "ls", "--limit", "2")
    assert page["items"] == [{"id": "acme", "tier": "pro"}, {"id": "bob", "tier": "pro"}]
    rest = office.json("tenants", "ls", "--cursor", page["cursor"])
    assert rest == {"items": [{"id": "cleo", "tier": "pro"}], "cursor": None}
    told = office.call("tenants", "ls", "--limit", "2")
    assert [line.split() for line in told.out.splitlines()] == [["ID", "TIER"], ["acme", "pro"], ["bob", "pro"]]
    assert "There are more: --cursor" in told.err


def test_it_is_told_to_people(cli):
    in_an_application(cli.url, "acme")
    told = cli.call("tenants", "show", "acme").out
    assert [line.split() for line in told.splitlines()[:4]] == [
        ["id", "acme"],
        ["tier", "free"],
        ["is_assigned", "no"],
        ["weight", "1"],
    ]
    assert told.splitlines()[-1].split() == ["mail", "1", "2", "60", "1", "none"]
    assert "is_assigned" in cli.call("tenants", "assign", "acme", "pro").out
    assert cli.call("tenants", "tiers").out.splitlines()[1].split()[0] == "free"


def test_tiers_are_told_with_those_that_no_code_declares_any_more(cli):
    in_an_application(cli.url)
    assert cli.call("tenants", "assign", "acme", "pro").code == 0
    in_an_application(cli.url, tiers={"free": TIERS["free"]})
    free, pro = cli.json("tenants", "tiers")["items"]
    assert free == {"name": "free", "is_default": True, "is_declared": True, **OF_FREE, "enqueues_per_minute": 120}
    assert pro == {"name": "pro", "is_default": False, "is_declared": False, **OF_PRO, "enqueues_per_minute": None}
    checks = {each["name"]: each for each in cli.call("doctor", "--json").json["checks"]}
    assert (checks["dropped tiers"]["ok"], checks["dropped tiers"]["detail"]) == (False, "pro (1 tenant)")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("assign", "acme", "gold"), 2, "option tier='gold': is no tier. There are free, pro"),
        (("assign", "acme"), 2, "Missing argument 'TIER'"),
        (("show", ""), 2, "option tenant='': has 0 characters"),
        (("unassign", "a\nb"), 2, "holds a control character"),
        (("ls", "--limit", "0"), 2, "Invalid value for '--limit'"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(cli, arguments, code, told):
    in_an_application(cli.url)
    answer = cli.call("tenants", *arguments)
    assert (answer.code, answer.out) == (code, "")
    assert told in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    "words", [("tiers",), ("ls",), ("show", "acme"), ("assign", "acme", "pro"), ("unassign", "acme")]
)
def test_a_store_that_knows_no_tiers_says_who_declares_them(cli, words):
    cli.enqueue("mail")
    answer = cli.call("tenants", *words)
    assert (answer.code, answer.out) == (1, "")
    assert "there are no tiers yet: a process that has q.use(Tenancy(...)) declares them when it starts" in answer.err


def test_tenants_their_tiers_and_lanes_move_with_the_store(cli):
    in_an_application(cli.url, "acme", "bob")
    assert cli.call("tenants", "assign", "acme", "pro").code == 0
    before = [cli.json("tenants", *words) for words in (["show", "acme"], ["show", "bob"], ["tiers"])]
    elsewhere = f"sqlite:{cli.folder}/elsewhere.db"
    cli.json("migrate", "--from", cli.url, "--to", elsewhere, "--yes")
    cli.url = elsewhere
    assert [cli.json("tenants", *words) for words in (["show", "acme"], ["show", "bob"], ["tiers"])] == before
    in_an_application(cli.url, "acme")
    assert cli.json("tenants", "show", "acme") == before[0]


def test_a_store_that_is_not_there_is_not_made(cli):
    answer = cli.call("tenants", "ls", "--backend", "sqlite:./none.db")
    assert answer.code == 2
    assert not (cli.folder / "none.db").exists()

"""`psyqueue tenants ls|show|assign|unassign|tiers`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import click
from msgspec.structs import asdict

from psyqueue.backend import Limits
from psyqueue.backend.compose import limits_of
from psyqueue.cli import output
from psyqueue.cli.existing import require_store
from psyqueue.cli.surface import DONE, Surface, on_store, work_on
from psyqueue.errors import InvalidOption
from psyqueue.job import name_problem
from psyqueue.kernel.extension import Kernel, read_cursor
from psyqueue.plugins import TenantView, Tier
from psyqueue.plugins.tenancy.roster import Roster
from psyqueue.plugins.tenancy.tier import LANE_SETTINGS


class _Visitor:
    """A plugin that lets the command into the kernel."""

    name = "tenants"

    def init(self, kernel: Kernel) -> None:
        self.kernel: Kernel = kernel


def _name(_: click.Context, parameter: click.Parameter, text: str) -> str:
    """Of a tenant. Raises InvalidOption."""
    problem = name_problem(text)
    if problem:
        raise InvalidOption(parameter.name or "", text, problem)
    return text


@click.group()
def tenants() -> None:
    """Who shares the queues: look at tenants and their tiers, give a tenant another one."""


@tenants.command("ls")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="How many of a page.")
@click.option("--cursor", help="Go on where an earlier call ended.")
@on_store
def tenants_ls(surface: Surface, limit: int, cursor: str | None) -> int:
    """Tenants that were assigned a tier, by id; all others have the default one."""

    async def work(_: Kernel, roster: Roster) -> int:
        views, rest = await roster.page(read_cursor(cursor), limit)
        if surface.is_json:
            output.print_json({"items": [{"id": view.id, "tier": view.tier} for view in views], "cursor": rest})
            return DONE
        output.print_table(("id", "tier"), ((v.id, v.tier) for v in views), empty="No tenant was assigned a tier.")
        if rest is not None:
            output.say(f"There are more: --cursor '{rest}'")
        return DONE

    return _visit(surface, work)


@tenants.command("show")
@click.argument("tenant", callback=_name)
@on_store
def tenants_show(surface: Surface, tenant: str) -> int:
    """One tenant, with its tier and the limits that its lanes have now."""

    async def work(kernel: Kernel, roster: Roster) -> int:
        view = await roster.find(tenant)
        lanes = [await limits_of(kernel.store, queue, tenant) for queue in await roster.queues(tenant)]
        if surface.is_json:
            output.print_json({**_document(view), "lanes": [_of_lane(each) for each in lanes]})
            return DONE
        _print(view)
        if lanes:
            click.echo()
            output.print_table(("queue", *LANE_SETTINGS), (_row(_of_lane(each)) for each in lanes), empty="")
        return DONE

    return _visit(surface, work)


@tenants.command("assign")
@click.argument("tenant", callback=_name)
@click.argument("tier")
@on_store
def tenants_assign(surface: Surface, tenant: str, tier: str) -> int:
    """Give TENANT this tier; its lanes in all queues have the limits of it then."""
    return _change(surface, lambda roster: roster.assign(tenant, tier))


@tenants.command("unassign")
@click.argument("tenant", callback=_name)
@on_store
def tenants_unassign(surface: Surface, tenant: str) -> int:
    """Give TENANT the default tier again."""
    return _change(surface, lambda roster: roster.unassign(tenant))


@tenants.command("tiers")
@on_store
def tenants_tiers(surface: Surface) -> int:
    """All tiers, with what each allows; code declares them."""

    async def work(_: Kernel, roster: Roster) -> int:
        tiers = await roster.tiers()
        items = [
            {
                "name": name,
                "is_default": name == tiers.default,
                "is_declared": name in tiers.declared,
                **_settings(tier),
            }
            for name, tier in sorted(tiers.tiers.items())
        ]
        if surface.is_json:
            output.print_json({"items": items})
        else:
            output.print_table(tuple(items[0]), map(_row, items), empty="")
        return DONE

    return _visit(surface, work)


def _change(surface: Surface, change: Callable[[Roster], Awaitable[TenantView]]) -> int:
    async def work(_: Kernel, roster: Roster) -> int:
        view = await change(roster)
        if surface.is_json:
            output.print_json(_document(view))
        else:
            _print(view)
        return DONE

    return _visit(surface, work)


def _visit(surface: Surface, work: Callable[[Kernel, Roster], Awaitable[int]]) -> int:
    """On a queue of our own: a command that looks does not create a store."""
    queue, visitor = surface.queue(), _Visitor()
    require_store(queue.get_exposed("backend"))
    queue.use(visitor)
    return work_on(queue, lambda _: work(visitor.kernel, Roster(visitor.kernel)))


def _settings(tier: Tier) -> dict[str, Any]:
    """With what it is where the tier does not name it."""
    of_lane = _of_lane(tier.limits("", ""))
    del of_lane["queue"]
    return {**of_lane, "enqueues_per_minute": tier.enqueues_per_minute}


def _of_lane(limits: Limits) -> dict[str, Any]:
    return {"queue": limits.queue, **{setting: getattr(limits, setting) for setting in LANE_SETTINGS}}


def _document(view: TenantView) -> dict[str, Any]:
    return {**asdict(view), "limits": _settings(view.limits)}


def _row(fields: Mapping[str, Any]) -> list[object]:
    """For people."""
    return [_shown(value) for value in fields.values()]


def _shown(value: object) -> object:
    return "none" if value is None else value


def _print(view: TenantView) -> None:
    fields = {"id": view.id, "tier": view.tier, "is_assigned": view.is_assigned, **_settings(view.limits)}
    output.print_fields((field, _shown(value)) for field, value in fields.items())

"""Presets: what each brings, what can be said otherwise, and what is refused."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from psyqueue import PsyQueue
from psyqueue.errors import ConfigError, InvalidOption, MissingExtra
from psyqueue.kernel import presets
from psyqueue.kernel.presets import GROUP, Preset
from psyqueue.plugins import Schedules, Tenancy, Tier, Workflows

NAMES = {
    "lite": ["schedules"],
    "saas": ["schedules", "workflows", "tenancy", "metrics"],
    "enterprise": ["schedules", "workflows", "tenancy", "metrics", "tracing"],
}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_all_presets_are_described():
    assert {point.name for point in entry_points(group=GROUP)} == set(NAMES)
    assert {name: list(presets.preset_of(name).plugins) for name in NAMES} == NAMES


@pytest.mark.parametrize("name", NAMES)
async def test_a_preset_installs_its_plugins(name, registry):
    metrics = {} if name == "lite" else {"metrics": {"registry": registry}}
    q = PsyQueue.from_preset(name, "memory:", name="shop", **metrics)
    assert q.name == "shop"
    for plugin in NAMES[name]:
        if plugin != "tracing":  # it has nothing to offer to others
            assert q.get_exposed(plugin) is not None
    installed = {each.name for each in q._core.registry.order()}
    assert ("tracing" in installed) == (name == "enterprise")

    @q.handle("greet")
    async def greet(name: str) -> str:
        return f"hello {name}"

    async with q:
        job = await greet.options(tenant="acme").enqueue("ada")
        await q.process_next("greet")
        assert await job.result() == "hello ada"


def test_the_store_is_the_preset_s_unless_somebody_says_otherwise(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    backends = [PsyQueue.from_preset("lite").get_exposed("backend")]
    backends.append(PsyQueue.from_preset("lite", "sqlite:./other.db").get_exposed("backend"))
    monkeypatch.setenv("PSYQUEUE_URL", "sqlite:./set.db")
    backends.append(PsyQueue.from_preset("lite", "sqlite:./other.db").get_exposed("backend"))
    assert [Path(backend.options.path).name for backend in backends] == ["jobs.db", "other.db", "set.db"]


def test_a_plugin_is_left_out_made_before_or_given_options():
    mine = Schedules(makes_jobs=False)
    tenancy = {"tiers": {"free": Tier(active_max=2)}, "default": "free"}
    q = PsyQueue.from_preset(
        "saas", "memory:", schedules=mine, metrics=False, tenancy=tenancy, workflows={"queue": "w"}
    )
    assert q.get_exposed("schedules") is mine
    assert isinstance(q.get_exposed("tenancy"), Tenancy)
    assert isinstance(q.get_exposed("workflows"), Workflows)
    with pytest.raises(ConfigError, match="nothing is exposed as 'metrics'"):
        q.get_exposed("metrics")


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("huge", {}, "there is no preset 'huge'; there are enterprise, lite, saas"),
        (None, {}, "there is no preset None"),
        ("lite", {"tenancy": {}}, "is no plugin of this preset. There are schedules"),
        ("lite", {"schedules": {"every": "5m"}}, "are no options of this plugin"),
        ("saas", {"tenancy": {"tiers": {}}}, "is no mapping of names to tiers"),
    ],
)
def test_what_makes_no_sense_is_refused(name: Any, options, told):
    with pytest.raises(ConfigError) as caught:
        PsyQueue.from_preset(name, "memory:", **options)
    assert told in caught.value.message
    assert isinstance(caught.value, InvalidOption) == bool(options)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client", None)
    with pytest.raises(MissingExtra, match=r"pip install 'psyqueue\[metrics\]'"):
        PsyQueue.from_preset("saas", "memory:")


def test_another_package_adds_a_preset(monkeypatch):
    point = EntryPoint("ours", "x:y", GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda _: Preset("memory:", {"timetable": Schedules}))
    monkeypatch.setattr(presets, "entry_points", lambda **_: (point,))
    q = PsyQueue()
    assert list(presets.preset_of("ours").plugins) == ["timetable"]
    assert q.use(*presets.preset_of("ours").made({})).get_exposed("schedules") is not None

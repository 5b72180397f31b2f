"""From an address to a queue: backends are found by entry points, options are read by type, passwords never shown."""

from __future__ import annotations

from typing import Any

import pytest

from psyqueue import ConfigError, InvalidOption, PsyQueue
from psyqueue.config import mask
from psyqueue.kernel import stores


class Point:
    """An entry point of a third party."""

    def __init__(self, name, value, factory):
        self.name, self.value, self._factory = name, value, factory

    def load(self):
        return self._factory


class Made:
    name = "backend-made"

    def __init__(self, **given):
        self.given = given


def made(*, url: str = "", size: int = 1, fast: bool = False, ratio: float = 0.0, wait: str | int = "1s") -> Made:
    return Made(url=url, size=size, fast=fast, ratio=ratio, wait=wait)


@pytest.fixture
def third_party(monkeypatch):
    points = [Point("made", "made:made", made)]

    def entry_points(*, group, name=None):
        assert group == "psyqueue.backends"
        return [point for point in points if name in (None, point.name)]

    monkeypatch.setattr(stores, "entry_points", entry_points)
    return points


async def test_queue_from_an_address_works():
    async with PsyQueue.from_url("memory:", name="shop") as q:
        assert q.name == "shop"
        assert (await q.enqueue("x")).created
        assert (await q.durability()).store == "memory"


async def test_options_of_the_address_are_read():
    async with PsyQueue.from_url("memory:?test_clock=true") as q:
        assert q.get_exposed("backend").capabilities.test_clock
    async with PsyQueue.from_url("memory:", test_clock=True) as q:
        assert q.get_exposed("backend").capabilities.test_clock


def test_text_becomes_what_the_factory_asks_for(third_party):
    plugin: Any = stores.plugin_for("made://host/x?size=3&fast=true&ratio=0.5&wait=2s", {})
    assert plugin.given == {"url": "made://host/x", "size": 3, "fast": True, "ratio": 0.5, "wait": "2s"}
    plugin = stores.plugin_for("MADE:x", {"size": 4})
    assert plugin.given["size"] == 4


@pytest.mark.parametrize(
    ("url", "options", "option"),
    [
        ("made:x?sise=3", {}, "sise"),
        ("made:x", {"sise": 3}, "sise"),
        ("made:x?size=many", {}, "size"),
        ("made:x?fast=perhaps", {}, "fast"),
        ("made:x?size=1", {"size": 2}, "size"),
        ("made:x?url=y", {}, "url"),
    ],
)
def test_wrong_option_is_refused_by_name(third_party, url, options, option):
    with pytest.raises(InvalidOption) as caught:
        stores.plugin_for(url, options)
    assert caught.value.option == option


@pytest.mark.parametrize("url", ["", "jobs.db", "://x", "1:x", 7, None])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConfigError, match="is no address of a store"):
        PsyQueue.from_url(url)


def test_unknown_scheme_lists_what_there_is(third_party):
    with pytest.raises(ConfigError, match=r"no backend for 'mongo://host': there are made"):
        stores.plugin_for("mongo://host", {})


def test_address_of_sqlalchemy_is_told_what_to_leave_out(third_party):
    with pytest.raises(ConfigError, match=r"there is 'made', so leave \+driver out"):
        stores.plugin_for("made+driver://host/x", {})
    with pytest.raises(ConfigError, match=r"no backend for 'mongo\+srv://host': there are made"):
        stores.plugin_for("mongo+srv://host", {})


def test_two_packages_that_bring_one_scheme_are_an_error(third_party):
    third_party.append(Point("made", "other:made", made))
    with pytest.raises(ConfigError, match=r"several packages.*made:made, other:made"):
        stores.plugin_for("made:x", {})


@pytest.mark.parametrize("url", ["memory:x?a", "memory:?a=1&a=2"])
def test_broken_options_are_refused(url):
    with pytest.raises(ConfigError):
        PsyQueue.from_url(url)


def test_memory_has_no_address():
    with pytest.raises(ConfigError, match="has no address"):
        PsyQueue.from_url("memory:jobs")


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter2@host:1/zero",
        "mongo://:hunter2@host",
        "x://u:hunter2@h?a",
        "x://:#hunter2@h",
        "x://:/hunter2@h",
        "x://:?hunter2@h",
        "x://u:1?hunter2=1@h",
        "x://:a?hunter2=1@h",
        "redis::hunter2@h:6379",
        "app:hunter2@h:6379",
        "://:hunter2@h",
        "redis://h?passwd=hunter2",
        "redis://h?password=hunter2&db=two",
        "redis://h?password=hunter2&password=hunter2",
        "redis://h?url=redis://:hunter2@h",
    ],
)
def test_no_error_shows_a_password(url):
    with pytest.raises(ConfigError) as caught:
        PsyQueue.from_url(url)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value.context)


def test_a_password_in_the_address_and_as_an_option_is_refused_and_not_shown():
    with pytest.raises(InvalidOption, match="in the URL too") as caught:
        PsyQueue.from_url("redis://h?password=hunter2", password="hunter3")
    assert "hunter" not in str(caught.value)


def test_an_address_is_shown_without_its_password_and_else_as_it_is():
    assert mask("redis://user:hunter2@host:1/0") == "redis://user:***@host:1/0"
    for url in ("redis://user@host", "sqlite:./a@b.db", "sqlite:///a@b.db", "unix:///x@y.sock", "memory:"):
        assert mask(url) == url


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:./rel.db", "{cwd}/rel.db"),
        ("sqlite:rel.db", "{cwd}/rel.db"),
        ("sqlite:/abs.db", "/abs.db"),
        ("sqlite:///abs.db", "/abs.db"),
        ("sqlite:///with%20space.db", "/with space.db"),
        ("sqlite::memory:", ":memory:"),
    ],
)
def test_sqlite_addresses_mean_these_files(url, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plugin: Any = stores.plugin_for(url, {})
    assert plugin.adapter._options.file == path.format(cwd=tmp_path)


@pytest.mark.parametrize("url", ["sqlite://host/x.db", "sqlite:", "sqlite:x?durability=most", "sqlite:x?path=y"])
def test_sqlite_addresses_that_make_no_sense_are_refused(url):
    with pytest.raises(ConfigError):
        PsyQueue.from_url(url)


async def test_sqlite_queue_from_an_address_keeps_jobs(tmp_path):
    url = f"sqlite:{tmp_path}/jobs.db?durability=normal&busy_timeout=5s"
    async with PsyQueue.from_url(url) as q:
        handle = await q.enqueue("x", {"n": 1})
    async with PsyQueue.from_url(url) as q:
        assert (await q.handle_of(handle.id).refresh()).payload == {"n": 1}

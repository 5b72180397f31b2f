"""The site builds with no broken link, shows every page, asks no other host for anything, and has the whole API."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from api_pages import Entry, entries, members, words
from build_site import FILES, main, render
from docs.pages import DOCS, images, short, text_of
from support.source import DOORS, ROOT

needs_zensical = pytest.mark.skipif(
    find_spec("zensical") is None and not os.environ.get("CI"), reason="needs: pip install -e '.[docs]'"
)
REFERENCE = {page: entries(text_of(page)) for page in sorted((DOCS / "reference").glob("*.md"))}
CANNOT_FAIL = {
    "EventBus.wants",
    "HandlerContext.cancel",
    "HandlerContext.lose_lease",
    "History.of",
    "Worker.health",
}


def folder_of(site: Path, page: str) -> Path:
    path = site / page.removesuffix(".md")
    return path.parent if path.name in ("README", "index") else path


def html_of(site: Path, page: str) -> str:
    return (folder_of(site, page) / "index.html").read_text(encoding="utf-8")


# ── the site ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def navigation(found: Any) -> Iterator[str]:
    """Pages, in order."""
    if isinstance(found, str):
        yield found
    else:
        for each in found.values() if isinstance(found, dict) else found:
            yield from navigation(each)


NAVIGATION = list(navigation(tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]))


def test_every_page_is_in_the_navigation_once():
    pages = [*map(short, sorted(DOCS.rglob("*.md"))), "examples/README.md", *FILES]
    assert sorted(NAVIGATION) == sorted(pages)


ELSEWHERE = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["']?(?:https?:)?//|<link\b[^>]*\bhref=["']?(?:https?:)?//"""
    r"""|url\(["']?(?:https?:)?//|class="mermaid"|data-md-component="source\""""
)


@needs_zensical
def test_site_builds_with_every_page_and_name_and_asks_no_other_host_for_anything(tmp_path: Path):
    site = tmp_path / "made"
    assert main(site) == 0
    assert [page for page in NAVIGATION if "<h1" not in html_of(site, page)] == []
    for page, described in REFERENCE.items():
        html = html_of(site, short(page))
        anchors = [
            anchor
            for entry in described
            for anchor in (entry.name, *(f"{entry.name}.{each}" for each in entry.members))
        ]
        assert [anchor for anchor in anchors if f'id="{anchor}"' not in html] == []
    for name in NAVIGATION:
        shown = re.findall(r'<img\b[^>]*\bsrc="([^"]+)"', html_of(site, name))
        assert len(shown) >= len(images(ROOT / name))
        assert [each for each in shown if not (folder_of(site, name) / each).is_file()] == []
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert len(files) > len(NAVIGATION)
    assert [
        (path.name, found[0]) for path in files if (found := ELSEWHERE.search(path.read_text(encoding="utf-8")))
    ] == []


@pytest.mark.parametrize(
    "html", ['<script src="https://a/b.js">', "<link rel=x href=//a/b.css>", "url(https://a)", '<pre class="mermaid">']
)
def test_check_sees_another_host(html):
    assert ELSEWHERE.search(html)


@needs_zensical
def test_a_page_with_a_broken_link_is_told(tmp_path: Path):
    (tmp_path / "pages").mkdir()
    (tmp_path / "zensical.toml").write_text('[project]\nsite_name = "broken"\ndocs_dir = "pages"\n')
    (tmp_path / "pages" / "index.md").write_text("# A title\n\n[a](gone.md) [b](#nowhere) [c](#a-title)\n")
    told = render(tmp_path)
    assert "page does not exist" in told
    assert "anchor does not exist" in told


# ── the reference ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_every_public_name_is_described_once():
    described = [(entry.name, entry.thing) for found in REFERENCE.values() for entry in found]
    assert len({name for name, _ in described}) == len(described)
    there = dict(described)
    for name in DOORS:
        door = importlib.import_module(name)
        assert [each for each in door.__all__ if there.get(each) is not getattr(door, each)] == []


def callables(found: list[Entry]) -> Iterator[tuple[str, Any]]:
    for entry in found:
        if inspect.isfunction(entry.thing):
            yield entry.name, entry.thing
        yield from ((f"{entry.name}.{name}", value) for name, value in entry.members.items())


@pytest.mark.parametrize("page", REFERENCE, ids=short)
def test_every_member_says_what_it_promises(page: Path):
    things = [(entry.name, entry.thing) for entry in REFERENCE[page] if inspect.isclass(entry.thing)]
    assert [name for name, thing in (*things, *callables(REFERENCE[page])) if "." not in words(thing)] == []


@pytest.mark.parametrize("page", REFERENCE, ids=short)
def test_every_call_says_what_it_raises(page: Path):
    calls = {name: words(value) for name, value in callables(REFERENCE[page]) if not isinstance(value, property)}
    silent = {name for name, text in calls.items() if not re.search(r"\b[Rr]aises\b|^As [\w'’.]+[.;, ]", text)}
    assert silent == CANNOT_FAIL & set(calls)


def test_members_left_out_are_there_and_for_the_parts_of_psyqueue():
    left_out = {
        f"{entry.name}.{name}"
        for found in REFERENCE.values()
        for entry in found
        if inspect.isclass(entry.thing)
        for name in set(members(entry.thing)) - set(entry.members)
    }
    parts = {"Worker.start", "Worker.drain", "Worker.handlers_changed", "BackendPlugin.init", "History.add"}
    plugins = ("Schedules", "CircuitBreaker", "Metrics", "Tenancy")
    parts |= {f"{plugin}.{hook}" for plugin in plugins for hook in ("init", "start", "stop")}
    parts |= {"Workflows.init", "Flow.steps", "Flow.items", "Tracing.init", "Tier.limits", "Tier.mark"}
    assert left_out == parts | {"EventBus.drain", "EventBus.checkpoint", "EventBus.failed"}

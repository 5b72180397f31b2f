"""Every link of the documents leads somewhere, and every page can be reached."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from docs.pages import DOCS, PAGES, README, anchors, images, links, prose, rows, short, text_of
from support.source import ROOT


def broken(page: Path) -> list[str]:
    found = []
    for link in links(page):
        target, _, anchor = link.partition("#")
        other = (page.parent / target).resolve() if target else page
        if not other.exists() or (anchor and (other.suffix != ".md" or anchor not in anchors(other))):
            found.append(link)
    return found


def reached(start: Path) -> set[Path]:
    seen: set[Path] = set()
    left = [start]
    while left:
        page = left.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        left += [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
    return seen


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_every_link_leads_somewhere(page: Path):
    assert broken(page) == []


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_every_picture_is_there(page: Path):
    assert [target for target in images(page) if not (page.parent / target).is_file()] == []
    assert prose(page).count("![") == len(images(page))


@pytest.mark.parametrize("start", [README, DOCS / "index.md"], ids=short)
def test_no_document_is_an_orphan(start: Path):
    seen = reached(start)
    assert [short(page) for page in DOCS.rglob("*.md") if page not in seen] == []


def test_index_names_every_page_itself():
    named = {(DOCS / link.partition("#")[0]).resolve() for link in links(DOCS / "index.md")}
    pages = [page for page in DOCS.rglob("*.md") if page.name != "index.md" and page.parent.name != "adr"]
    assert [short(page) for page in pages if page not in named] == []


def test_every_decision_is_listed():
    listed = text_of(DOCS / "adr" / "README.md")
    assert [page.name for page in (DOCS / "adr").glob("0*.md") if page.name not in listed] == []


def test_every_page_has_one_title():
    titles = {short(page): re.findall(r"^# .+", prose(page), re.MULTILINE) for page in PAGES}
    assert {page: found for page, found in titles.items() if len(found) != 1} == {}


def test_check_sees_a_broken_link(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A title\n\n[a](#a-title) [b](#nowhere) [c](gone.md) [d](page.md#a-title) [e](https://example.org)\n"
    )
    assert broken(page) == ["#nowhere", "gone.md"]


def test_every_example_is_listed_with_its_first_sentence():
    listed = {cells[0]: cells[1] for cells in rows(text_of(ROOT / "examples" / "README.md"))}
    programs = sorted((ROOT / "examples").glob("*.py"))
    assert listed == {f"[{path.stem}]({path.name})": first_line(path) for path in programs}


def first_line(program: Path) -> str:
    return (ast.get_docstring(ast.parse(program.read_text(encoding="utf-8"))) or "").splitlines()[0]

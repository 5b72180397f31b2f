"""The pages of the documentation, taken apart: code blocks, links, headings, tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from support.source import ROOT

DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = (
    README,
    ROOT / "ROADMAP.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    *sorted(DOCS.rglob("*.md")),
)

_FENCE = re.compile(
    r"^(?:<!-- (?:fragment: (?P<reason>[^\n]+?)|from: (?P<source>[^\n]+?)) -->\n)?"
    r"```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^()\s]+)\)")
_IMAGE = re.compile(r"!\[[^\]]+\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block. `line` is that of its first line of code; `reason` says why a fragment is not run.

    `source` is the file of the repository that an excerpt is taken from.
    """

    page: Path
    line: int
    language: str
    code: str
    reason: str | None
    source: str | None

    @property
    def name(self) -> str:
        return f"{short(self.page)}:{self.line}"

    @property
    def kind(self) -> Literal["excerpt", "fragment", "program", "session"]:
        """A program runs by itself; the other blocks of a page are one session, in order."""
        if self.source is not None:
            return "excerpt"
        if self.reason is not None:
            return "fragment"
        return "program" if re.search(r"^ *asyncio\.run\(|^if __name__ ==", self.code, re.MULTILINE) else "session"


def short(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str = "python") -> list[Block]:
    return [
        Block(
            page, text[: match.start("code")].count("\n") + 1, language, match["code"], match["reason"], match["source"]
        )
        for text in [text_of(page)]
        for match in _FENCE.finditer(text)
        if match["language"] == language
    ]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def links(page: Path) -> list[str]:
    """Targets inside the repository."""
    found = _LINK.findall(prose(page))
    return [target for target in found if "://" not in target and not target.startswith("mailto:")]


def images(page: Path) -> list[str]:
    """Files that the page shows, each with a text for who cannot see it."""
    return _IMAGE.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """What `#…` may name, as the usual renderers make it of headings."""
    titles = (re.sub(r"[`*_]|\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in _HEADING.findall(prose(page)))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def section(page: Path, heading: str) -> str:
    """The text below a heading, up to the next one of its level or above."""
    match = re.search(rf"^(#+) +{re.escape(heading)}\s*$", text_of(page), re.MULTILINE)
    assert match, f"{short(page)} has no heading {heading!r}"
    rest = text_of(page)[match.end() :]
    end = re.search(rf"^#{{1,{len(match[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text: str) -> Iterator[list[str]]:
    """The cells of all table rows in `text`, without heads and rulers; a bar behind a backslash is part of a cell."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if not line.startswith("|") or re.fullmatch(r"[|\-: ]+", line):
            continue
        if number + 1 < len(lines) and re.fullmatch(r"\|[|\-: ]+", lines[number + 1]):
            continue
        cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
        yield [cell.strip().replace("\\|", "|") for cell in cells]


def coded(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def first_cells(text: str) -> list[str]:
    """The names in the first column of the tables in `text`."""
    return [name for cells in rows(text) for name in coded(cells[0])]

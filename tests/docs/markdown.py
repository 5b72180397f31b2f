"""The pages of the documentation, taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", ROOT / "ROADMAP.md", *sorted(DOCS.rglob("*.md")))

_BLOCK = re.compile(r"(<!-- fragment: [^>]+-->\s*)?^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@dataclass(frozen=True)
class Block:
    """A python block of a page; a fragment is not run, and says why."""

    page: Path
    line: int
    code: str
    is_fragment: bool

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            found.append(Block(page, text[: match.start(2)].count("\n"), match[2], bool(match[1])))
    return found


def links(page: Path) -> list[str]:
    """Relative targets."""
    found = _LINK.findall(page.read_text(encoding="utf-8"))
    return [target for target in found if "://" not in target and not target.startswith("mailto:")]


def first_cells(page: Path) -> set[str]:
    """What stands in backticks in the first column of the page's tables."""
    rows = (line.split("|")[1] for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|"))
    return {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}

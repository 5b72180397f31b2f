"""The pictures of the documents are of real screens, and tell nothing of the machine they were taken on."""

from __future__ import annotations

import os
import platform
import re
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from docs.pages import DOCS, README, images

IMAGES = DOCS / "images"
WORDS = {
    "top": ("psyqueue top", "ENDED/S", "mail", "running", "paused", "stalled", "shop-1", "open"),
    "demo": ("psyqueue demo", "✗ kill -9 of worker", "Every file was counted exactly once", "lost: 0"),
}


def words_of(svg: str) -> str:
    return "\n".join(text.strip() for text in ET.fromstring(svg).itertext() if text.strip())


@pytest.mark.parametrize("name", WORDS)
def test_picture_shows_its_command_at_work(name):
    shown = words_of((IMAGES / f"{name}.svg").read_text(encoding="utf-8"))
    assert [word for word in WORDS[name] if word not in shown] == []
    assert "Traceback" not in shown


@pytest.mark.parametrize("path", sorted(IMAGES.glob("*.svg")), ids=lambda path: path.name)
def test_picture_names_no_machine_and_loads_nothing(path: Path):
    svg = path.read_text(encoding="utf-8")
    assert platform.node() not in words_of(svg)
    assert (
        re.findall(r"(?<![\w./])/\w+/\w+|https?://(?!www\.w3\.org/2000/svg\")", svg.replace("examples/ and", "")) == []
    )


def test_photograph_holds_nothing_but_what_is_seen():
    """The dashboard was taken by hand, in a browser."""
    png = (IMAGES / "dashboard.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert not re.search(rb"tEXt|iTXt|zTXt|eXIf|tIME", png)


def test_every_picture_is_shown_in_the_readme_and_on_the_page_of_its_command():
    names = {path.name for path in IMAGES.glob("*")}
    assert names == {*(f"{name}.svg" for name in WORDS), "dashboard.png"}
    for page in (README, DOCS / "cli.md"):
        assert {Path(target).name for target in images(page)} == names


@pytest.mark.skipif(find_spec("pyte") is None and not os.environ.get("CI"), reason="needs: pip install -e '.[docs]'")
def test_picture_of_top_can_be_taken_again():
    from screenshots import top

    svg = top()
    shown = words_of(svg)
    assert [word for word in WORDS["top"] if word not in shown] == []
    assert re.search(r"4 queues, 2 workers; [\d,]+ pending", shown)
    assert 'fill="#f07178">stalled<' in svg


def test_words_of_check_sees_text():
    assert words_of('<svg xmlns="http://www.w3.org/2000/svg"><text>a b</text></svg>') == "a b"

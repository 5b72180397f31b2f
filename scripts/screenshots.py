"""Take the pictures of the documents again: `python scripts/screenshots.py [FOLDER]`. Needs: pip install -e '.[docs]'

Real commands run in a terminal of their own; what stands there in the end becomes an SVG.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from html import escape
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pyte

from psyqueue import PsyQueue
from psyqueue.backends import sqlite

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "psyqueue"]
LOOKS = 4
"""Of `top`: from the second one on there are rates."""
SHOP = """
import time
from psyqueue import PsyQueue
from psyqueue.backends import sqlite

q = PsyQueue().use(sqlite(path="./jobs.db"))

@q.handle("mail", max_retries=0)
def mail(number: int) -> None:
    time.sleep(0.05)
    if number % 20 == 7:
        raise ValueError("no such address")

@q.handle("thumbnail", queue="images")
def thumbnail(number: int) -> None:
    time.sleep(0.4)
"""

CELL_WIDTH, LINE_HEIGHT, SIZE = 8.4, 19, 14
MARGIN, HEAD = 16, 36
PAPER, INK = "#1b1f27", "#d5dae3"
COLOURS = {
    "black": "#4b5263", "red": "#f07178", "green": "#9ece6a", "brown": "#e6c07b", "blue": "#7aa2f7",
    "magenta": "#c792ea", "cyan": "#67c7d6", "white": "#d5dae3", "brightblack": "#7f8896",
}  # fmt: skip


class Run(NamedTuple):
    """Characters of one line that look alike, from column `at` on."""

    at: int
    text: str
    colour: str
    is_bold: bool


def screen_of(
    command: list[str], folder: Path, columns: int, lines: int, is_enough: Callable[[bytes], bool] = lambda _: False
) -> list[list[Run]]:
    """What stands on a terminal when the command has ended, or when it has said enough and is interrupted."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PSYQUEUE")}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**environment, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(lines)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    # Linux answers the end of the other side with an error.
    with contextlib.suppress(OSError):
        while not is_enough(said) and (part := os.read(ours, 65_536)):
            said += part
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):
        while os.read(ours, 65_536):
            pass
    os.close(ours)
    process.wait(60)
    screen = pyte.Screen(columns, lines)
    pyte.ByteStream(screen).feed(said.replace(f"{ROOT}/".encode(), b""))
    return [list(_runs(screen, line)) for line in range(lines)]


def svg(title: str, lines: list[list[Run]], columns: int) -> str:
    """A window with these lines; empty ones at the end are left out."""
    while lines and not lines[-1]:
        lines = lines[:-1]
    width, height = columns * CELL_WIDTH + 2 * MARGIN, HEAD + len(lines) * LINE_HEIGHT + MARGIN
    text = "\n".join(_text(run, HEAD + number * LINE_HEIGHT) for number, line in enumerate(lines, 1) for run in line)
    dots = "".join(
        f'<circle cx="{MARGIN + 4 + 18 * number}" cy="18" r="5.5" fill="{fill}"/>'
        for number, fill in enumerate(("#f07178", "#e6c07b", "#9ece6a"))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>\n{dots}\n'
        f'<text x="50%" y="23" text-anchor="middle" font-family="sans-serif" font-size="13" fill="#7f8896">'
        f"{escape(title)}</text>\n"
        f'<g font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="{SIZE}">'
        f"\n{text}\n</g>\n</svg>\n"
    )


def _runs(screen: pyte.Screen, line: int) -> Iterator[Run]:
    """Wide gaps part them: whoever draws the picture need not keep blanks."""
    cells = [screen.buffer[line][column] for column in range(screen.columns)]
    at = 0
    for (colour, is_bold), group in groupby(cells, key=lambda cell: (cell.fg, cell.bold)):
        text = "".join(cell.data for cell in group)
        for found in re.finditer(r"\S+(?: \S+)*", text):
            yield Run(at + found.start(), found[0], COLOURS.get(colour, INK), is_bold)
        at += len(text)


def _text(run: Run, y: int) -> str:
    weight = ' font-weight="bold"' if run.is_bold else ""
    x, length = MARGIN + run.at * CELL_WIDTH, len(run.text) * CELL_WIDTH
    return f'<text x="{x:.1f}" y="{y}" textLength="{length:.1f}" fill="{run.colour}"{weight}>{escape(run.text)}</text>'


# ── what is shown ─────────────────────────────────────────────────────────────────────────────────────────────────────
def top(columns: int = 100, lines: int = 16) -> str:
    """A shop at work: two queues that run, one that nobody takes, one that is paused, and some failures."""
    with TemporaryDirectory(prefix="psyqueue-screen-") as made:
        folder = Path(made)
        (folder / "shop.py").write_text(SHOP, encoding="utf-8")
        with PsyQueue().use(sqlite(path=folder / "jobs.db")).sync as q:
            # Work for half a minute: the looks begin late on a machine that is busy.
            for name, queue, count, delay in (
                ("mail", "mail", 6_000, 0), ("thumbnail", "images", 300, 0), ("thumbnail", "images", 6, 600),
                ("invoice", "billing", 4, 0), ("newsletter", "newsletter", 250, 0),
            ):  # fmt: skip
                q.enqueue_bulk(
                    [{"name": name, "payload": {"number": n}} for n in range(count)],
                    queue=queue,
                    delay=delay,
                    max_retries=0,
                )
            q.pause("newsletter")
        arguments = ["worker", "shop:q", "--queues", "mail:10,images:4", "--name", "shop", "--log-level", "error"]
        with subprocess.Popen([*COMMAND, *arguments], cwd=folder, stdout=subprocess.PIPE) as worker:
            try:
                assert worker.stdout is not None
                worker.stdout.readline()  # ready
                watch = [*COMMAND, "--backend", "sqlite:./jobs.db", "top", "--interval", "700ms"]
                shown = screen_of(watch, folder, columns, lines, lambda said: said.count(b"psyqueue top") > LOOKS)
            finally:
                worker.terminate()
    return svg("psyqueue top", shown, columns)


def demo(columns: int = 116, lines: int = 40) -> str:
    """On the sources of psyqueue itself."""
    return svg(
        "psyqueue demo --path src", screen_of([*COMMAND, "demo", "--path", "src"], ROOT, columns, lines), columns
    )


def main(folder: Path) -> None:
    """Both pictures."""
    logging.getLogger("psyqueue").setLevel(logging.ERROR)  # handlers are not known here
    folder.mkdir(parents=True, exist_ok=True)
    for shot in (top, demo):
        (folder / f"{shot.__name__}.svg").write_text(shot(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")

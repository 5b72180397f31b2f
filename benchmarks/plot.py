"""Bars of a session's rates as SVG: one group a case, the median as a bar, lowest to highest as a line over it."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from benchmarks.spec import BARE, OURS, Facts

WIDTH, LABEL, NUMBER, ROW, GAP = 760, 200, 90, 18, 34
COLOURS = {OURS: "#2f6f4f", BARE: "#b0b0b0"}
OTHERS = "#8c6d46"


def plot(found: Facts) -> str:
    cases: dict[str, list[Facts]] = {}
    for line in found["lines"]:
        if line["unit"] in ("jobs/s", "rows/s") and line["values"]:
            cases.setdefault(f"{line.get('store', 'sqlite')} {line['case']}", []).append(line)
    body: list[str] = []
    y = 20
    for case, lines in cases.items():
        body.append(f'<text x="4" y="{y + 12}" font-weight="bold">{escape(case)}, {escape(lines[0]["unit"])}</text>')
        y += ROW + 4
        highest = max(max(line["values"]) for line in lines)
        for line in lines:
            body += _bar(line, y, highest)
            y += ROW
        y += GAP - ROW
    title = escape(f"{found['began_at'][:10]}, commit {found['commit']}, {found['machine']['cpu']}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 10}" font-family="sans-serif" '
        f'font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n<text x="4" y="14" fill="#666">{title}</text>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _bar(line: Facts, y: int, highest: float) -> Iterator[str]:
    scale = (WIDTH - LABEL - NUMBER) / highest
    name = line["line"].removeprefix(line["case"]).strip()
    length, middle = line["median"] * scale, y + ROW / 2
    yield f'<text x="{LABEL - 6}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>'
    yield (
        f'<rect x="{LABEL}" y="{y + 2}" width="{length:.1f}" height="{ROW - 4}" '
        f'fill="{COLOURS.get(line["peer"], OTHERS)}"/>'
    )
    low, high = (LABEL + value * scale for value in (min(line["values"]), max(line["values"])))
    yield f'<path d="M{low:.1f} {middle}H{high:.1f}" stroke="black"/>'
    yield f'<text x="{max(high, LABEL + length) + 6:.1f}" y="{middle + 4}">{line["median"]:,.0f}</text>'

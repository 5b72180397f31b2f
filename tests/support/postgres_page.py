"""What docs/backends/postgres.md says of roles, views and queries, as data for tests."""

from __future__ import annotations

import re

from support.source import ROOT

PAGE = ROOT / "docs" / "backends" / "postgres.md"
OWNER = "psyqueue_owner"
APP = "psyqueue_app"


def documented_sql(title: str) -> list[str]:
    """The blocks of SQL whose first line is the comment `title`, without it."""
    found = re.findall(rf"^```sql\n-- {re.escape(title)}[^\n]*\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found, title
    return found


def in_schema(sql: str, schema: str, **roles: str) -> str:
    """With another schema than psyqueue, and roles of the test's own."""
    for role, name in roles.items():
        sql = re.sub(rf'"?\b{role}\b"?', f'"{name}"', sql)
    return re.sub(r'"psyqueue"|\bpsyqueue\b(?=\.| AUTHORIZATION)', f'"{schema}"', sql)


def documented_columns(view: str) -> list[tuple[str, str]]:
    """(column, type) of the table below the line that names the view."""
    text = PAGE.read_text()
    below = text[text.index(f"`psyqueue.{view}`: ") :]
    table = below[: below.index("\n\n", below.index("|---"))]
    return re.findall(r"^\| `(\w+)` \| `([\w ]+)` \|", table, re.MULTILINE)

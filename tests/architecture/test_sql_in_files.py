"""SQL and Lua lie in files of their own, and each says in its head what its reader has to know."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from support.source import PACKAGE, Module, docstring_nodes, modules

LABELS = ("Params:", "Returns:", "Index:", "Cost:")
# Statements about data and its shape. BEGIN, COMMIT, SAVEPOINT and PRAGMA steer a connection: they may stay
# beside the code that owns it.
SQL = re.compile(
    r"""\A\s*(?-i:SELECT)\s | \A\s*(?-i:select)\s.+\sfrom\s |
        \b(?: INSERT\s+(?:OR\s+\w+\s+)?INTO\s
            | REPLACE\s+INTO\s
            | UPDATE\s+\w+\s+SET\s
            | DELETE\s+FROM\s
            | (?:CREATE|DROP)\s+(?:UNIQUE\s+|TEMP\s+)?(?:TABLE|INDEX|VIEW|TRIGGER|FUNCTION|SCHEMA)\s
            | ALTER\s+TABLE\s )""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
HOSTILE_DATA = "testing/"  # the conformance suite hands stores payloads and names that look like statements
LUA = re.compile(r"\bredis\.p?call\s*\(")


def statements(module: Module) -> Iterator[str]:
    tree = module.tree
    prose = docstring_nodes(tree)
    for node in ast.walk(tree):
        text = string_text(node)
        if id(node) not in prose and (SQL.search(text) or LUA.search(text)):
            yield f"{module.path}:{getattr(node, 'lineno', 0)}: {text.strip()[:60]!r}"


def string_text(node: ast.AST) -> str:
    """The text of a plain string, or of an f-string with `x` where values go."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(string_text(part) or "x" for part in node.values)
    return ""


def header_faults(text: str) -> list[str]:
    """What is missing in the comment block at the top of a command file."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        lines.append(line.removeprefix("--").strip())
    header = "\n".join(lines)
    faults = [label for label in LABELS if not re.search(rf"{label}[ ]*\S", header)]
    purpose = re.split(r"(?:Params|Returns|Index|Cost):", header)[0]
    if not re.match(r"[A-Z][^.]{10,}\.", purpose, re.DOTALL):
        faults.append("a first sentence with the purpose")
    return faults


def test_no_statement_stands_in_python():
    ours = [module for module in modules(PACKAGE) if not module.path.startswith(HOSTILE_DATA)]
    assert "\n".join(found for module in ours for found in statements(module)) == ""


def test_every_command_file_has_its_header():
    paths = sorted(PACKAGE.glob("backends/*/commands/*.sql")) + sorted(PACKAGE.glob("backends/*/commands/*.lua"))
    faults = {path.relative_to(PACKAGE).as_posix(): header_faults(path.read_text()) for path in paths}
    assert {path: missing for path, missing in faults.items() if missing} == {}


@pytest.mark.parametrize(
    "text",
    [
        "x = 'SELECT id FROM jobs'",
        "x = f'select {columns} from jobs'",
        "x = 'SELECT 1'",
        "x = 'INSERT OR IGNORE INTO jobs VALUES (1)'",
        "x = '''\nUPDATE jobs SET status = 1'''",
        "x = 'DELETE FROM jobs'",
        "x = 'CREATE UNIQUE INDEX i ON jobs (id)'",
        "x = \"return redis.call('GET', KEYS[1])\"",
    ],
)
def test_check_sees(text):
    assert list(statements(Module("x.py", text)))


@pytest.mark.parametrize(
    "text",
    [
        "x = 'BEGIN IMMEDIATE'",
        "x = 'select a queue with --queue'",
        "x = 'Select jobs from a queue'",
        '"""SELECT id FROM jobs is not used."""',
    ],
)
def test_check_lets_pass(text):
    assert list(statements(Module("x.py", text))) == []


GOOD_HEADER = """\
-- Take back the jobs of a closed session.  Returns: one row a job.
-- Params: :session text, :limit int 1..500
-- Index: jobs_by_session.  Cost: limit rows.
UPDATE jobs SET status = 'pending'
"""


def test_complete_header_has_no_faults():
    assert header_faults(GOOD_HEADER) == []


@pytest.mark.parametrize("lost", [*LABELS, "Take back the jobs of a closed session."])
def test_header_check_sees_what_is_missing(lost):
    assert header_faults(GOOD_HEADER.replace(lost, ""))

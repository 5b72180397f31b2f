"""Files and functions stay short enough to be read in one go."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from support.source import PACKAGE, Module, modules

FILE_LINES_MAX = 450
FUNCTION_LINES_MAX = 70  # without its docstring


def too_long(module: Module) -> Iterator[str]:
    lines = len(module.text.splitlines())
    if lines > FILE_LINES_MAX:
        yield f"{module.path}: {lines} lines"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = function_lines(node)
            if lines > FUNCTION_LINES_MAX:
                yield f"{module.path}:{node.lineno}: {node.name} has {lines} lines"


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    if not body or node.end_lineno is None:
        return 0
    return node.end_lineno - body[0].lineno + 1


def test_no_file_and_no_function_is_too_long():
    assert "\n".join(found for module in modules(PACKAGE) for found in too_long(module)) == ""


@pytest.mark.parametrize(
    ("text", "is_too_long"),
    [
        ("\n" * FILE_LINES_MAX, False),
        ("\n" * FILE_LINES_MAX + "x = 1", True),
        ("def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX, False),
        ("def f():\n" + "    x = 1\n" * (FUNCTION_LINES_MAX + 1), True),
        ("async def f():\n" + "    x = 1\n" * (FUNCTION_LINES_MAX + 1), True),
        ('def f():\n    """' + "text\n" * FUNCTION_LINES_MAX + '"""\n    return 1\n', False),
    ],
    ids=["longest file", "file", "longest function", "function", "async function", "docstring"],
)
def test_check_sees(text, is_too_long):
    assert bool(list(too_long(Module("x.py", text)))) == is_too_long

"""What one file holds: the work of the demo, in plain Python."""

from __future__ import annotations

import ast
from hashlib import sha256
from pathlib import Path
from typing import Any

from msgspec import Struct

PARSED_BYTES_MAX = 256 * 1024
"""`ast.parse` holds the interpreter's lock all the while. A larger file could make a slow machine miss its lease."""
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


class Measure(Struct, frozen=True, kw_only=True):
    """`problem` says why a file was not parsed or not read; that is a result, not a failure."""

    path: str
    size_bytes: int = 0
    sha256: str = ""
    lines: int = 0
    code_lines: int = 0
    functions: int = 0
    classes: int = 0
    longest_function: str = ""
    longest_function_lines: int = 0
    problem: str = ""


def measure_file(path: str, *, is_python: bool) -> Measure:
    """Read, hash, count, and parse what is Python. Never raises for what a file holds."""
    try:
        data = Path(path).read_bytes()
    except OSError as exc:
        return Measure(path=path, problem=f"cannot be read: {exc.strerror}")
    lines = data.splitlines()
    stripped = [line.strip() for line in lines]
    found: dict[str, Any] = _parsed(data) if is_python else {}
    return Measure(
        path=path,
        size_bytes=len(data),
        sha256=sha256(data).hexdigest(),
        lines=len(lines),
        code_lines=sum(1 for line in stripped if line and not line.startswith(b"#")),
        **found,
    )


def _parsed(data: bytes) -> dict[str, Any]:
    if len(data) > PARSED_BYTES_MAX:
        return {"problem": f"not parsed: larger than {PARSED_BYTES_MAX >> 10} KiB"}
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        return {"problem": f"not parsed: {type(exc).__name__}"}
    return _counted(tree)


def _counted(tree: ast.Module) -> dict[str, Any]:
    """Statements only: expressions hold no functions but lambdas, and are nine tenths of a tree."""
    functions = classes = longest = 0
    name = ""
    blocks: list[ast.AST] = [tree]
    while blocks:
        node = blocks.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions += 1
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > longest:
                longest, name = lines, node.name
        elif isinstance(node, ast.ClassDef):
            classes += 1
        for field in _BLOCKS:
            inner = getattr(node, field, None)
            if isinstance(inner, list):
                blocks += inner
    return {
        "functions": functions,
        "classes": classes,
        "longest_function": name,
        "longest_function_lines": longest,
    }

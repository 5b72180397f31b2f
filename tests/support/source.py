"""The project's own text, for the tests that hold it to its house rules."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "psyqueue"
TESTS = ROOT / "tests"
DOORS = [name for name in ("psyqueue", "psyqueue.backends", "psyqueue.plugins", "psyqueue.testing") if find_spec(name)]


@dataclass(frozen=True, slots=True)
class Module:
    """A parsed file; `path` is relative to the folder that was searched, with forward slashes."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)


def modules(folder: Path) -> Iterator[Module]:
    """Every .py file below `folder`, in order of path."""
    for path in sorted(folder.rglob("*.py")):
        yield Module(path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8"))


def repository_files() -> list[Path]:
    """What git tracks or would track; outside of a checkout, all source and test files."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    return [path for folder in (PACKAGE, TESTS) for path in folder.rglob("*") if path.is_file()]


def docstring_nodes(tree: ast.Module) -> set[int]:
    """Identities of the constants that are docstrings, attribute docstrings included."""
    return {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def dotted_name(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain that begins with a plain name, else the empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = dotted_name(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def origins(tree: ast.Module) -> dict[str, str]:
    """Local name of each import to what it stands for: `from time import sleep as s` is s -> time.sleep."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.split(".")[0]
                found[local] = alias.name if alias.asname else local
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the full name of what is called, imports resolved."""
    known = origins(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (name := dotted_name(node.func)):
            first, _, rest = name.partition(".")
            origin = known.get(first, first)
            yield (f"{origin}.{rest}" if rest else origin), node

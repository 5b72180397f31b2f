"""Who may import whom, and what nobody may import.

Method: the contracts of pyproject.toml run through import-linter; the rest is read from the syntax trees.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.source import PACKAGE, ROOT, Module, calls, modules

LOADERS = {
    "cli/_load.py": "the command line is handed `module:queue` by its user and imports it",
    "kernel/child.py": "imports the handler that its own worker registered; the name comes over their private socket",
}
UNSAFE_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "runpy", "imp"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "importlib.import_module", "importlib.reload"}
# What a user pays for on `import psyqueue`: none of the drivers, none of the test tools.
HEAVY = {"redis", "asyncpg", "uvloop", "pytest", "hypothesis", "multiprocessing", "click", "pydantic", "opentelemetry"}


def unsafe_imports(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        unsafe = [name for name in names if name.split(".")[0] in UNSAFE_MODULES]
        if module.path not in LOADERS:
            yield from (f"{module.path}:{node.lineno}: import of {name}" for name in unsafe)
    for name, call in calls(module.tree):
        if name in UNSAFE_CALLS and module.path not in LOADERS:
            yield f"{module.path}:{call.lineno}: call of {name}"


def test_contracts_of_import_linter_are_kept():
    tool = Path(sys.executable).with_name("lint-imports")
    command = [str(tool), "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_package_loads_no_foreign_code_by_name_or_by_bytes():
    assert "\n".join(found for module in modules(PACKAGE) for found in unsafe_imports(module)) == ""


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from marshal import loads",
        "import importlib\nimportlib.import_module(name)",
        "from importlib import import_module as load\nload(name)",
        "eval('1')",
        "exec(code)",
    ],
)
def test_check_sees(text):
    assert list(unsafe_imports(Module("kernel/app.py", text)))


def test_check_allows_entry_points_and_the_loader():
    entry_points = "from importlib.metadata import entry_points\nentry_points(group='psyqueue.backends')"
    assert list(unsafe_imports(Module("kernel/app.py", entry_points))) == []
    loader = "import importlib\nimportlib.import_module(name)"
    assert list(unsafe_imports(Module("cli/_load.py", loader))) == []


def test_importing_the_package_imports_no_driver_and_no_test_tool():
    script = "import sys, psyqueue, psyqueue.plugins; print(*{name.split('.')[0] for name in sys.modules})"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split()) == set()

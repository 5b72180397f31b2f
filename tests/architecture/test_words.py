"""One word per thing: a banned synonym names nothing in the package.

Method: the words of every name that the package *defines* (modules, classes, functions, parameters,
variables, attributes) are looked up. One that is merely used, such as `dict.pop`, is not ours.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from support.source import PACKAGE, Module, calls, dotted_name, modules

BANNED = {
    "task": "job",
    "message": "job",
    "msg": "job",
    "claim": "dequeue, delivery",
    "pop": "dequeue",
    "broker": "backend",
    "driver": "backend",
    "adapter": "backend",
    "dlq": "dead letter",
    "eta": "run_at",
}
# A settle carries a Fetch, so the noun is ours; the verb is not.
BANNED_AS_VERB = {"fetch": "dequeue", "get_next": "dequeue"}
# Names that may be, each with its reason.
ALLOWED = {
    "BackendAdapter": "the name of the seam, from the reference",
    "adapter": "the module and the value of the seam's type",
    "message": "the text of an error",
    "_message": "the text of an error",
    "MESSAGE_CHARS_MAX": "bound of the text of an error",
}
ALLOWED_IN = {
    ("kernel/context.py", "msg"): "logging.LoggerAdapter.process names its parameter so",
}
ASYNCIO_TASK = {"asyncio.create_task", "asyncio.current_task", "asyncio.all_tasks", "asyncio.TaskGroup"}


def defined_names(module: Module) -> Iterator[tuple[str, int, str]]:
    """Name, line, and what it names: "module", "class", "function" or "variable"."""
    yield module.path.removesuffix("/__init__.py").removesuffix(".py").split("/")[-1], 1, "module"
    for node in ast.walk(module.tree):
        match node:
            case ast.ClassDef():
                yield node.name, node.lineno, "class"
            case ast.FunctionDef(returns=ast.Name(id="Fetch")):
                yield node.name, node.lineno, "variable"  # named after what it makes
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name, node.lineno, "function"
            case ast.arg():
                yield node.arg, node.lineno, "variable"
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno, "variable"
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno, "variable"
            case ast.ExceptHandler(name=str(name)):
                yield name, node.lineno, "variable"


def words(name: str) -> set[str]:
    """`JobTask_ids` is job, task, id: camel case split; plural and past tense dropped."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    lower = {part.lower() for part in parts}
    return lower | {re.sub(ending, "", part) for part in lower for ending in ("s$", "d$", "ed$", "ped$")}


def synonyms(module: Module) -> Iterator[str]:
    runs_tasks = has_asyncio_tasks(module.tree)
    for name, line, kind in defined_names(module):
        if name in ALLOWED or (module.path, name) in ALLOWED_IN or name.startswith("test_"):  # tests: a sentence
            continue
        found = {word: BANNED[word] for word in words(name) & BANNED.keys()}
        if kind == "variable" and runs_tasks:
            found.pop("task", None)  # it holds an asyncio.Task
        if kind == "function":
            verbs = BANNED_AS_VERB.items()
            found |= {verb: word for verb, word in verbs if re.match(rf"_*{verb}(_|$)", name)}
        yield from (f"{module.path}:{line}: {name}: say {word}, not {banned}" for banned, word in found.items())


def has_asyncio_tasks(tree: ast.Module) -> bool:
    if any(name in ASYNCIO_TASK or name.endswith(".create_task") for name, _ in calls(tree)):
        return True
    return any(isinstance(node, ast.Attribute) and dotted_name(node) == "asyncio.Task" for node in ast.walk(tree))


def test_no_banned_synonym_names_anything():
    assert "\n".join(found for module in modules(PACKAGE) for found in synonyms(module)) == ""


@pytest.mark.parametrize(
    "text",
    [
        "class Task: ...",
        "def claim_jobs(): ...",
        "def f(*, eta): ...",
        "popped = 1",
        "self.broker_url = 1",
        "dlq: list = []",
        "for msg in jobs: ...",
        "with x as claims: ...",
        "def fetch_jobs(): ...",
        "async def _fetch(self): ...",
        "import asyncio\nasyncio.create_task(x)\ndef run_task(): ...",
    ],
)
def test_check_sees(text):
    assert list(synonyms(Module("x.py", text)))


def test_check_sees_names_of_modules():
    assert list(synonyms(Module("kernel/task.py", "")))
    assert list(synonyms(Module("broker/__init__.py", "")))


@pytest.mark.parametrize(
    "text",
    [
        "import asyncio\ntask = asyncio.create_task(x)",
        "import asyncio\ndef f(task: asyncio.Task[None]): ...",
        "class Fetch: ...",
        "def ack_and_fetch(op, fetch): ...",
        "def fetch(*queues) -> Fetch: ...",
        "jobs.pop()",
        "meta = beta = popular = 1",
    ],
)
def test_check_lets_pass(text):
    assert list(synonyms(Module("x.py", text))) == []

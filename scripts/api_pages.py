"""The reference of the API, made of what can be imported: signatures, docstrings, fields.

A page names what it describes in a comment, `<!-- api: psyqueue.PsyQueue psyqueue.Worker -start -->`, where `-start`
is a member for the parts of psyqueue alone; `expand` puts the descriptions in its place. They are made of the running
objects, not of the source: the methods of `q.sync` exist only there.
"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

MARK = re.compile(r"^<!-- api: (?P<names>[^>]+?)\s-->$", re.MULTILINE)
LINE_MAX = 88
BUILT_BY_USERS = ("PsyQueue", "BackendPlugin")
"""Besides errors and verdicts: all other objects are handed out."""
_NAME = re.compile(
    r"(?<![\w`\"/.])(?:[A-Z][a-z]+[A-Z]\w*|[A-Z]\w+\.[a-z_]\w*|[A-Z]\w+Error|Refused|Rejected)(?![\w`\"/]|\.\w)"
)
_BASES_OF_NO_USE = ("object", "Struct", "Generic", "Facade")
_PAGE = re.compile(r"docs/([\w/]+\.md)")
_CODE = re.compile(r"`[^`]*`")


class _Plain(str):
    """An annotation as it was written: `repr` puts no quotes around it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Entry(NamedTuple):
    """One name of a page: what it is, and its public members in the order of the class."""

    name: str
    thing: Any
    members: dict[str, Any]


def entries(page: str) -> list[Entry]:
    """What a page describes."""
    found: list[Entry] = []
    for word in (word for mark in MARK.finditer(page) for word in mark["names"].split()):
        if word.startswith("-"):
            del found[-1].members[word[1:]]
        else:
            door, _, name = word.rpartition(".")
            thing = getattr(importlib.import_module(door), name)
            found.append(Entry(name, thing, members(thing) if inspect.isclass(thing) else {}))
    return found


def links_to(page: str, address: str) -> dict[str, str]:
    """Where each name of a page, and each member (`PsyQueue.enqueue`), is described."""
    names = [
        name for entry in entries(page) for name in (entry.name, *(f"{entry.name}.{each}" for each in entry.members))
    ]
    return {name: f"{address}#{name}" for name in names}


def expand(page: str, links: dict[str, str]) -> str:
    """The page with its descriptions, and the names in them as links."""
    return MARK.sub(lambda mark: "\n".join(described(entry, links) for entry in entries(mark[0])), page)


def described(entry: Entry, links: dict[str, str]) -> str:
    """A heading, the code and the words of one name, and the same of its members."""
    parts = [
        f"## {entry.name} {{#{entry.name}}}",
        _block(declared(entry.name, entry.thing)),
        _words(entry.thing, links),
    ]
    for name, value in entry.members.items():
        parts += [f"### {name} {{#{entry.name}.{name}}}", _block(declared(name, value)), _words(value, links)]
    return "\n\n".join(part for part in parts if part) + "\n"


def members(kind: type) -> dict[str, Any]:
    """Public methods and properties of its own, in the order of the class."""
    found = {name: value for name, value in vars(kind).items() if not name.startswith("_")}
    return {name: value for name, value in found.items() if _is_method(value) or isinstance(value, property)}


def words(thing: Any) -> str:
    """Its own docstring."""
    if inspect.isclass(thing):
        return inspect.cleandoc(vars(thing).get("__doc__") or "")
    return (inspect.getdoc(thing) or "") if _is_method(thing) or isinstance(thing, property) else ""


def declared(name: str, thing: Any) -> str:
    """The code of it, as a reader would write it."""
    if inspect.isclass(thing):
        return _class(name, thing)
    if isinstance(thing, property):
        return f"{name}: {_annotation(inspect.signature(_got(thing)).return_annotation)}"
    function = thing.__func__ if isinstance(thing, classmethod | staticmethod) else thing
    if not callable(function) or typing.get_origin(function) is not None:
        return f"{name} = {thing!r}".replace("typing.", "")
    before = "@classmethod\n" if isinstance(thing, classmethod) else ""
    shapes = [each for each in typing.get_overloads(function) if callable(each)] or [function]
    return "\n".join(before + _function(name, shape) for shape in shapes)


def _is_method(value: Any) -> bool:
    return inspect.isfunction(value) or isinstance(value, classmethod | staticmethod)


def _got(thing: property) -> Callable[..., Any]:
    assert thing.fget is not None
    return thing.fget


def _class(name: str, kind: type) -> str:
    bases = [base.__name__.replace("_Coded", "PsyQueueError") for base in kind.__bases__]
    shown = ["TypedDict"] if typing.is_typeddict(kind) else [each for each in bases if each not in _BASES_OF_NO_USE]
    head = f"class {name}({', '.join(shown)})" if shown else f"class {name}"
    made = kind.__init__  # type: ignore[misc]
    if name in BUILT_BY_USERS or (issubclass(kind, Exception) and not made.__qualname__.startswith("_Coded")):
        return f"{head}:\n" + textwrap.indent(_function("__init__", made), "    ")
    fields = list(getattr(kind, "__struct_fields__", kind.__annotations__ if typing.is_typeddict(kind) else ()))
    lines = [f"    {field}: {_annotation(kind.__annotations__[field])}" for field in fields if field[0] != "_"]
    return "\n".join([f"{head}:", *lines]) if lines else head


def _function(name: str, function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    kept = [each for each in signature.parameters.values() if each.name not in ("self", "cls")]
    shown: list[str] = []
    for before, parameter in zip([None, *kept], kept, strict=False):
        if before is not None and before.kind is before.POSITIONAL_ONLY is not parameter.kind:
            shown.append("/")
        star = parameter.kind is parameter.KEYWORD_ONLY
        if star and (before is None or before.kind not in (before.KEYWORD_ONLY, before.VAR_POSITIONAL)):
            shown.append("*")
        shown.append(str(parameter.replace(annotation=_plain(parameter.annotation))))
    if kept and kept[-1].kind is kept[-1].POSITIONAL_ONLY:
        shown.append("/")
    head = f"async def {name}" if _is_async(function) else f"def {name}"
    end = "" if signature.return_annotation is signature.empty else f" -> {_annotation(signature.return_annotation)}"
    line = f"{head}({', '.join(shown)}){end}"
    if len(line) <= LINE_MAX:
        return line
    return "\n".join([f"{head}(", *(f"    {each}," for each in shown), f"){end}"])


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _plain(annotation: Any) -> Any:
    return annotation if annotation is inspect.Parameter.empty else _Plain(_annotation(annotation))


def _annotation(annotation: Any) -> str:
    written = getattr(annotation, "__forward_arg__", annotation)
    text = written if isinstance(written, str) else inspect.formatannotation(written)
    return re.sub(r"\b[a-z_.]+\.(?=[A-Z])", "", text)  # without the module that a class comes from


def _words(thing: Any, links: dict[str, str]) -> str:
    pieces = re.split(f"({_CODE.pattern})", words(thing))
    return "".join(piece if _CODE.fullmatch(piece) else _linked(piece, links) for piece in pieces)


def _linked(text: str, links: dict[str, str]) -> str:
    text = _PAGE.sub(r"[\1](../\1)", text)
    return _NAME.sub(lambda found: f"[{found[0]}]({links[found[0]]})" if found[0] in links else found[0], text)


def _block(code: str) -> str:
    double = code.replace("'", '"')
    return f"```python\n{double}\n```"

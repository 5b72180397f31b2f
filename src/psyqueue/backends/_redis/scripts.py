"""The Lua commands: read from their files, put together, run by their digest.

A command file begins with its header; one line of it, `-- flags: …`, says what a full server does with it, and
`--- @include a b` stands for the files `includes/a.lua` and `includes/b.lua`, in this order. What follows becomes the
body of `main` in one of the `frames`. A line `-- function` marks what every job passes through: where the server keeps
functions (since 7.0) such a command is one, so that its hundred definitions are read once and not with each call
(docs/adr/0007). Everywhere else a command is a script. Names hold a digest of the text: releases that run side by side
do not meet.
"""

from __future__ import annotations

import re
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import Any, Final, Protocol

from msgspec import Struct

from psyqueue.backends._redis.faults import ReplyError

HOME: Final = Path(__file__).parent
SCHEMA: Final = 3
"""Of the keys: it stands in `meta`."""
FUNCTIONS_SINCE: Final = (7, 0)
"""Flags and functions came together. Before, a script's first write decides whether a full server takes the rest."""
_INCLUDE = re.compile(r"^--- @include (.+)$", re.MULTILINE)
_FLAGS = re.compile(r"^-- flags: (\S+)$", re.MULTILINE)
_IS_FUNCTION = re.compile(r"^-- function$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)
_SLOT = re.compile(r"@(\w+)")
_NO_SUCH_FUNCTION = "Function not found"
_EXISTS_ALREADY = "already exists"


class Script(Struct, frozen=True):
    """`text` is what the server is given, `name` its digest or the name of its function."""

    text: str
    name: str
    is_function: bool


class Callee(Protocol):
    """A connection."""

    async def call(self, *args: bytes | str | int) -> Any: ...


@cache
def script(verb: str, *, has_functions: bool, as_script: bool = False) -> Script:
    """The command of a verb, for servers that keep functions or for older ones. `as_script`: never as a function."""
    source = (HOME / "commands" / f"{verb}.lua").read_text(encoding="utf-8")
    match = _FLAGS.search(source)
    assert match is not None, f"{verb}.lua says no flags"
    flags = "" if match[1] == "deny-oom" else match[1]  # without flags a full server refuses what writes
    include = _INCLUDE.search(source)
    slots = {
        "definitions": "\n".join(_read("includes", name) for name in include[1].split()) if include else "",
        "body": _COMMENT.sub("", source),
        "begin": "begin()" if include else "",
        "schema": str(SCHEMA),
    }
    if has_functions and not as_script and _IS_FUNCTION.search(source):
        return _function(verb, slots, flags)
    text = _framed("script", slots)
    if has_functions:
        text = f"#!lua flags={flags}\n{text}" if flags else f"#!lua\n{text}"
    elif flags == "allow-oom":
        text = _read("frames", "freeing") + text
    return Script(text, _digest(text), is_function=False)


def _function(verb: str, slots: dict[str, str], flags: str) -> Script:
    quoted = f"'{flags}'" if flags else ""
    name = f"psyqueue_{verb}_{_digest(_framed('function', {**slots, 'flags': quoted, 'name': ''}))[:16]}"
    text = _framed("function", {**slots, "flags": quoted, "name": name})
    return Script(f"#!lua name={name}\n{text}", name, is_function=True)


def _framed(frame: str, slots: dict[str, str]) -> str:
    return _SLOT.sub(lambda found: slots[found[1]], _read("frames", frame))


def _read(folder: str, name: str) -> str:
    return _COMMENT.sub("", (HOME / folder / f"{name}.lua").read_text(encoding="utf-8"))


def _digest(text: str) -> str:
    return sha1(text.encode(), usedforsecurity=False).hexdigest()


class Scripts:
    """Runs commands on one connection. `base` is the first key of each: it names the namespace, and its slot."""

    def __init__(self, link: Callee, base: str, *, has_functions: bool) -> None:
        self._link = link
        self._base = base
        self.has_functions = has_functions

    async def run(self, verb: str, *args: bytes | str | int) -> Any:
        """The reply of the command. Raises ReplyError; the server is given the text whenever it does not know it."""
        found = script(verb, has_functions=self.has_functions)
        try:
            return await self._call(found, args)
        except ReplyError as exc:
            if not is_unknown(exc):
                raise
        if not found.is_function:
            return await self._link.call("EVAL", found.text, 1, self._base, *args)
        try:
            await self._load(found)
        except ReplyError as exc:
            if exc.code != "OOM":
                raise
            # A full server takes no function, and has to be drained all the same.
            text = script(verb, has_functions=True, as_script=True).text
            return await self._link.call("EVAL", text, 1, self._base, *args)
        return await self._call(found, args)

    async def _call(self, found: Script, args: tuple[bytes | str | int, ...]) -> Any:
        command = "FCALL" if found.is_function else "EVALSHA"
        return await self._link.call(command, found.name, 1, self._base, *args)

    async def _load(self, found: Script) -> None:
        try:
            await self._link.call("FUNCTION", "LOAD", found.text)
        except ReplyError as exc:
            if _EXISTS_ALREADY not in exc.text:  # another client was faster
                raise


def is_unknown(exc: ReplyError) -> bool:
    """The server was never given this script or function, or has forgotten it."""
    return exc.code == "NOSCRIPT" or _NO_SUCH_FUNCTION in exc.text

"""What users are handed says what it promises: a first sentence on each public class and function."""

from __future__ import annotations

import importlib
import inspect

import pytest

from support.source import DOORS


def undocumented(names: dict[str, object]) -> list[str]:
    """Names of classes and functions whose own docstring is missing or does not begin with a sentence."""
    return [name for name, value in names.items() if is_described_by_docstring(value) and not has_sentence(value)]


def is_described_by_docstring(value: object) -> bool:
    return inspect.isclass(value) or inspect.isroutine(value)


def has_sentence(value: object) -> bool:
    text = (vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__) or ""
    return "." in text and len(text.split()) >= 3 and not text.startswith(f"{getattr(value, '__name__', '')}(")


@pytest.mark.parametrize("name", DOORS)
def test_every_public_class_and_function_says_what_it_promises(name):
    door = importlib.import_module(name)
    listed = {public: getattr(door, public) for public in getattr(door, "__all__", ())}
    assert undocumented(listed) == []


def test_check_sees_what_is_missing():
    class Bare: ...

    class Told:
        """Holds one thing. For tests."""

    def bare(): ...

    def told():
        """Return nothing at all."""

    names = {"Bare": Bare, "Told": Told, "bare": bare, "told": told, "NUMBER": 1}
    assert undocumented(names) == ["Bare", "bare"]

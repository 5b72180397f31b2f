"""Public is what a package names in `__all__`, and that list is complete."""

from __future__ import annotations

import importlib
import pydoc
from types import ModuleType

import pytest

from support.source import DOORS


def is_ours(value: object) -> bool:
    return not isinstance(value, ModuleType) and str(getattr(value, "__module__", "")).startswith("psyqueue")


def order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions: the order that ruff writes."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2, name)


@pytest.fixture(params=DOORS)
def door(request):
    return importlib.import_module(request.param)


def test_every_public_name_is_listed(door):
    public = {name for name, value in vars(door).items() if not name.startswith("_") and is_ours(value)}
    assert public - set(getattr(door, "__all__", ())) == set()


def test_every_listed_name_exists(door):
    assert [name for name in getattr(door, "__all__", ()) if not hasattr(door, name)] == []


def test_list_is_sorted_and_names_each_once(door):
    listed = list(getattr(door, "__all__", ()))
    assert listed == sorted(set(listed), key=order)


def test_help_shows_every_door(door):
    """Signatures of structs are made of their annotations: a name that exists for type checkers alone breaks them."""
    assert pydoc.render_doc(door)

"""What stands in a form that was sent."""

from __future__ import annotations

from collections.abc import Mapping


def one(form: Mapping[str, list[str]], field: str) -> str:
    """The value of a field that is there once; empty where it is missing."""
    return form.get(field, [""])[0]

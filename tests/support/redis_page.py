"""What docs/backends/redis.md says of keys and rights, as data for tests."""

from __future__ import annotations

import re

from support.source import ROOT

PAGE = ROOT / "docs" / "backends" / "redis.md"
MODERN_ALONE = ("+fcall", "+function|load")
"""Rules that servers before 7.0 do not know."""


def documented_keys() -> dict[str, str]:
    """The key as the page writes it, without the base → its type."""
    return dict(re.findall(r"^\| `([^`]+)` \| (hash|string|list|set|zset|stream) \|", PAGE.read_text(), re.MULTILINE))


def kinds_of(key: str, keys: dict[str, str]) -> set[str]:
    """The types that a key so written may have."""
    return {keys[name] for name in keys if re.fullmatch(re.sub(r"<\w+>", ".+", name), key, re.DOTALL)}


def documented_rules(version: str) -> list[str]:
    """The rules of the page's ACL user, for a server of this version."""
    (block,) = re.findall(r"^```text\nACL SETUSER psyqueue (.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    is_modern = int(version.partition(".")[0]) >= 7
    return [rule for rule in block.split() if is_modern or rule not in MODERN_ALONE]

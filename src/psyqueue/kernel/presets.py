"""From the name of a preset to a queue's address and plugins. Presets are found by entry points, as backends are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from psyqueue.errors import ConfigError, InvalidOption

if TYPE_CHECKING:
    from psyqueue.kernel.extension import Plugin

GROUP = "psyqueue.presets"
"""Entry points `name = "package:preset"`, each a Preset."""


class Preset(Struct, frozen=True):
    """`url`: where the jobs are, unless somebody says otherwise. `plugins`: what makes each, by its name, in order."""

    url: str
    plugins: Mapping[str, Callable[..., Plugin]]

    def made(self, options: Mapping[str, Any]) -> Iterator[Plugin]:
        """Its plugins. `options` by plugin: its keywords, one that is made already, or False to leave it out.

        Raises InvalidOption, ConfigError, and what a plugin raises of its options.
        """
        for name, given in options.items():
            if name not in self.plugins:
                raise InvalidOption(name, given, "is no plugin of this preset", f"There are {', '.join(self.plugins)}")
        for name, factory in self.plugins.items():
            given = options.get(name, {})
            if isinstance(given, Mapping):
                yield _made(name, factory, given)
            elif given is not False:
                yield given


def preset_of(name: str) -> Preset:
    """Raises ConfigError that names those that there are."""
    found = tuple(entry_points(group=GROUP, name=name)) if isinstance(name, str) else ()
    if not found:
        known = ", ".join(sorted(point.name for point in entry_points(group=GROUP))) or "none"
        raise ConfigError(f"there is no preset {name!r}; there are {known}, and those that other packages add")
    preset: Preset = found[0].load()
    return preset


def _made(name: str, factory: Callable[..., Plugin], options: Mapping[str, Any]) -> Plugin:
    try:
        return factory(**options)
    except TypeError as exc:
        raise InvalidOption(name, dict(options), f"are no options of this plugin: {exc}") from exc

"""From an address to a backend plugin. Backends are found by entry points: the kernel imports none of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, get_args, get_type_hints

import msgspec

from psyqueue.config import mask, parse_url
from psyqueue.errors import ConfigError, InvalidOption
from psyqueue.kernel.extension import Plugin

GROUP = "psyqueue.backends"
"""Entry points `scheme = "package:factory"`; a factory takes `url=` and its options as keywords."""


def plugin_for(url: str, options: Mapping[str, Any]) -> Plugin:
    """The plugin of the backend at `url`. Raises ConfigError for an unknown scheme, InvalidOption for an option."""
    parsed = parse_url(url)
    factory = _factory(parsed.scheme, parsed.shown)
    kinds = _options_of(factory)
    asked: dict[str, Any] = {}
    for option, text in parsed.options.items():
        _require_known(option, text, parsed.scheme, kinds)
        asked[option] = _from_text(option, text, kinds[option])
    for option, value in options.items():
        _require_known(option, value, parsed.scheme, kinds)
        if option in asked:
            raise InvalidOption(option, value, "is given in the URL too")
        asked[option] = value
    plugin: Plugin = factory(url=parsed.address, **asked)
    return plugin


def _factory(scheme: str, shown: str) -> Callable[..., Plugin]:
    found = tuple(entry_points(group=GROUP, name=scheme))
    if not found:
        plain, plus, library = scheme.partition("+")
        if plus and entry_points(group=GROUP, name=plain):
            way_out = f"leave +{library} out: how the server is spoken to is psyqueue's own"
            raise ConfigError(f"no backend for {shown!r}: there is {plain!r}, so {way_out}", scheme=scheme)
        known = ", ".join(sorted(point.name for point in entry_points(group=GROUP))) or "none"
        raise ConfigError(
            f"no backend for {shown!r}: there are {known}, and those that other packages add", scheme=scheme
        )
    if len({point.value for point in found}) > 1:
        raise ConfigError(f"several packages bring a backend {scheme!r}: {', '.join(point.value for point in found)}")
    factory: Callable[..., Plugin] = found[0].load()
    return factory


def _options_of(factory: Callable[..., Plugin]) -> dict[str, Any]:
    try:
        hints = get_type_hints(factory)
    except NameError:
        hints = {}  # types that only a checker can see: the options are then given as text
    parameters = inspect.signature(factory).parameters.values()
    return {
        item.name: hints.get(item.name, str)
        for item in parameters
        if item.kind is item.KEYWORD_ONLY and item.name != "url"
    }


def _require_known(option: str, value: object, scheme: str, kinds: Mapping[str, Any]) -> None:
    if option not in kinds:
        known = f"There are {', '.join(kinds)}" if kinds else "It has none"
        raise InvalidOption(
            option, mask(value) if isinstance(value, str) else value, f"is not an option of the {scheme} backend", known
        )


def _from_text(option: str, text: str, kind: Any) -> Any:
    """The option's value, by the type that the factory asks for. What msgspec cannot tell apart stays text."""
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as exc:
        raise InvalidOption(option, text, str(exc)) from exc
    except TypeError:
        return _flag_or(text) if bool in get_args(kind) else text


def _flag_or(text: str) -> bool | str:
    """For a switch that also takes something that no address can name, such as an SSLContext."""
    try:
        return msgspec.convert(text, bool, strict=False)
    except msgspec.ValidationError:
        return text

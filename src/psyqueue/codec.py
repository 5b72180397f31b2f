"""Python values ↔ JSON bytes. Strict: what would not come back as it went in is refused, with its place.

Accepted: None, bool, int, finite float, str without lone surrogates, list, tuple, dict with str keys; and what msgspec
turns into these (Struct, dataclass, datetime, UUID, Decimal, Enum, bytes as base64, …); and models of pydantic, which
is not imported here: who has such a model has imported it. Source of the wire format: RFC 8259, UTF-8, no duplicate
keys.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import msgspec

from psyqueue.errors import PayloadError, TooLarge

PAYLOAD_BYTES_MAX = 1 << 20
"""Per payload and per result. Larger things belong in an object store, their address in the payload."""

DEPTH_MAX = 64
"""Nesting. Every store and every language reads this much; deeper is a mistake or an attack."""


def is_model(kind: Any) -> bool:
    """Whether it is a class of pydantic models (version 2)."""
    return isinstance(kind, type) and hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_validate_json")


def of_model(value: Any) -> Any:
    """Plain values of a pydantic model, such that it can be made of them again. For msgspec's `enc_hook`."""
    if not is_model(type(value)):
        raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")
    return value.model_dump(mode="json", by_alias=True, round_trip=True)


def to_model(kind: Any, plain: Any) -> Any:
    """The model of class `kind` made of plain values. For msgspec's `dec_hook`; raises ValueError, in one line."""
    if not is_model(kind):
        raise NotImplementedError
    try:
        return kind.model_validate_json(_encoder.encode(plain))
    except ValueError as exc:
        errors = getattr(exc, "errors", None)
        problems = [] if errors is None else errors()
        told = "; ".join(f"{'.'.join(map(str, each['loc'])) or kind.__name__}: {each['msg']}" for each in problems)
        raise ValueError(told or str(exc)) from exc


_encoder = msgspec.json.Encoder(decimal_format="string", uuid_format="canonical", enc_hook=of_model)
_decoder = msgspec.json.Decoder()

encode_trusted: Callable[[Any], bytes] = _encoder.encode
"""Encode what psyqueue itself built: no checks."""
decode: Callable[[bytes | str], Any] = _decoder.decode
"""JSON bytes or text → plain Python values. Raises msgspec.DecodeError on what is not JSON."""


def encode(value: Any, *, what: str = "payload", bytes_max: int = PAYLOAD_BYTES_MAX) -> bytes:
    """JSON bytes of `value`.

    Raises PayloadError naming the path of the first value that JSON cannot hold (NaN, infinities, lone surrogates,
    unknown types, cycles, keys that are not text, more than 64 levels), TooLarge above `bytes_max`.
    """
    if value is None:
        return b"null"
    problem = _problem_in_dict(value, "$", 0) if type(value) is dict else _problem(value, "$", 0)
    if problem is not None:
        raise PayloadError(problem[0], problem[1], what)
    try:
        data = _encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as exc:
        raise PayloadError("$", f"cannot be written as JSON: {exc}", what) from exc
    if len(data) > bytes_max:
        raise TooLarge(
            f"{what} is {len(data)} bytes of JSON, more than {bytes_max}. Store it elsewhere and enqueue its address",
            size=len(data),
            limit=bytes_max,
        )
    return data


_PLAIN = frozenset((bool, int, type(None)))


def _problem(value: Any, path: str, depth: int) -> tuple[str, str] | None:
    """(path, problem) of the first thing that JSON cannot hold, or None. Walks plain containers only."""
    kind = type(value)
    if kind in _PLAIN:
        return None
    if isinstance(value, str):
        # isascii is a flag look-up, the encoding a copy: most text takes the first exit.
        if value.isascii():
            return None
        return (path, "text with a lone surrogate") if _has_surrogate(value) else None
    if isinstance(value, float):
        return None if math.isfinite(value) else (path, f"{value} is not a JSON number")
    if depth >= DEPTH_MAX and isinstance(value, dict | list | tuple):
        return (path, f"nested deeper than {DEPTH_MAX} levels (or containing itself)")
    if isinstance(value, dict):
        return _problem_in_dict(value, path, depth)
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if type(item) not in _PLAIN and (found := _problem(item, f"{path}[{index}]", depth + 1)):
                return found
        return None
    return _problem_in_object(value, path, depth)


def _problem_in_dict(value: dict[Any, Any], path: str, depth: int) -> tuple[str, str] | None:
    for key, item in value.items():
        kind = type(item)
        if type(key) is str and key.isascii() and (kind in _PLAIN or (kind is str and item.isascii())):
            continue
        if not isinstance(key, str):
            return (path, f"key {key!r} is {type(key).__name__}, not text")
        if not key.isascii() and _has_surrogate(key):
            return (path, "a key with a lone surrogate")
        if kind not in _PLAIN and (found := _problem(item, f"{path}.{key}", depth + 1)):
            return found
    return None


def _problem_in_object(value: Any, path: str, depth: int) -> tuple[str, str] | None:
    """Anything msgspec knows how to write is turned into plain values first, so that NaN in a Struct is found too."""
    try:
        plain = msgspec.to_builtins(value, builtin_types=(), enc_hook=of_model)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        way_out = "give the text or number that stands for it, such as a path as str(path) or an object by its id"
        if inspect.iscoroutine(value):
            way_out = "it was never awaited: await it, in a handler that is an `async def`"
        return (path, f"{type(value).__module__}.{type(value).__qualname__} is not a JSON value; {way_out}")
    if isinstance(plain, dict | list | tuple | float | str):
        return _problem(plain, path, depth)
    return None


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False

"""How a payload meets a handler's signature: at enqueue by name, at run checked and converted."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import sys
import typing
from dataclasses import dataclass
from textwrap import dedent
from typing import Any

import msgspec
import pytest

from psyqueue import ConfigError, Context, PayloadError
from psyqueue.kernel.parameters import Parameters, result_type
from psyqueue.outcome import Misfit

if typing.TYPE_CHECKING:
    from somewhere import Hidden  # type: ignore[import-not-found]


class Receipt(msgspec.Struct):
    id: str
    cents: int = 0


@dataclass
class Address:
    city: str


class Colour(enum.Enum):
    RED = "red"


class Foreign:
    """A class that msgspec does not know."""


def plain(to, subject="Hi"):
    return (to, subject)


def with_ctx(ctx, to, subject="Hi"):
    return (ctx, to, subject)


def keyword_only(ctx, to, *, subject="Hi", n):
    return (to, subject, n)


def positional_only(to, /, subject="Hi"):
    return (to, subject)


def open_ended(to, **rest):
    return (to, rest)


def ctx_only(ctx):
    return ctx


def nothing():
    return "ran"


def like_receipt(id, cents): ...  # noqa: A002 - the field of the receipt


def params(fn):
    return Parameters("h", fn)


def bind(fn, *args, **kwargs):
    return params(fn).bind(args, kwargs)


def run(fn, payload, ctx="CTX"):
    return params(fn).invoke(ctx, payload)


@pytest.mark.parametrize(
    ("fn", "args", "kwargs", "wire"),
    [
        (plain, ("a",), {}, {"to": "a"}),
        (plain, ("a", "b"), {}, {"to": "a", "subject": "b"}),
        (plain, (), {"subject": "b", "to": "a"}, {"to": "a", "subject": "b"}),
        (with_ctx, ("a",), {"subject": "b"}, {"to": "a", "subject": "b"}),
        (keyword_only, ("a",), {"n": 1}, {"to": "a", "n": 1}),
        (positional_only, ("a", "b"), {}, {"to": "a", "subject": "b"}),
        (open_ended, ("a",), {"x": 1}, {"to": "a", "x": 1}),
        (ctx_only, (), {}, None),
        (ctx_only, ([1, 2],), {}, [1, 2]),
        (ctx_only, (), {"x": 1}, {"x": 1}),
        (nothing, (), {}, {}),
    ],
)
def test_arguments_are_bound_to_names(fn, args, kwargs, wire):
    assert bind(fn, *args, **kwargs) == wire


@pytest.mark.parametrize(
    ("fn", "args", "kwargs", "path", "text"),
    [
        (plain, (), {}, "$.to", "is missing"),
        (plain, ("a", "b", "c"), {}, "$", "takes 2 values by position, 3 were given"),
        (plain, ("a",), {"to": "b"}, "$.to", "by position and by name"),
        (plain, ("a",), {"nn": 1}, "$.nn", "is unknown; handler 'h' takes to, subject"),
        (plain, ("a",), {"delay": 1}, "$.delay", r"takes to, subject. As an option: handler\.options\(delay=\.\.\.\)"),
        (keyword_only, ("a",), {}, "$.n", "is missing"),
        (keyword_only, ("a", "b"), {"n": 1}, "$", "takes 1 values by position"),
        (nothing, ("a",), {}, "$", "takes 0 values"),
        (nothing, (), {"x": 1}, "$.x", "is unknown; handler 'h' takes nothing"),
        (ctx_only, ("a", "b"), {}, "$", "takes ctx alone"),
        (ctx_only, ("a",), {"x": 1}, "$", "takes ctx alone"),
    ],
)
def test_arguments_that_do_not_fit_are_named(fn, args, kwargs, path, text):
    with pytest.raises(PayloadError, match=text) as caught:
        bind(fn, *args, **kwargs)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("fn", "payload", "wire"),
    [
        (plain, {"to": "a"}, {"to": "a"}),
        (nothing, None, {}),
        (ctx_only, [1], [1]),
        (ctx_only, None, None),
        (plain, Receipt("a"), None),
        (like_receipt, Receipt("a"), {"id": "a", "cents": 0}),
    ],
)
def test_payload_given_by_name_is_checked_for_names_only(fn, payload, wire):
    if wire is None and fn is plain:
        with pytest.raises(PayloadError):
            params(fn).check(payload)
    else:
        assert params(fn).check(payload) == wire


@pytest.mark.parametrize(
    ("payload", "path"), [([1], "$"), ("text", "$"), (7, "$"), (None, "$.to"), ({}, "$.to"), ({"to": 1, "x": 2}, "$.x")]
)
def test_payload_of_the_wrong_shape_is_refused_at_enqueue(payload, path):
    with pytest.raises(PayloadError) as caught:
        params(plain).check(payload)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("fn", "payload", "result"),
    [
        (plain, {"to": "a"}, ("a", "Hi")),
        (plain, {"to": [1, {"x": None}]}, ([1, {"x": None}], "Hi")),
        (with_ctx, {"to": "a", "subject": "b"}, ("CTX", "a", "b")),
        (keyword_only, {"to": "a", "n": 1}, ("a", "Hi", 1)),
        (positional_only, {"to": "a"}, ("a", "Hi")),
        (open_ended, {"to": "a", "x": 1, "y": 2}, ("a", {"x": 1, "y": 2})),
        (open_ended, {"to": "a"}, ("a", {})),
        (ctx_only, {"any": 1}, "CTX"),
        (nothing, {}, "ran"),
        (nothing, None, "ran"),
    ],
)
def test_run_passes_the_fields_of_the_payload(fn, payload, result):
    assert run(fn, payload) == result


@pytest.mark.parametrize(
    ("fn", "payload", "path"),
    [
        (plain, {}, "$"),
        (plain, {"to": 1, "x": 1}, "$"),
        (plain, [1], "$"),
        (plain, "text", "$"),
        (keyword_only, {"to": 1}, "$"),
        (open_ended, {}, "$"),
        (nothing, {"x": 1}, "$"),
    ],
)
def test_run_with_a_payload_that_does_not_fit_is_a_misfit_that_names_the_handler(fn, payload, path):
    with pytest.raises(Misfit, match="'h'") as caught:
        run(fn, payload)
    assert caught.value.path == path


def test_type_error_inside_the_handler_is_not_taken_for_a_misfit():
    def handler(to):
        raise TypeError("missing 1 required positional argument: 'to'")

    with pytest.raises(TypeError):
        run(handler, {"to": 1})


def typed(  # noqa: PLR0917 - by name on the wire
    receipt: Receipt,
    address: Address,
    when: dt.datetime,
    wait: dt.timedelta,
    colour: Colour,
    many: list[Receipt],
    maybe: int | None = None,
    raw: bytes = b"",
):
    return locals()


def test_annotated_fields_are_converted():
    payload = {
        "receipt": {"id": "1"},
        "address": {"city": "Paris"},
        "when": "2026-01-02T03:04:05Z",
        "wait": "PT5S",
        "colour": "red",
        "many": [{"id": "2", "cents": 3}],
        "raw": "aGk=",
    }
    assert run(typed, payload) == {
        "receipt": Receipt("1"),
        "address": Address("Paris"),
        "when": dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
        "wait": dt.timedelta(seconds=5),
        "colour": Colour.RED,
        "many": [Receipt("2", 3)],
        "maybe": None,
        "raw": b"hi",
    }


def needs_int(n: int, items: tuple[Receipt, ...] = ()):
    return n, items


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"n": "1"}, "$.n"),
        ({"n": True}, "$.n"),
        ({"n": 1.5}, "$.n"),
        ({"n": None}, "$.n"),
        ({"n": 1, "items": [{"id": "a"}, {"id": 2}]}, "$.items[1].id"),
    ],
)
def test_value_of_another_type_is_a_misfit_at_its_path(payload, path):
    with pytest.raises(Misfit) as caught:
        run(needs_int, payload)
    assert caught.value.path == path


def test_default_is_passed_as_the_very_object_of_the_function():
    default = Foreign()

    def handler(a, b=default):
        return b

    assert run(handler, {"a": 1}) is default


def unknown_types(a: Foreign, b: list[Foreign], c: Any, d: Foreign | None = None):
    return a, b, c, d


def test_types_that_json_knows_nothing_about_are_passed_as_they_came():
    assert run(unknown_types, {"a": {"x": 1}, "b": [2], "c": 3}) == ({"x": 1}, [2], 3, None)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the statement is new in Python 3.12")
def test_types_of_the_type_statement_are_types_and_those_that_hold_themselves_are_passed_as_they_came():
    scope: dict[str, Any] = {}
    text = """
        from datetime import date
        type Day = date
        type Json = list[Json] | dict[str, Json] | int
        def handler[T: int](day: Day, json: Json, any: T, more: list[T]) -> Json:
            return day, json, any, more
    """
    exec(compile(dedent(text), __file__, "exec", dont_inherit=True), scope)
    payload = {"day": "2026-12-24", "json": [{"a": 1}], "any": 2, "more": [3]}
    assert run(scope["handler"], payload) == (dt.date(2026, 12, 24), [{"a": 1}], 2, [3])
    assert result_type("h", scope["handler"]) is Any


@pytest.mark.parametrize(
    ("fn", "wants"),
    [
        (plain, False),
        (with_ctx, True),
        (ctx_only, True),
        (nothing, False),
        (open_ended, False),
    ],
)
def test_ctx_is_known_by_its_name(fn, wants):
    assert params(fn).wants_ctx is wants


def test_context_is_known_by_its_annotation_whatever_its_name():
    def by_text(run: Context, to): ...

    def by_class(run, to): ...

    by_class.__annotations__ = {"run": Context}
    assert params(by_text).wants_ctx
    assert params(by_class).wants_ctx


def test_keyword_only_ctx_is_a_field_like_any_other():
    def handler(*, ctx): ...

    assert bind(handler, ctx=1) == {"ctx": 1}


def test_parameters_without_names_are_refused():
    def handler(*values): ...

    with pytest.raises(ConfigError, match=r"\*args have no names"):
        params(handler)


def hidden(a: Hidden): ...


def test_annotation_that_cannot_be_resolved_is_refused_with_the_way_out():
    """Silently passing a dict where a class was asked for would be found at run time only."""
    with pytest.raises(ConfigError, match=r"'Hidden' of parameter 'a'.*TYPE_CHECKING"):
        params(hidden)


async def test_async_handler_gives_a_coroutine_and_misfits_show_before_it():
    async def handler(n: int) -> int:
        return n + 1

    invoke = params(handler).invoke
    assert asyncio.iscoroutine(coro := invoke(None, {"n": 1}))
    assert await coro == 2
    with pytest.raises(Misfit):
        invoke(None, {"n": "x"})


def test_methods_and_callable_objects_are_handlers_too():
    class Sender:
        def send(self, to: str):
            return f"sent {to}"

        def __call__(self, to: str):
            return f"called {to}"

    assert run(Sender().send, {"to": "a"}) == "sent a"
    assert run(Sender(), {"to": "a"}) == "called a"


def late_context(to, context: Context): ...
def context_by_name(to, *, context: Context): ...


@pytest.mark.parametrize("fn", [late_context, context_by_name])
def test_context_that_is_not_the_first_parameter_is_refused(fn):
    """It would be a field of the payload, which nobody can fill in."""
    with pytest.raises(ConfigError, match="'context': the context is the first parameter"):
        params(fn)

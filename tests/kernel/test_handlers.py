"""Registration of handlers: options read and checked, kinds, names, versions, keys."""

from __future__ import annotations

import functools
from typing import Any, cast

import msgspec
import pytest

from psyqueue import ConfigError, Context, InvalidOption, PsyQueue
from psyqueue.kernel.handlers import HANDLE_DEFAULTS, HandleOptions, make_spec
from psyqueue.outcome import Policy


async def send(to, subject="Hi"):
    return to


def compute(n):
    return n


async def with_ctx(ctx: Context, to):
    return to


def spec(fn: Any = send, **options: Any):
    return make_spec("email.send", fn, cast("HandleOptions", options))


def test_defaults_are_those_of_the_api():
    made = spec()
    assert (made.queue, made.max_retries, made.version, made.aliases, made.unique, made.order) == (
        "email.send",
        3,
        1,
        (),
        None,
        None,
    )
    assert made.policy == Policy()
    assert HANDLE_DEFAULTS.keys() == HandleOptions.__annotations__.keys()


def test_options_become_the_policy():
    made = spec(
        backoff="linear",
        backoff_base="2s",
        backoff_cap=60,
        backoff_jitter=False,
        timeout="1m",
        retry_on=OSError,
        fatal=(KeyError, ValueError),
    )
    assert made.policy == Policy(
        strategy="linear",
        base_ms=2000,
        cap_ms=60_000,
        jitter=False,
        timeout_ms=60_000,
        retry_on=(OSError,),
        fatal=(KeyError, ValueError),
    )


def test_own_back_off_stays_on_the_handler():
    def own(attempt, error):
        return attempt

    assert spec(backoff=own).policy.own_backoff is own


def test_a_job_that_was_enqueued_with_options_of_its_own_has_its_own_policy():
    def own(attempt, error):
        return attempt

    made = spec(backoff=own, timeout="1m", fatal=KeyError)
    assert made.policy_for({"meta": {}}) is made.policy
    changed = made.policy_for({"backoff": "fixed", "backoff_base_ms": 5, "timeout_ms": None, "backoff_jitter": False})
    assert changed == Policy(strategy="fixed", base_ms=5, jitter=False, timeout_ms=None, fatal=(KeyError,))
    assert made.policy_for({"backoff_base_ms": 5}).own_backoff is own


@pytest.mark.parametrize(
    "options",
    [
        {"retires": 3},
        {"queue": ""},
        {"queue": "a\nb"},
        {"max_retries": -1},
        {"max_retries": 1001},
        {"max_retries": True},
        {"max_retries": 2.0},
        {"backoff": "quadratic"},
        {"backoff_base": -1},
        {"backoff_cap": "long"},
        {"backoff_jitter": 1},
        {"timeout": 0},
        {"timeout": "11000d"},
        {"mode": "fork"},
        {"unique": "nobody"},
        {"unique": ()},
        {"unique": 7},
        {"order_key": "nobody"},
        {"order_key": True},
        {"version": 0},
        {"version": "2"},
        {"aliases": "old"},
        {"aliases": [""]},
        {"retry_on": "ValueError"},
        {"fatal": (int,)},
    ],
    ids=repr,
)
def test_wrong_option_is_refused_by_name(options):
    (option,) = options
    with pytest.raises(InvalidOption) as caught:
        spec(**options)
    assert caught.value.option == option


@pytest.mark.parametrize(
    ("fn", "mode", "kind"),
    [
        (send, "auto", "async"),
        (send, "async", "async"),
        (compute, "auto", "thread"),
        (compute, "thread", "thread"),
        (compute, "process", "process"),
        (functools.partial(send, subject="x"), "auto", "async"),
    ],
)
def test_kind_follows_function_and_mode(fn, mode, kind):
    assert spec(fn, mode=mode).kind == kind


@pytest.mark.parametrize(("fn", "mode"), [(compute, "async"), (send, "thread")])
def test_mode_that_does_not_fit_the_function_is_refused(fn, mode):
    with pytest.raises(ConfigError, match=f"mode='{mode}' needs"):
        spec(fn, mode=mode)


def test_process_handler_must_be_found_by_its_name():
    def local(n): ...

    class Holder:
        def method(self): ...

    for fn in (local, lambda n: n, Holder().method, Holder.method, functools.partial(compute, 1)):
        with pytest.raises(ConfigError, match="at module level"):
            spec(fn, mode="process")


def test_generators_classes_and_values_are_no_handlers():
    def generator(n):
        yield n

    async def async_generator(n):
        yield n

    for fn in (generator, async_generator):
        with pytest.raises(ConfigError, match="generator"):
            spec(fn)
    for value in (PsyQueue, "send", 7):
        with pytest.raises(ConfigError, match="is no function"):
            spec(value)


def test_plain_handlers_are_those_that_need_nothing_around_them():
    assert spec().is_plain
    assert not spec(with_ctx).is_plain
    assert not spec(timeout="1s").is_plain
    assert not spec(compute).is_plain


# ── names ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_name_can_be_registered_once(q):
    q.handle("a", send)
    with pytest.raises(ConfigError, match=r"'a' is registered already \(send\)"):
        q.handle("a", compute)


def test_alias_takes_its_name_and_resolves(q):
    q.handle("new", send, aliases=("old",))
    assert q._core.handlers.find("old") is q._core.handlers.find("new")
    assert len(q._core.handlers.all()) == 1
    with pytest.raises(ConfigError, match="'old'"):
        q.handle("old", compute)
    with pytest.raises(ConfigError, match="'new'"):
        q.handle("other", compute, aliases=("new",))


def test_alias_listed_twice_is_refused_and_leaves_nothing(q):
    with pytest.raises(ConfigError, match="twice"):
        q.handle("a", send, aliases=("b", "b"))
    q.handle("b", send)


def test_queues_are_listed_once_in_order(q):
    q.handle("a", send, queue="mail")
    q.handle("b", compute)
    q.handle("c", with_ctx, queue="mail")
    assert q._core.handlers.queues() == ("mail", "b")


def test_queues_of_former_names_come_first_where_the_handler_names_none(q):
    q.handle("new", send, aliases=("old", "oldest"))
    q.handle("moved", compute, queue="mail", aliases=("post",))
    assert q._core.handlers.queues() == ("old", "oldest", "new", "mail")


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("retries", "mean max_retries"),
        ("max_retry", "mean max_retries"),
        ("timout", "mean timeout"),
        ("priority", r"belongs to an enqueue: handler\.options\(priority=\.\.\.\)"),
        ("concurrency", r"q\.limits\(queue, active_max="),
        ("cron", "repeats is a schedule"),
        ("zzz", "There are queue, max_retries"),
    ],
)
def test_unknown_option_names_the_one_that_was_meant(option, text):
    with pytest.raises(InvalidOption, match=text):
        spec(**{option: 1})


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", 7, None])
def test_absurd_handler_names_are_refused(q, name):
    with pytest.raises(InvalidOption, match="name"):
        q.handle(name, send)


def test_handle_is_a_decorator_too_and_calling_it_calls_the_function(q):
    @q.handle("double", queue="math")
    def double(n):
        return n * 2

    assert double(4) == 8
    assert double.name == "double"
    assert double.fn(5) == 10


# ── keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_unique_key_is_made_of_the_named_fields():
    assert spec(unique="to").unique_key({"to": "a", "subject": "x"}) == 'email.send:"a"'
    assert spec(unique=("to", "subject")).unique_key({"to": "a", "subject": "x"}) == 'email.send:["a","x"]'
    assert spec(unique="subject").unique_key({"to": "a"}) == 'email.send:"Hi"'
    assert spec().unique_key({"to": "a"}) is None


def test_unique_key_of_the_whole_payload_does_not_depend_on_the_order_of_its_keys():
    made = spec(unique=True)
    assert made.unique_key({"to": "a", "subject": "x"}) == made.unique_key({"subject": "x", "to": "a"})
    assert made.unique_key({"to": "a", "subject": "x"}) != made.unique_key({"to": "a", "subject": "y"})


def test_long_keys_are_hashed_and_stay_apart():
    made = spec(unique="to")
    one, two = made.unique_key({"to": "x" * 1000}), made.unique_key({"to": "x" * 999 + "y"})
    assert one != two
    assert len(one) < 100


def test_order_key_is_made_of_fields_and_differs_between_handlers():
    assert spec(order_key="to").order_key({"to": "a"}) == 'email.send:"a"'
    assert make_spec("other", send, {"order_key": "to"}).order_key({"to": "a"}) != spec(order_key="to").order_key(
        {"to": "a"}
    )


# ── results ───────────────────────────────────────────────────────────────────────────────────────────────────────────
class Receipt(msgspec.Struct):
    id: str


def makes_receipt() -> Receipt:
    return Receipt("1")


def makes_list() -> list[Receipt]:
    return []


def makes_text() -> str:
    return ""


def makes_any(): ...


def makes_unknown() -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821 - on purpose


@pytest.mark.parametrize(
    ("fn", "value", "result"),
    [
        (makes_receipt, {"id": "1"}, Receipt("1")),
        (makes_list, [{"id": "1"}], [Receipt("1")]),
        (makes_text, "x", "x"),
        (makes_any, {"id": "1"}, {"id": "1"}),
        (makes_unknown, {"id": "1"}, {"id": "1"}),
    ],
)
def test_awaited_results_have_the_annotated_type(fn, value, result):
    convert = make_spec("r", fn, {}).convert
    assert (value if convert is None else convert(value)) == result


def test_decorator_without_parentheses_is_refused_naming_the_way_out():
    queue = PsyQueue()
    with pytest.raises(ConfigError, match="with parentheses"):

        @queue.handle  # type: ignore[call-overload]
        async def forgotten() -> None: ...

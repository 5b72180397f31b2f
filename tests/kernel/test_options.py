"""Options of an enqueue: each is read strictly, and ends up in the job that the seam carries."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from psyqueue import EnqueueOptions, InvalidOption, PayloadError, TooLarge
from psyqueue.backend import Dependency, Gate, Idempotency, NewJob, Unique
from psyqueue.codec import decode
from psyqueue.kernel import options
from psyqueue.kernel.options import Content, Template, new_job, plain_job, read, unscoped

NOW_MS = 1_700_000_000_000
IN_AN_HOUR = datetime.fromtimestamp(NOW_MS / 1000 + 3600, UTC)


def content(payload=None, **changes):
    return Content("job-1", Template("send", "mail"), {"to": "a"} if payload is None else payload, 3, **changes)


def job(**given) -> NewJob:
    return new_job(content(), read(given), NOW_MS)


def cold(**given):
    return decode(job(**given).cold)


class Handle:
    def __init__(self, job_id):
        self.id = job_id


def test_job_without_options_is_the_same_on_the_short_and_on_the_long_way():
    short = plain_job("job-1", Template("send", "mail"), {"to": "a"}, 3)
    assert new_job(content(), {}, NOW_MS) == short
    assert (short.queue, short.name, short.payload, short.cold, short.max_retries) == (
        "mail",
        "send",
        b'{"to":"a"}',
        b"{}",
        3,
    )
    assert len(short.digest) == 16


@pytest.mark.parametrize(
    "payload",
    [
        None,
        [],
        {},
        {"a": 1},
        {"a": 1.5},
        {"a": "ä"},
        {"a": Decimal("1.50")},
        {"a": {"c": 1, "b": 2}},
        {"a": [{"c": 1, "b": 2}]},
        {"b": 1, "a": 2},
    ],
    ids=repr,
)
def test_digest_is_the_same_on_the_short_and_on_the_long_way(payload):
    """The short way takes the payload as it was encoded where nothing in it could be sorted."""
    template = Template("send", "mail")
    short, long = plain_job("job-1", template, payload, 3), new_job(Content("job-1", template, payload, 3), {}, NOW_MS)
    assert short.digest == long.digest


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({"priority": -5}, {"priority": -5}),
        ({"delay": "5m"}, {"delay_ms": 300_000}),
        ({"delay": 0.0005}, {"delay_ms": 1}),
        ({"run_at": IN_AN_HOUR}, {"run_at_ms": NOW_MS + 3_600_000}),
        ({"expires": timedelta(seconds=2)}, {"expires_in_ms": 2000}),
        ({"max_retries": 0}, {"max_retries": 0}),
        ({"lane": "fast"}, {"lane": "fast"}),
        ({"tenant": "acme"}, {"lane": "acme", "cold": b'{"tenant_id":"acme"}'}),
        ({"tenant": "acme", "lane": "fast"}, {"lane": "fast"}),
        ({"unique_key": "k"}, {"unique": Unique("k")}),
        ({"unique_key": "k", "on_conflict": "replace"}, {"unique": Unique("k", on_conflict="replace")}),
        ({"idempotency_key": "k"}, {"idempotency": Idempotency("k")}),
        ({"idempotency_key": "k", "idempotency_window": "1h"}, {"idempotency": Idempotency("k", 3_600_000)}),
        ({"order_key": "k"}, {"gate": Gate("k")}),
        ({"depends_on": "p"}, {"needs": (Dependency("p"),)}),
        ({"depends_on": Handle("p")}, {"needs": (Dependency("p"),)}),
        ({"depends_on": ["p", Handle("r")]}, {"needs": (Dependency("p"), Dependency("r"))}),
        ({"depends_on": ("p", "r")}, {"needs": (Dependency("p"), Dependency("r"))}),
        ({"depends_on": {"p": "dead"}}, {"needs": (Dependency("p", ("dead",)),)}),
        ({"depends_on": [("p", ("dead", "completed"))]}, {"needs": (Dependency("p", ("completed", "dead")),)}),
        ({"depends_on": [(Handle("p"), "cancelled")]}, {"needs": (Dependency("p", ("cancelled",)),)}),
        ({"depends_on": []}, {"needs": ()}),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", repr(value)),
)
def test_option_reaches_the_job(given, fields):
    made = job(**given)
    assert {field: getattr(made, field) for field in fields} == fields


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"backoff": "linear"}, {"backoff": "linear"}),
        ({"backoff_base": 2}, {"backoff_base_ms": 2000}),
        ({"backoff_cap": "1m"}, {"backoff_cap_ms": 60_000}),
        ({"backoff_jitter": False}, {"backoff_jitter": False}),
        ({"timeout": "30s"}, {"timeout_ms": 30_000}),
        ({"timeout": None}, {"timeout_ms": None}),
        ({"deadline": "1h"}, {"deadline_at_ms": NOW_MS + 3_600_000}),
        ({"deadline": IN_AN_HOUR}, {"deadline_at_ms": NOW_MS + 3_600_000}),
        ({"tenant": "acme"}, {"tenant_id": "acme"}),
        ({"meta": {"tags": ["a"]}}, {"meta": {"tags": ["a"]}}),
        ({"priority": 3, "delay": 1}, {}),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", repr(value)),
)
def test_rare_options_go_into_the_cold_fields_and_nothing_else_does(given, kept):
    assert cold(**given) == kept


def test_cold_fields_name_the_version_and_the_parent():
    made = new_job(Content("j", Template("send", "mail", 3), None, 3, parent_id="p"), {}, NOW_MS)
    assert decode(made.cold) == {"schema_version": 3, "parent_id": "p"}
    assert decode(plain_job("j", Template("send", "mail", 3), None, 3).cold) == {"schema_version": 3}


@pytest.mark.parametrize(
    "given",
    [
        {"prioritty": 1},
        {"cron": "* * * * *"},  # comes with the scheduler; until then it is unknown, not ignored
        {"id": ""},
        {"id": "x" * 201},
        {"id": 7},
        {"queue": "a\x00b"},
        {"queue": None},
        {"priority": 1.0},
        {"priority": True},
        {"priority": float("nan")},
        {"priority": 1_000_001},
        {"delay": -1},
        {"delay": "-5s"},
        {"delay": "5 minutes"},
        {"delay": float("nan")},
        {"delay": float("inf")},
        {"delay": True},
        {"delay": 10**12},
        {"delay": None},
        {"run_at": datetime(2030, 1, 1)},  # noqa: DTZ001 - the naive one is the point
        {"run_at": "2030-01-01T00:00:00Z"},
        {"run_at": NOW_MS},
        {"expires": 0},
        {"deadline": 0},
        {"deadline": datetime(2030, 1, 1)},  # noqa: DTZ001
        {"deadline": [1]},
        {"max_retries": -1},
        {"max_retries": 1001},
        {"max_retries": "3"},
        {"backoff": "exp"},
        {"backoff": lambda attempt, error: 1},
        {"backoff_base": -1},
        {"backoff_jitter": "yes"},
        {"timeout": 0},
        {"timeout": -1},
        {"tenant": ""},
        {"tenant": "a\x1fb"},
        {"lane": ""},
        {"idempotency_key": ""},
        {"idempotency_key": None},
        {"unique_key": "a\x1fb"},
        {"order_key": 7},
        {"depends_on": 7},
        {"depends_on": ""},
        {"depends_on": [None]},
        {"depends_on": ["p", "p"]},
        {"depends_on": {"p": "active"}},
        {"depends_on": {"p": ()}},
        {"depends_on": [str(n) for n in range(501)]},
        {"meta": [1]},
        {"meta": "x"},
        {"conn": None},
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", repr(value)),
)
def test_absurd_value_is_refused_naming_the_option(given):
    (option,) = given
    with pytest.raises(InvalidOption) as caught:
        read(given)
    assert caught.value.option == option


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"on_conflict": "maybe"}, "on_conflict"),
        ({"on_conflict": "reject"}, "on_conflict"),
        ({"idempotency_window": "1h"}, "idempotency_window"),
        ({"idempotency_key": "k", "idempotency_window": 0}, "idempotency_window"),
        ({"deadline": datetime.fromtimestamp(NOW_MS / 1000, UTC)}, "deadline"),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", repr(value)),
)
def test_options_that_make_no_sense_together_are_refused(given, option):
    with pytest.raises(InvalidOption) as caught:
        job(**given)
    assert caught.value.option == option


@pytest.mark.parametrize("digits", [400, 5_000])
@pytest.mark.parametrize("option", ["delay", "priority", "max_retries"])
def test_number_beyond_every_float_and_every_text_is_refused_as_any_other(option, digits):
    for value in (10**digits, -(10**digits)):
        with pytest.raises(InvalidOption, match=option):
            read({option: value})


def test_unknown_option_names_the_one_that_was_meant():
    with pytest.raises(InvalidOption, match="Did you mean priority"):
        read({"priorty": 1})
    with pytest.raises(InvalidOption, match="There are id, queue, priority"):
        read({"zzz": 1})


@pytest.mark.parametrize(
    ("theirs", "text"),
    [
        ("countdown", "mean delay"),
        ("eta", "mean run_at"),
        ("cron", "repeats is a schedule"),
        ("_job_id", r"mean id\?"),
        ("_defer_by", "mean delay"),
        ("dedup_key", "mean idempotency_key, or unique_key"),
    ],
)
def test_option_of_another_queue_leads_to_ours(theirs, text):
    with pytest.raises(InvalidOption, match=text):
        read({theirs: 1})


def test_meta_is_checked_like_a_payload_and_copied():
    meta = {"a": [1]}
    given = read({"meta": meta})
    meta["a"].append(2)
    assert given["meta"] == {"a": [1]}
    with pytest.raises(PayloadError, match="meta at"):
        read({"meta": {"a": float("nan")}})
    with pytest.raises(TooLarge, match="meta"):
        read({"meta": {"a": "x" * 70_000}})


def test_every_option_of_the_type_is_read_and_no_other():
    assert set(options._READERS) == set(EnqueueOptions.__annotations__)


# ── keys belong to the tenant ─────────────────────────────────────────────────────────────────────────────────────────
def test_keys_of_two_tenants_never_meet():
    for option, field in (("unique_key", "unique"), ("idempotency_key", "idempotency"), ("order_key", "gate")):
        keys = {getattr(job(**{option: "k", **tenant}), field).key for tenant in ({}, {"tenant": "a"}, {"tenant": "b"})}
        assert len(keys) == 3
        assert {unscoped(key) for key in keys} == {"k"}


# ── digest ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def digest(payload=None, *, name="send", queue="mail", **given):
    return new_job(
        Content("j", Template(name, queue), {} if payload is None else payload, 3), read(given), NOW_MS
    ).digest


def test_digest_is_the_same_for_the_same_content():
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest({}, priority=1, delay="60s") == digest({}, delay="1m", priority=1)


def test_digest_does_not_depend_on_how_the_job_is_identified():
    assert digest({}, idempotency_key="k", idempotency_window="1h") == digest({})
    assert digest({}, unique_key="k", on_conflict="reject") == digest({}, unique_key="k")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (digest({"a": 1}), digest({"a": 2})),
        (digest({"a": 1}), digest({"a": "1"})),
        (digest({"a": [1, 2]}), digest({"a": [2, 1]})),
        (digest({}), digest({}, priority=1)),
        (digest({}), digest({}, name="other")),
        (digest({}), digest({}, queue="other")),
        (digest({}, name="ab", queue="c"), digest({}, name="b", queue="ca")),
        (digest({}, tenant="a"), digest({}, tenant="b")),
        (digest("1", name="send"), digest(1, name="send")),
    ],
)
def test_digest_tells_different_content_apart(one, other):
    assert one != other


def test_digest_is_the_same_in_another_process():
    """Hash seeds differ between processes; what a store compares must not."""
    code = (
        "from psyqueue.kernel.options import *\n"
        "payload = {'tags': {'x', 'y', 'zz', 'w'}, 'b': 1, 'a': 2}\n"
        "given = read({'meta': {'k': 1, 'j': 2}, 'priority': 2, 'delay': 1})\n"
        "print(new_job(Content('j', Template('n', 'q'), payload, 3), given, 0).digest.hex())"
    )
    seen = set()
    for seed in ("1", "2", "3"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
        seen.add(done.stdout)
    assert len(seen) == 1

"""The decision about a run, as a table: no event loop, no store, no clock."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from psyqueue import Cancel, DeadLetter, HandlerTimeout, InvalidOption, PayloadError, Retry, Snooze
from psyqueue.backend import Ack, Cancelled, Dead, Delivery, Effects, Record
from psyqueue.backend import Retry as RetryOutcome
from psyqueue.backend import Snooze as SnoozeOutcome
from psyqueue.job import ERROR_BYTES_MAX
from psyqueue.outcome import Misfit, Policy, decide, error_json

DELIVERY = Delivery(
    id="job-1",
    queue="mail",
    name="send",
    payload=b"{}",
    cold=b"{}",
    completion_token="token-1",
    fence=1,
    attempt=3,
    lost=0,
    max_retries=3,
    priority=0,
    lane="",
    created_at_ms=1,
    started_at_ms=2,
    run_at_ms=1,
)
STEADY = Policy(jitter=False)
MIDDLE = 0.5
"""The chance at which jitter changes nothing."""


def end(policy=STEADY, *, chance=MIDDLE, **how):
    return decide(DELIVERY, policy, chance=lambda: chance, at_ms=77, **how)


def test_a_result_is_acked_as_json_with_the_effects_of_the_run():
    effects = Effects(records=(Record("stream", b"1"),))
    outcome = end(result={"a": [1, None]}, effects=effects)
    assert outcome == Ack(job_id="job-1", completion_token="token-1", result=b'{"a":[1,null]}', effects=effects)


def test_no_result_is_null():
    assert end(result=None) == Ack(job_id="job-1", completion_token="token-1", result=b"null")


@pytest.mark.parametrize("result", [float("nan"), object(), {1: 2}, "\ud800", "x" * (1 << 20)])
def test_a_result_that_is_no_json_or_too_large_is_dead_at_once(result):
    outcome = end(result=result)
    assert isinstance(outcome, Dead)
    assert outcome.reason == "result"
    assert json.loads(outcome.error)["code"] in ("INVALID_PAYLOAD", "TOO_LARGE")


@pytest.mark.parametrize("given", ["result", "error"])
@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (Snooze("30s"), SnoozeOutcome(job_id="job-1", completion_token="token-1", delay_ms=30_000, reason="snoozed")),
        (Cancel("nobody"), Cancelled(job_id="job-1", completion_token="token-1", reason="nobody")),
    ],
)
def test_a_verdict_counts_the_same_returned_and_raised(given, verdict, outcome):
    assert end(**{given: verdict}) == outcome


def test_dead_letter_keeps_the_reason_given():
    outcome = end(error=DeadLetter("account closed"))
    assert isinstance(outcome, Dead)
    assert outcome.reason == "account closed"
    assert json.loads(outcome.error)["message"] == "account closed"


def test_retry_with_after_waits_exactly_that_long_whatever_the_policy_says():
    outcome = end(Policy(cap_ms=10, jitter=True), error=Retry(after=2.5, reason="busy"), chance=0.99)
    assert isinstance(outcome, RetryOutcome)
    assert outcome.delay_ms == 2500
    assert json.loads(outcome.error)["message"] == "busy"


def test_retry_without_after_waits_as_the_policy_says():
    assert end(error=Retry()).delay_ms == 4000


@pytest.mark.parametrize("after", [-1, "soon", float("nan"), True])
def test_a_verdict_with_an_absurd_delay_is_refused_where_it_is_made(after):
    with pytest.raises(InvalidOption, match="after"):
        Retry(after=after)
    with pytest.raises(InvalidOption, match="after"):
        Snooze(after)


@pytest.mark.parametrize(
    ("policy", "delay_ms"),
    [
        (Policy(strategy="fixed", jitter=False), 1000),
        (Policy(strategy="linear", jitter=False), 3000),
        (Policy(strategy="exponential", jitter=False), 4000),
        (Policy(strategy="exponential", base_ms=10, cap_ms=25, jitter=False), 25),
    ],
)
def test_a_failure_is_retried_after_the_back_off_of_its_attempt(policy, delay_ms):
    outcome = end(policy, error=ValueError("no"))
    assert isinstance(outcome, RetryOutcome)
    assert outcome.delay_ms == delay_ms


@pytest.mark.parametrize(("chance", "delay_ms"), [(0.0, 3000), (0.5, 4000), (0.999_999, 5000)])
def test_jitter_spreads_by_a_quarter(chance, delay_ms):
    assert end(Policy(), error=ValueError("no"), chance=chance).delay_ms == delay_ms


def test_jitter_never_exceeds_the_cap():
    assert end(Policy(cap_ms=4000), error=ValueError("no"), chance=0.9).delay_ms == 4000


def test_own_back_off_gets_attempt_and_error_and_is_capped():
    seen = []

    def own(attempt, error):
        seen.append((attempt, str(error)))
        return "10m"

    assert end(Policy(own_backoff=own, jitter=False), error=ValueError("no")).delay_ms == 300_000
    assert seen == [(3, "no")]


@pytest.mark.parametrize("own", [lambda attempt, error: 1 / 0, lambda attempt, error: "soon"])
def test_own_back_off_that_fails_falls_back_and_is_told_with_the_error(own):
    outcome = end(Policy(own_backoff=own, jitter=False), error=ValueError("no"))
    assert outcome.delay_ms == 4000
    kept = json.loads(outcome.error)
    assert kept["message"] == "no"
    assert "own back-off failed" in kept["note"]


@pytest.mark.parametrize(
    ("policy", "error", "reason"),
    [
        (Policy(fatal=(KeyError,)), KeyError("k"), "fatal"),
        (Policy(fatal=(LookupError,)), KeyError("k"), "fatal"),
        (Policy(retry_on=(OSError,)), ValueError("v"), "fatal"),
        (Policy(retry_on=(KeyError,), fatal=(KeyError,)), KeyError("k"), "fatal"),
        (Policy(), Misfit("$.to", "Expected `str`, got `int`"), "payload"),
    ],
)
def test_what_repeating_cannot_mend_is_dead_at_once(policy, error, reason):
    outcome = end(policy, error=error)
    assert isinstance(outcome, Dead)
    assert outcome.reason == reason


@pytest.mark.parametrize(
    "error",
    [
        HandlerTimeout("send", 10),
        PayloadError("$", "raised by the handler's own enqueue"),
        ValueError("invalid response: validation failed"),  # D-97: the words of an error decide nothing
    ],
)
def test_other_errors_are_retried(error):
    assert isinstance(end(error=error), RetryOutcome)


def test_a_cancelled_run_that_nobody_asked_to_cancel_counts_as_a_failure():
    """Released it would run for ever without using an attempt."""
    assert isinstance(end(Policy(retry_on=(OSError,)), error=asyncio.CancelledError()), RetryOutcome)


def test_error_json_tells_type_text_traceback_attempt_and_time():
    def deep():
        secret = "hunter2"
        raise KeyError("missing", len(secret))

    with pytest.raises(KeyError) as caught:
        deep()
    kept = json.loads(error_json(caught.value, 4, 99))
    assert {key: kept[key] for key in ("type", "message", "attempt", "at_ms")} == {
        "type": "KeyError",
        "message": "('missing', 7)",
        "attempt": 4,
        "at_ms": 99,
    }
    assert "in deep" in kept["traceback"]
    assert "hunter2" not in kept["traceback"]


def test_error_json_names_the_module_of_foreign_types_and_the_code_of_ours():
    kept = json.loads(error_json(PayloadError("$", "bad"), 1, 1))
    assert (kept["type"], kept["code"]) == ("psyqueue.errors.PayloadError", "INVALID_PAYLOAD")


def test_error_json_never_exceeds_its_limit_and_keeps_the_innermost_frame():
    def recurse(n):
        if n == 0:
            raise ValueError('"\\' * 40_000)
        recurse(n - 1)

    with pytest.raises(ValueError, match='"') as caught:
        recurse(200)
    body = error_json(caught.value, 1, 1, "note " * 10_000)
    assert len(body) <= ERROR_BYTES_MAX
    kept = msgspec.json.decode(body)
    assert kept["type"] == "ValueError"
    assert kept["message"]


def test_error_whose_text_cannot_be_made_or_written_is_still_recorded():
    class Broken(Exception):
        def __str__(self):
            raise RuntimeError

    assert "__str__" in json.loads(error_json(Broken(), 1, 1))["message"]
    assert json.loads(error_json(ValueError("\udc80"), 1, 1))["message"] == "\\udc80"


def test_error_json_of_an_error_whose_traceback_cannot_be_printed_keeps_what_can_be_told():
    """A SyntaxError made by hand, by a template engine for example, may hold anything where its line should be."""

    def render():
        broken: Any = SyntaxError("bad template")
        broken.text = 5
        broken.lineno = broken.offset = object()
        raise broken

    with pytest.raises(SyntaxError) as caught:
        render()
    kept = json.loads(error_json(caught.value, 1, 1))
    assert (kept["type"], kept["message"].startswith("bad template")) == ("SyntaxError", True)
    assert "in render" in kept["traceback"]
    assert "cannot be printed" in kept["traceback"]


def test_error_json_takes_whatever_a_class_calls_itself_and_whatever_its_text_raises():
    class Leaves(Exception):
        def __str__(self):
            raise SystemExit(3)

    Leaves.__module__ = "app.\udc80"
    kept = json.loads(error_json(Leaves(), 1, 1))
    assert kept["type"].startswith("app.\\udc80.")
    assert "__str__ raises" in kept["message"]
    odd: Any = PayloadError("$", "bad")
    odd.message = 5
    assert json.loads(error_json(odd, 1, 1))["message"] == "5"

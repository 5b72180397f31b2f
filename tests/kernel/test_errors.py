"""Errors as values: they go from process to process, and every caller has one of its own."""

from __future__ import annotations

import copy
import pickle

import pytest

from psyqueue import errors

EACH = [
    errors.PsyQueueError("CODE", "text", {"a": 1}),
    errors.InvalidOption("delay", -1, "is negative"),
    errors.MissingExtra("redis", "redis"),
    errors.PluginError("p", "does not fit"),
    errors.DependencyError("p", "backend"),
    errors.CircularDependencyError(["a", "b"]),
    errors.NotStarted("not yet"),
    errors.PayloadError("$.a", "is no JSON"),
    errors.TooLarge("too large", limit=1),
    errors.IdConflict("j"),
    errors.KeyConflict("k", "j", "unique"),
    errors.UnknownDependency("j", "p"),
    errors.RateLimitError("k", 1_500),
    errors.QueueFull("q", "t", 7),
    errors.StateConflict("k", 1, 2),
    errors.Rejected("no"),
    errors.NamespaceMoved("redis:"),
    errors.JobNotFound("j"),
    errors.SessionLost("s"),
    errors.StoreUnavailable("away", "refused"),
    errors.StoreBusy("busy"),
    errors.HandlerTimeout("h", 1_000),
    errors.JobDead("j", "fatal", {"type": "E", "message": "m"}),
    errors.JobCancelled("j", "why"),
    errors.ResultTimeout("j", "pending", 10),
]


@pytest.mark.parametrize("error", EACH, ids=lambda error: type(error).__name__)
def test_an_error_can_be_copied_and_pickled(error: errors.PsyQueueError) -> None:
    """Pools of processes send it home; one that cannot be read there breaks the whole pool."""
    error.enqueued = (lambda: None,)
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert {**vars(other), "enqueued": ()} == {**vars(error), "enqueued": ()}
        assert other.enqueued == ()
        other.context["item"] = 3
        assert "item" not in error.context

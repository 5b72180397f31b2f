"""What random histories are made of: few values of each kind, chosen so that they meet."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from hypothesis import strategies as st

from psyqueue.backend import SETTINGS, Change, Limits, Record, StateWrite
from psyqueue.job import STATUSES, TERMINAL, Status

LEASE_MS = 10_000
DAY_MS = 86_400_000
PICK = st.integers(0, 9)
"""Which one of those there are, counted from the newest."""
QUEUES = st.sampled_from(["q", "q", "q", "r"])
LANES = st.sampled_from(["", "", "", "t", "u"])
FAR = 8
"""Picks below it mean something that fits; this one and greater ones anything that ever was."""
NOBODY = 9
"""As a parent it means a job that does not exist."""


class Brief:
    """Prints only what is not the default, so that a failing history can be read."""

    def __repr__(self) -> str:
        shown = [f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if not self._is_default(each)]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(shown)})"

    def _is_default(self, field: Any) -> bool:
        return bool(getattr(self, field.name) == field.default)


@dataclass(frozen=True, repr=False)
class Spec(Brief):
    """A job to be: its id is the next new one, or one that was used (`again`, a pick)."""

    again: int | None = None
    queue: str = "q"
    lane: str = ""
    priority: int = 0
    delay_ms: int = 0
    run_in_ms: int | None = None
    expires_in_ms: int | None = None
    max_retries: int = 3
    max_lost: int = 2
    digest: bytes = b"same"
    unique: str = ""
    on_conflict: Literal["existing", "replace", "reject"] = "existing"
    is_freed_at_start: bool = False
    idempotency: str = ""
    gate: str = ""
    needs: tuple[tuple[int, tuple[Status, ...]], ...] = ()


@dataclass(frozen=True, repr=False)
class Also(Brief):
    """Effects."""

    jobs: tuple[Spec, ...] = ()
    writes: tuple[StateWrite, ...] = ()
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, repr=False)
class End(Brief):
    """An outcome of the delivery that `pick` means."""

    kind: str = "ack"
    pick: int = 0
    delay_ms: int = 0
    is_forged: bool = False
    also: Also = Also()


ENDINGS = st.sampled_from(
    (("completed",), ("dead",), ("cancelled",), ("completed", "cancelled"), tuple(sorted(TERMINAL)))
)
NEEDS = st.lists(st.tuples(PICK, ENDINGS), min_size=1, max_size=3, unique_by=lambda need: need[0]).map(tuple)
PLAIN = st.builds(Spec, queue=QUEUES, lane=LANES, priority=st.sampled_from([0, 0, 0, 0, 1, -1]))
RICH = st.builds(
    Spec,
    again=st.none() | st.none() | st.none() | PICK,
    queue=QUEUES,
    lane=LANES,
    priority=st.sampled_from([0, 0, 0, 1]),
    delay_ms=st.sampled_from([0, 0, 0, 1, 2_000]),
    run_in_ms=st.sampled_from([None, None, None, -5, 3_000]),
    expires_in_ms=st.sampled_from([None, None, None, 1_000, 25_000]),
    max_retries=st.sampled_from([3, 0, 1]),
    max_lost=st.sampled_from([2, 0, 1]),
    digest=st.sampled_from([b"same", b"same", b"same", b"else"]),
    unique=st.sampled_from(["", "", "u1", "u1", "u2"]),
    on_conflict=st.sampled_from(["existing", "replace", "reject"]),
    is_freed_at_start=st.booleans(),
    idempotency=st.sampled_from(["", "", "", "i1"]),
    gate=st.sampled_from(["", "", "g1", "g2"]),
    needs=st.just(()) | NEEDS,
)
WRITES = st.one_of(
    st.builds(
        StateWrite,
        kind=st.just("put"),
        key=st.sampled_from(["k1", "k2"]),
        value=st.sampled_from([b"1", b'"x"']),
        expected=st.sampled_from([None, None, 0, 1, 2]),
        ttl_ms=st.sampled_from([None, None, 1_000]),
    ),
    st.builds(
        StateWrite,
        kind=st.just("add"),
        key=st.just("n1"),
        number=st.integers(-2, 3),
        ttl_ms=st.sampled_from([None, 1_000]),
    ),
    st.builds(
        StateWrite,
        kind=st.just("take"),
        key=st.just("t1"),
        number=st.integers(0, 2),
        capacity=st.just(3),
        refill_per_minute=st.just(60),
    ),
    st.builds(
        StateWrite, kind=st.just("delete"), key=st.sampled_from(["k1", "n1"]), expected=st.sampled_from([None, None, 1])
    ),
)
RECORDS = st.builds(
    Record, stream=st.sampled_from(["r", "audit"]), body=st.just(b"1"), ttl_ms=st.sampled_from([None, 1_000])
)
ALSO = st.builds(
    Also,
    jobs=st.lists(RICH, max_size=2).map(tuple),
    writes=st.lists(WRITES, max_size=2).map(tuple),
    records=st.lists(RECORDS, max_size=2).map(tuple),
)
MAYBE_ALSO = st.just(Also()) | st.just(Also()) | ALSO
ENDS = st.builds(
    End,
    kind=st.sampled_from(
        ["ack", "ack", "ack", "retry", "retry", "dead", "dead", "snooze", "release", "release", "cancelled", "keep"]
    ),
    pick=PICK,
    delay_ms=st.sampled_from([0, 0, 1_000, 60_000]),
    is_forged=st.sampled_from([False] * 7 + [True]),
    also=MAYBE_ALSO,
)
FETCHES = st.none() | st.tuples(
    st.sampled_from([("q",), ("q", "r"), ("r", "q"), ("r",)]),
    st.sampled_from([1, 2, 5, 0]),
    st.sampled_from([1 << 20, 1 << 20, 30]),
    st.booleans(),
)
STEPS_MS = st.sampled_from(
    [1, 1, 999, 1_000, 1_001, LEASE_MS - 1, LEASE_MS, LEASE_MS + 1, 60_001, DAY_MS, 91 * DAY_MS, -1_000, -DAY_MS]
)
SOME_SETTINGS = st.one_of(st.just(()), st.lists(st.sampled_from(SETTINGS), unique=True, max_size=3).map(tuple))
LIMITS = st.builds(
    Limits,
    queue=QUEUES,
    lane=st.sampled_from([None, None, "", "t", "t"]),
    paused_until_ms=st.sampled_from([None, None, None, -1]),
    weight=st.sampled_from([1, 2, 3]),
    active_max=st.sampled_from([None, None, None, 1, 2]),
    starts_per_minute=st.sampled_from([None, None, None, 60]),
    starts_burst=st.sampled_from([1, 2]),
    pending_max=st.sampled_from([None, None, None, 2]),
    retain_ended=st.sampled_from([(DAY_MS, 10_000), (0, 0), (0, 0), (DAY_MS, 1), None]),
    retain_dead=st.sampled_from([(90 * DAY_MS, 100_000), (0, 0), (DAY_MS, 1), None]),
)
CHANGES = st.builds(
    Change,
    kind=st.sampled_from(
        [
            "cancel",
            "cancel",
            "replay",
            "replay",
            "replay",
            "delete",
            "priority",
            "run_at",
            "finish",
            "hold",
            "unhold",
            "unhold",
        ]
    ),
    priority=st.sampled_from([0, 2, -2]),
    result=st.sampled_from([b"null", b"7"]),
    reason=st.sampled_from(["", "why"]),
)
FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "queues": st.sampled_from([("q",), ("q", "r"), ("none",)]),
        "statuses": st.lists(st.sampled_from(STATUSES), min_size=1, max_size=3, unique=True).map(tuple),
        "lanes": st.sampled_from([("",), ("t",)]),
        "text": st.sampled_from(["j1", "work", "{"]),
        "reason": st.sampled_from(["why", "exhausted", "lost", "expired", "dependency"]),
    },
)

"""What `psyqueue doctor` sees of the workers: their leases, and what they say of themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from psyqueue.backend import SessionInfo
from psyqueue.cli.findings import Finding, finding, some
from psyqueue.clock import span
from psyqueue.kernel.presence import own_version, presence_of

SKEW_MS_MAX = 2_000
LEASE_MS_SHORT = 5_000
LEASE_MS_LONG = 600_000


def worker_findings(sessions: Sequence[SessionInfo]) -> Iterator[Finding]:
    """Of open sessions."""
    yield from _late(sessions)
    yield _versions(sessions)
    yield _names(sessions)
    yield _clocks(sessions)
    yield _leases(sessions)


def _late(sessions: Sequence[SessionInfo]) -> Iterator[Finding]:
    """The lease ended and nobody has taken the jobs back, which any running worker would."""
    late = [info for info in sessions if info.expires_in_ms < 0]
    longest = max((-info.expires_in_ms for info in late), default=0)
    names = some([info.session.worker for info in late])
    detail = f"{len(sessions)} open, none late"
    if late:
        detail = f"{len(late)} of {len(sessions)} late, up to {span(longest)}: {names}"
    advice = "These workers are dead or hang. Any running worker takes their jobs back: start one"
    yield finding("worker sessions", not late, detail, advice)
    stranded = sum(info.held for info in late)
    yield finding("stranded jobs", not stranded, f"{stranded} held by late sessions", advice)


def _versions(sessions: Sequence[SessionInfo]) -> Finding:
    own = own_version()
    found = Counter(presence_of(info.session).psyqueue for info in sessions)
    found.pop("", None)
    others = [f"{version} ({count})" for version, count in sorted(found.items()) if version != own]
    detail = f"here {own}, workers {some(others)}" if others else f"all {own}" if found else "no worker says which"
    advice = "Two releases share the store: finish the deployment, or restart the workers that stayed behind"
    return finding("worker versions", not others, detail, advice)


def _names(sessions: Sequence[SessionInfo]) -> Finding:
    twice = _several(info.session.worker for info in sessions)
    advice = "Logs, `workers stop` and `explain` cannot tell them apart: give each its own --name, or none at all"
    return finding("worker names", not twice, some(twice) if twice else "each its own", advice)


def _clocks(sessions: Sequence[SessionInfo]) -> Finding:
    """A worker says what its clock showed when it opened its session, the store when that was."""
    wrong: list[str] = []
    for info in sessions:
        clock_ms = presence_of(info.session).clock_ms
        if clock_ms and abs(clock_ms - info.opened_at_ms) > SKEW_MS_MAX:
            wrong.append(f"{info.session.worker} by {span(clock_ms - info.opened_at_ms)}")
    advice = "Jobs go by the store's clock, but deadlines and logs by the worker's: let its machine keep time (NTP)"
    return finding("worker clocks", not wrong, some(wrong) if wrong else "none was away from the store's", advice)


def _leases(sessions: Sequence[SessionInfo]) -> Finding:
    odd = [
        f"{info.session.worker} {span(info.session.lease_ms)}"
        for info in sessions
        if not LEASE_MS_SHORT <= info.session.lease_ms <= LEASE_MS_LONG
    ]
    detail = some(odd) if odd else f"all between {span(LEASE_MS_SHORT)} and {span(LEASE_MS_LONG)}"
    advice = "A short pause of the machine loses jobs below, a dead worker's jobs wait that long above: --lease 30s"
    return finding("leases", not odd, detail, advice)


def _several(names: Iterable[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)

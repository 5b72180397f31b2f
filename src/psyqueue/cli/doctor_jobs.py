"""What `psyqueue doctor` sees of queues and jobs: what waits for ever, what grows, what fails, what is slow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from psyqueue.backend import UNTIL_RESUMED, BackendAdapter, Filter, QueueInfo, Schedule, SessionInfo
from psyqueue.backend import JobView as StoredJob
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.backend.compose import every_page
from psyqueue.backend.reading import is_paused
from psyqueue.cli.findings import Finding, finding, some
from psyqueue.clock import span
from psyqueue.job import Status
from psyqueue.kernel.presence import presence_of
from psyqueue.plugins import CircuitView
from psyqueue.plugins.circuit_breaker.ledger import all_circuits
from psyqueue.plugins.tenancy.roster import dropped_tiers
from psyqueue.words import counted

MINUTE_MS = 60_000
DAY_MS = 86_400_000
BACKLOG_MS_MAX = 15 * MINUTE_MS
FORGOTTEN_PAUSE_MS = DAY_MS
WAITING_MS_MAX = 7 * DAY_MS
OVERDUE_MS_MAX = MINUTE_MS
SLOW_MS = 60 * MINUTE_MS
CANCEL_MS_MAX = 5 * MINUTE_MS
FULL_SHARE = 0.9
ENDLESS_JOBS_MAX = 100_000
PRUNED_LATE_SHARE = 1.5
PRUNED_LATE_JOBS = 500
DEAD_SHARE_MAX = 0.1
DEAD_MIN = 10
_SAMPLED: tuple[Status, ...] = ("waiting", "scheduled", "pending", "active")


class Look(Struct, frozen=True, kw_only=True):
    """One look at a store. `sample`: the first 500 jobs of each status that has not ended; `dead`: of the last day.

    `dropped_tiers`: by name, how many tenants have them.
    """

    now_ms: int
    queues: Sequence[QueueInfo]
    sessions: Sequence[SessionInfo]
    sample: dict[Status, Sequence[StoredJob]]
    dead: Sequence[StoredJob]
    schedules: Sequence[Schedule]
    circuits: Sequence[CircuitView]
    dropped_tiers: Mapping[str, int]

    def told(self, status: Status, is_meant: Callable[[StoredJob], bool]) -> list[str]:
        """`name (count)` of the sampled jobs that are meant, the most first."""
        found = Counter(stored.job.name for stored in self.sample[status] if is_meant(stored))
        return [f"{name} ({count:,})" for name, count in found.most_common()]


class Known(Struct, frozen=True):
    """An application, for people, and whether it has a handler of this name."""

    application: str
    has_handler: Callable[[str], bool]


async def look_at(
    backend: BackendAdapter, queues: Sequence[QueueInfo], sessions: Sequence[SessionInfo], now_ms: int
) -> Look:
    """Reads a page of each status, all that is dead, all schedules, circuits and tiers."""
    schedules = await every_page(lambda cursor: backend.list_schedules(cursor, ITEMS_MAX))
    circuits = await all_circuits(backend)
    dropped = await dropped_tiers(backend)
    sample: dict[Status, Sequence[StoredJob]] = {}
    for status in _SAMPLED:
        sample[status] = (await backend.list_jobs(Filter(statuses=(status,)), None, ITEMS_MAX)).jobs
    dead: list[StoredJob] = []
    cursor: str | None = None
    while True:
        page = await backend.list_jobs(Filter(statuses=("dead",)), cursor, ITEMS_MAX)
        dead += [stored for stored in page.jobs if (stored.completed_at_ms or 0) >= now_ms - DAY_MS]
        cursor = page.cursor
        if cursor is None:
            return Look(
                now_ms=now_ms,
                queues=queues,
                sessions=sessions,
                sample=sample,
                dead=dead,
                schedules=schedules,
                circuits=circuits,
                dropped_tiers=dropped,
            )


def job_findings(look: Look, known: Known | None = None) -> Iterator[Finding]:
    """Of queues, then of jobs; also against the handlers of an application, if there is one."""
    yield _unserved(look)
    yield _forgotten_pauses(look)
    yield _shut(look)
    yield _backlog(look)
    yield _full(look)
    yield _endless(look)
    yield _unpruned(look)
    yield _unknown(look)
    if known is not None:
        yield _nobodys(look, known)
    yield _overdue(look)
    yield _unmade(look)
    yield _open(look)
    yield _dropped(look)
    yield _waiting(look)
    yield _held(look)
    yield _slow(look)
    yield _deaf(look)
    yield from _dead(look)


# ── queues ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def _unserved(look: Look) -> Finding:
    served = _served(look)
    waiting = [
        f"{info.queue} ({info.counts.get('pending', 0):,})"
        for info in look.queues
        if info.counts.get("pending", 0) and info.queue not in served and not is_paused(info.limits, look.now_ms)
    ]
    detail = some(waiting) if waiting else "every queue with pending jobs has a worker"
    advice = "Nobody takes these jobs: start a worker for the queue, psyqueue worker module:queue --queues NAME"
    return finding("queues without worker", not waiting, detail, advice)


def _served(look: Look) -> set[str]:
    return {name for info in look.sessions for name in info.session.queues if info.expires_in_ms >= 0}


def _oldest_ms(info: QueueInfo, now_ms: int) -> int:
    return 0 if info.oldest_pending_at_ms is None else now_ms - info.oldest_pending_at_ms


def _forgotten_pauses(look: Look) -> Finding:
    forgotten = [
        f"{info.queue}, a job for {span(_oldest_ms(info, look.now_ms))}"
        for info in look.queues
        if info.limits.paused_until_ms == UNTIL_RESUMED and _oldest_ms(info, look.now_ms) > FORGOTTEN_PAUSE_MS
    ]
    advice = "Nobody has resumed it for a day while jobs wait: psyqueue queues resume NAME, or pause it --until"
    return finding("forgotten pauses", not forgotten, _or_none(forgotten), advice)


def _shut(look: Look) -> Finding:
    shut = [info.queue for info in look.queues if 0 in (info.limits.active_max, info.limits.starts_per_minute)]
    advice = "active_max or starts_per_minute is 0, so nothing ever starts: psyqueue queues limits NAME; pause instead"
    return finding("limits of nothing", not shut, _or_none(shut), advice)


def _backlog(look: Look) -> Finding:
    served = _served(look)
    behind = [
        f"{info.queue} for {span(_oldest_ms(info, look.now_ms))}"
        for info in look.queues
        if info.queue in served
        and not is_paused(info.limits, look.now_ms)
        and _oldest_ms(info, look.now_ms) > BACKLOG_MS_MAX
    ]
    detail = some(behind) if behind else f"no job of a served queue is pending for {span(BACKLOG_MS_MAX)}"
    advice = "More comes in than its workers get done: more --concurrency or --processes, or quicker handlers"
    return finding("backlog", not behind, detail, advice)


def _full(look: Look) -> Finding:
    full: list[str] = []
    for info in look.queues:
        unstarted = sum(info.counts.get(status, 0) for status in ("waiting", "scheduled", "pending"))
        most = info.limits.pending_max
        if most is not None and unstarted >= FULL_SHARE * most:
            full.append(f"{info.queue} ({unstarted:,} of {most:,})")
    advice = "Enqueues are refused with QueueFull from pending_max on: add workers, or raise it with `queues limits`"
    return finding("full queues", not full, _or_none(full), advice)


def _kept(info: QueueInfo) -> Iterator[tuple[str, int, tuple[int, int] | None]]:
    ended = info.counts.get("completed", 0) + info.counts.get("cancelled", 0)
    yield "ended", ended, info.limits.retain_ended
    yield "dead", info.counts.get("dead", 0), info.limits.retain_dead


def _endless(look: Look) -> Finding:
    endless = [
        f"{info.queue}: {count:,} {kind}"
        for info in look.queues
        for kind, count, rule in _kept(info)
        if rule is None and count > ENDLESS_JOBS_MAX
    ]
    detail = some(endless) if endless else f"no queue keeps more than {ENDLESS_JOBS_MAX:,} jobs without a limit"
    advice = "Kept for ever, they fill the store: psyqueue queues limits NAME --retain-ended 7d:1000000"
    return finding("retention", not endless, detail, advice)


def _unpruned(look: Look) -> Finding:
    late = [
        f"{info.queue}: {count:,} {kind}, to be {rule[1]:,}"
        for info in look.queues
        for kind, count, rule in _kept(info)
        if rule is not None and count > PRUNED_LATE_SHARE * rule[1] + PRUNED_LATE_JOBS
    ]
    advice = "Workers delete what is over the limit while they run: start one, or give it time"
    return finding("growth", not late, some(late) if late else "every queue keeps what it is to keep", advice)


# ── jobs that have not ended ──────────────────────────────────────────────────────────────────────────────────────────
def _names_of_workers(look: Look) -> dict[str, set[str] | None]:
    """By queue, what its running workers say they have handlers for; None: one does not say, and may know all."""
    known: dict[str, set[str] | None] = {}
    for info in look.sessions:
        handlers = presence_of(info.session).handlers
        for queue in info.session.queues if info.expires_in_ms >= 0 else ():
            names = known.setdefault(queue, set())
            known[queue] = None if names is None or handlers is None else names | set(handlers)
    return known


def _unknown(look: Look) -> Finding:
    known = _names_of_workers(look)

    def is_unknown(stored: StoredJob) -> bool:
        names = known.get(stored.job.queue)
        return names is not None and stored.job.name not in names

    unknown = [*look.told("pending", is_unknown), *look.told("scheduled", is_unknown)]
    advice = "No worker of their queue had the handler when it started: deploy it, or mend the name. Dead after a day"
    return finding("unknown handlers", not unknown, _or_none(unknown), advice)


def _nobodys(look: Look, known: Known) -> Finding:
    """Jobs that no deployment of this application will run, and no worker of another one runs now."""
    of_workers = _names_of_workers(look)

    def is_nobodys(stored: StoredJob) -> bool:
        names = of_workers.get(stored.job.queue, set())
        return not known.has_handler(stored.job.name) and names is not None and stored.job.name not in names

    nobodys = [*look.told("pending", is_nobodys), *look.told("scheduled", is_nobodys)]
    advice = f"Neither {known.application} has the handler nor a worker: mend the name, keep the old one in aliases="
    return finding("application handlers", not nobodys, _or_none(nobodys), advice)


def _overdue(look: Look) -> Finding:
    before_ms = look.now_ms - OVERDUE_MS_MAX
    overdue = look.told("scheduled", lambda stored: stored.run_at_ms < before_ms and not stored.held)
    advice = "Whoever dequeues from their queue starts them: is there a worker for it, and is it not paused?"
    return finding("overdue jobs", not overdue, _or_none(overdue), advice)


def _unmade(look: Look) -> Finding:
    before_ms = look.now_ms - OVERDUE_MS_MAX
    due = [each for each in look.schedules if not each.paused and each.next_at_ms is not None]
    unmade = [f"{each.id}, for {span(look.now_ms - at)}" for each in due if (at := each.next_at_ms or 0) < before_ms]
    advice = (
        "No process makes their jobs: is one running whose queue uses Schedules()? If so, its log says why it cannot"
    )
    return finding("overdue schedules", not unmade, _or_none(unmade), advice)


def _open(look: Look) -> Finding:
    apart = [f"{view.name} ({view.state})" for view in look.circuits if view.state != "closed"]
    advice = "What handlers depend on is down, so their jobs wait: psyqueue circuits ls says until when"
    return finding("open circuits", not apart, _or_none(apart), advice)


def _dropped(look: Look) -> Finding:
    told = [f"{name} ({counted(count, 'tenant')})" for name, count in look.dropped_tiers.items()]
    advice = "No code declares these tiers any more, and their tenants keep them: psyqueue tenants assign TENANT TIER"
    return finding("dropped tiers", not told, _or_none(told), advice)


def _waiting(look: Look) -> Finding:
    before_ms = look.now_ms - WAITING_MS_MAX
    waiting = look.told("waiting", lambda stored: stored.created_at_ms < before_ms)
    advice = f"They wait for others or for a gate for {span(WAITING_MS_MAX)}: psyqueue jobs explain ID says for which"
    return finding("stuck jobs", not waiting, _or_none(waiting), advice)


def _held(look: Look) -> Finding:
    held = [name for status in _SAMPLED for name in look.told(status, lambda stored: stored.held)]
    advice = "A move of the store was begun and not finished; nothing starts them before it is, or is undone"
    return finding("held jobs", not held, _or_none(held), advice)


def _slow(look: Look) -> Finding:
    slow = look.told("active", lambda stored: _runs_ms(stored, look.now_ms) > SLOW_MS)
    advice = f"They run for more than {span(SLOW_MS)}: do they hang? Give the handler a timeout, or cancel them"
    return finding("slow handlers", not slow, _or_none(slow), advice)


def _deaf(look: Look) -> Finding:
    deaf = look.told("active", lambda stored: stored.cancel_requested and _runs_ms(stored, look.now_ms) > CANCEL_MS_MAX)
    advice = "Their handlers do not heed a cancel: look at ctx.cancelled in threads, or give them a timeout"
    return finding("unheeded cancels", not deaf, _or_none(deaf), advice)


def _runs_ms(stored: StoredJob, now_ms: int) -> int:
    return 0 if stored.started_at_ms is None else now_ms - stored.started_at_ms


# ── dead ones ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _dead(look: Look) -> Iterator[Finding]:
    advice = "Look at their errors with `psyqueue dead ls`, mend the cause, then `psyqueue dead replay`"
    yield finding("dead in the last day", not look.dead, counted(len(look.dead), "job"), advice)
    dead = Counter(stored.job.queue for stored in look.dead)
    many: list[str] = []
    for info in look.queues:
        ended = info.counts.get("completed", 0) + dead[info.queue]
        if dead[info.queue] >= DEAD_MIN and dead[info.queue] > DEAD_SHARE_MAX * ended:
            many.append(f"{info.queue} ({dead[info.queue]:,} of {ended:,})")
    advice = "A service that its handlers need may be down, or a deployment broken: pause the queue, mend, replay"
    detail = some(many) if many else f"no queue lost more than {DEAD_SHARE_MAX:.0%} in the last day"
    yield finding("dead ratio", not many, detail, advice)
    killers = Counter(stored.job.name for stored in look.dead if stored.reason == "lost")
    told = [f"{name} ({count:,})" for name, count in killers.most_common()]
    advice = "Each lost its worker three times: does the handler use up the memory, or end the process? mode='process'"
    yield finding("deadly jobs", not told, _or_none(told), advice)


def _or_none(names: Iterable[str]) -> str:
    return some(list(names)) or "none"

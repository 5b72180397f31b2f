"""What a PostgreSQL store needs from its server, its role and the way to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from statistics import median

from psyqueue.backends._postgres import health
from psyqueue.backends._postgres.facts import (
    VERSION_MIN,
    Facts,
    about_commits,
    about_disk,
    about_standbys,
    warnings,
)
from psyqueue.backends._postgres.health import Health, Row
from psyqueue.backends._postgres.options import PostgresOptions
from psyqueue.cli.findings import Finding, Seen, finding
from psyqueue.clock import SystemClock
from psyqueue.errors import PsyQueueError

SUPPORTED_UNTIL = {
    13: date(2025, 11, 13),
    14: date(2026, 11, 12),
    15: date(2027, 11, 11),
    16: date(2028, 11, 9),
    17: date(2029, 11, 8),
    18: date(2030, 11, 14),
}
"""Last fixes of a major version, as its makers announced them."""
ROUND_TRIP_MS_MAX = 20.0
OLD_S_MAX = 300.0
"""Of a transaction: a backup may take longer, but then dead rows pile up."""
OLD_XIDS_MAX = 1_000_000
SLOT_LOG_BYTES_MAX = 1 << 30
DEAD_ROWS_MIN, DEAD_SHARE_MAX = 100_000, 10
"""A table may have so many dead rows, and beyond that so many times its living ones."""
LISTENERS = 2
"""Connections of a process beside its pool: one that listens, one that renews."""
TIMEOUT_MS_MIN = {"statement_timeout": 5_000, "transaction_timeout": 5_000, "lock_timeout": 1_000}
IDLE_MS_MIN = 60_000
SHOWN_MAX = 3


async def look(options: PostgresOptions) -> Seen:
    """From outside: nothing is written, and no store is made."""
    seen = Seen()
    try:
        found = await health.look(options)
    except PsyQueueError as exc:
        advice = "Nothing can be enqueued or run before this is mended"
        seen.findings.append(Finding("server", False, exc.message, advice))
        return seen
    # All but that the clock stands still, which no check here is about.
    seen.warnings |= {*warnings(found.facts, replace(options, test_clock=False))}
    seen.findings += _findings(found, options)
    place = found.place
    seen.has_store = place.has_functions and not (place.missing or found.lacking)
    return seen


def _findings(found: Health, options: PostgresOptions) -> Iterator[Finding]:
    yield _server(found.facts)
    yield _saving(found.facts)
    yield _commits(found)
    yield _standbys(found.facts)
    yield _connections(found, options)
    yield _transactions(found)
    yield _prepared(found)
    yield _slots(found)
    yield _timeouts(found)
    yield _network(found, options)
    yield _notices(found, options)
    yield _latency(found)
    yield _schema(found, options)
    if found.place.has_ledger:
        yield _rights(found)
        yield _autovacuum(found)
        yield _dead_rows(found)
        yield _tables(found)


# ── the server ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _server(found: Facts) -> Finding:
    major, least = found.number // 10_000, VERSION_MIN // 10_000
    ended = SUPPORTED_UNTIL.get(major)
    is_supported = ended is None or datetime.fromtimestamp(SystemClock().now_ms() / 1000, UTC).date() <= ended
    detail = f"PostgreSQL {found.version} ({least} or newer is needed)"
    if not is_supported:
        detail = f"{detail}; {major} got its last fixes on {ended}"
    return finding("server", is_supported, detail, "psyqueue runs on it, but its holes are mended no more: upgrade it")


def _saving(found: Facts) -> Finding:
    problems = [*about_disk(found)]
    words = [f"{name} {'on' if is_on else 'off'}" for name, is_on in _disk(found).items()]
    advice = "Set both to on (ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf()): they are what makes it durable"
    return finding("saving", not problems, "; ".join((", ".join(words), *problems)), advice)


def _disk(found: Facts) -> dict[str, bool]:
    return {"fsync": found.fsync, "full_page_writes": found.full_page_writes}


def _commits(found: Health) -> Finding:
    """Those of this role, and of others that may use the store."""
    facts = found.facts
    problems = [*about_commits(facts)]
    others = [role for role in found.careless if role != found.place.role]
    if others:
        problems.append(f"synchronous_commit is off for {', '.join(others)}: a crash may lose what they enqueue")
    advice = "ALTER ROLE … RESET synchronous_commit (or DATABASE, or SYSTEM), unless such a loss is acceptable"
    return finding("commits", not problems, "; ".join(problems or [facts.commit_words]), advice)


def _standbys(found: Facts) -> Finding:
    problems = [*about_standbys(found)]
    waited = "unknown which" if found.waited_for is None else f"{found.waited_for}"
    names = f"commits wait for {found.standby_names!r}" if found.standby_names else "commits wait for none"
    detail = "; ".join((f"{found.standbys} connected, {waited} synchronous, {names}", *problems))
    return finding("standbys", not problems, detail, "Bring the standby back, or take it out of the setting")


def _connections(found: Health, options: PostgresOptions) -> Finding:
    used, most, free = (found.connections[name] for name in ("used", "most", "free"))
    needed = options.max_size + LISTENERS
    detail = f"{used} of {most} used; this role may open {max(0, free)} more, a process takes up to {needed}"
    advice = "Raise max_connections (or CONNECTION LIMIT of role or database), lower max_size=, or end idle sessions"
    return finding("connections", free >= needed, detail, advice)


# ── what keeps dead rows alive ────────────────────────────────────────────────────────────────────────────────────────
def _transactions(found: Health) -> Finding:
    old = [row for row in found.transactions if row["age_s"] > OLD_S_MAX]
    detail = "; ".join(map(_who, found.transactions[:1])) or "none is open"
    if old:
        detail = "; ".join(map(_who, old[:SHOWN_MAX]))
    if found.hidden:
        detail = f"{detail}; {found.hidden} sessions are not shown to this role (GRANT pg_monitor shows them)"
    advice = (
        "What they might still see cannot be vacuumed, and fetching jobs gets slower. Commit or end them: "
        f"SELECT pg_terminate_backend({old[0]['pid'] if old else 'pid'})"
    )
    return finding("old transactions", not old, detail, advice)


def _who(row: Row) -> str:
    application = f", application {row['application']}" if row["application"] else ""
    return f"open for {row['age_s']:,.0f} s ({row['state']}): pid {row['pid']}, role {row['role']}{application}"


def _prepared(found: Health) -> Finding:
    old = [row for row in found.prepared if row["age_s"] > OLD_S_MAX]
    detail = f"{len(found.prepared)} wait" if found.prepared else "none"
    if old:
        detail = "; ".join(
            f"{row['gid']!r} of role {row['role']}, for {row['age_s']:,.0f} s" for row in old[:SHOWN_MAX]
        )
    advice = (
        "They outlive restarts, keep locks and dead rows: COMMIT PREPARED or ROLLBACK PREPARED each, in its database"
    )
    return finding("prepared transactions", not old, detail, advice)


def _slots(found: Health) -> Finding:
    """One that nobody uses keeps rows and log for good; one in use may have an old snapshot."""
    bad = [row for row in found.slots if not row["active"] or _is_old(row)]
    shown = "; ".join(map(_slot, bad[:SHOWN_MAX]))
    detail = shown or (f"{len(found.slots)} in use" if found.slots else "none")
    advice = (
        "They keep dead rows, or log until the disk is full: bring the standby back or end its long queries, "
        "or SELECT pg_drop_replication_slot(name)"
    )
    return finding("replication slots", not bad, detail, advice)


def _is_old(row: Row) -> bool:
    return (row["age"] or 0) > OLD_XIDS_MAX or (row["log_bytes"] or 0) > SLOT_LOG_BYTES_MAX


def _slot(row: Row) -> str:
    rows = "" if row["age"] is None else f", rows of the last {row['age']:,} transactions"
    log = "" if row["log_bytes"] is None else f", {row['log_bytes'] >> 20:,} MiB of log"
    return f"{row['name']} ({'in use' if row['active'] else 'not in use'}) keeps{rows}{log}".replace("keeps,", "keeps")


def _autovacuum(found: Health) -> Finding:
    problems = [f"{name} is off" for name in ("autovacuum", "track_counts") if found.settings.get(name) == "off"]
    alone = [row["name"] for row in found.tables if row["is_left_alone"]]
    if alone:
        problems.append(f"autovacuum_enabled is off for {_some(alone)}")
    advice = "Dead rows are never removed, and every step gets slower: switch it on"
    return finding("autovacuum", not problems, "; ".join(problems) or "on", advice)


def _dead_rows(found: Health) -> Finding:
    full = [row for row in found.tables if row["dead"] > DEAD_ROWS_MIN + DEAD_SHARE_MAX * row["live"]]
    dead, live = (sum(row[name] for row in found.tables) for name in ("dead", "live"))
    detail = f"{dead:,} beside {live:,} living ones"
    if full:
        detail = "; ".join(f"{row['name']} has {row['dead']:,} beside {row['live']:,} living ones" for row in full)
    advice = (
        "Vacuum does not keep up or is held back: look at the checks above for what holds it, lower "
        "autovacuum_naptime, and VACUUM the table"
    )
    return finding("dead rows", not full, detail, advice)


def _tables(found: Health) -> Finding:
    """How large, and whether a crash empties one: only who sleeps may be forgotten."""
    unlogged = [row["name"] for row in found.tables if row["is_unlogged"] and row["name"] != "sleeper"]
    largest = ", ".join(map(_table, found.tables[:SHOWN_MAX]))
    detail = f"{sum(row['size'] for row in found.tables) >> 20:,} MiB: {largest}"
    if unlogged:
        detail = f"{_some(unlogged)} unlogged: a crash of the server empties them"
    return finding("tables", not unlogged, detail, "SET LOGGED each of them again (ALTER TABLE)")


def _table(row: Row) -> str:
    ago = row["vacuumed_s"]
    vacuumed = "never vacuumed" if ago is None else f"vacuumed {ago / 60:,.0f} min ago"
    return f"{row['name']} {row['size'] >> 20:,} MiB ({vacuumed})"


# ── the role and the way ──────────────────────────────────────────────────────────────────────────────────────────────
def _timeouts(found: Health) -> Finding:
    set_ms = {name: int(value) for name, value in found.settings.items() if value.isdigit()}
    short = [name for name, least in TIMEOUT_MS_MIN.items() if 0 < set_ms.get(name, 0) < least]
    short += ["idle_session_timeout"] if 0 < set_ms.get("idle_session_timeout", 0) < IDLE_MS_MIN else []
    shown = [f"{name} {value:,} ms" for name, value in set_ms.items() if value and (not short or name in short)]
    advice = (
        "Steps, or the connection that listens, are cut off under load: raise them for this role (ALTER ROLE … SET), "
        f"{TIMEOUT_MS_MIN['statement_timeout'] // 1000} s or more for statements"
    )
    return finding("timeouts", not short, ", ".join(shown) or "none is set for this role", advice)


def _network(found: Health, options: PostgresOptions) -> Finding:
    where = found.way["address"] or "a socket"
    if found.way["is_near"]:
        return Finding("network", True, f"{where}, on this machine")
    if not found.way["is_tls"]:
        advice = "Jobs and passwords cross the network in the clear: switch ssl on in the server, and give ssl=True"
        return Finding("network", False, f"{where}, without TLS", advice)
    is_verified = options.is_verified
    advice = "Anybody in between can read and change jobs: give ssl=True, with ssl_ca= for an authority of your own"
    return finding("network", is_verified, f"{where}, TLS {'verified' if is_verified else 'not verified'}", advice)


def _notices(found: Health, options: PostgresOptions) -> Finding:
    detail = "LISTEN and NOTIFY work" if found.hears else "what NOTIFY sends does not reach who listens"
    advice = (
        "A pooler that hands out another connection for each transaction is in between: workers then look every 2 s. "
        "Point psyqueue to the server or to a pooler in session mode"
    )
    if options.prepared:
        advice = f"{advice}; else give prepared=False"
    return finding("notices", found.hears, detail, advice)


def _latency(found: Health) -> Finding:
    times = found.round_trips_ms
    detail = f"{median(times):.2f} ms, longest {max(times):.2f} ms of {len(times)}"
    advice = "Every call waits for it: run workers near the server, and look at its load"
    return finding("round trip", median(times) <= ROUND_TRIP_MS_MAX, detail, advice)


# ── the store ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _schema(found: Health, options: PostgresOptions) -> Finding:
    place, where = found.place, f"schema {options.schema} of database {found.facts.database}"
    if place.problem:
        return Finding("schema", False, place.problem, "Nothing can be enqueued or run before this is mended")
    if not place.has_ledger:
        if place.has_relations:
            return Finding("schema", False, f"{where} holds what psyqueue did not make", "Give another schema=")
        advice = "If database and schema are as meant: `psyqueue enqueue` and a worker create a store"
        if not (place.may_create or place.schema_exists):
            advice = f"{advice}, once role {place.role} may (GRANT CREATE ON DATABASE)"
        return Finding("schema", False, f"no store in {where}", advice)
    lacks = [f"{place.missing} changes of this psyqueue"] if place.missing else []
    lacks += [] if place.has_functions else ["the functions of this psyqueue"]
    detail = f"{where}, number {place.number}" + (f"; lacks {' and '.join(lacks)}" if lacks else "")
    advice = "An older psyqueue made it. The first connect of this one adds them, if its role may"
    return finding("schema", not lacks, detail, advice)


def _rights(found: Health) -> Finding:
    detail = f"role {found.place.role} lacks {_some(found.lacking)}" if found.lacking else f"role {found.place.role}"
    return finding("rights", not found.lacking, detail, "GRANT them to the role, or use the one that owns the schema")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_MAX} more" if len(names) > SHOWN_MAX else ""
    return ", ".join(names[:SHOWN_MAX]) + more

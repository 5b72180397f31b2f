"""What a Redis or Valkey store needs from its server and from the way to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import median

from psyqueue.backends._redis.facts import (
    SETTINGS,
    UNKNOWN,
    VERSION_MIN,
    Facts,
    about_memory,
    about_saving,
    from_info,
    info_of,
    is_far,
    settings_of,
    warnings,
)
from psyqueue.backends._redis.faults import ReplyError, translate
from psyqueue.backends._redis.link import Link
from psyqueue.backends._redis.options import RedisOptions
from psyqueue.backends._redis.scripts import SCHEMA
from psyqueue.cli.findings import Finding, Seen, finding
from psyqueue.clock import SystemClock
from psyqueue.errors import PsyQueueError

ROUND_TRIPS = 21
ROUND_TRIP_MS_MAX = 20.0
"""A worker asks the server several times for each batch of jobs, a caller once for each enqueue."""
MEMORY_SHARE_MAX = 0.9
FIELDS_MIN, FIELD_BYTES_MIN = 40, 64
"""What a job's hash needs to stay small: fields, and bytes of one; the server's own defaults allow both."""
_ACCESS = ("protected-mode", "bind", "requirepass")
_SMALL_HASHES = ("hash-max-listpack-*", "hash-max-ziplist-*")
_LOOPBACK = ("127.", "-127.", "::1", "-::1", "localhost")


async def look(options: RedisOptions) -> Seen:
    """From outside: nothing is written, and no store is made."""
    seen, link = Seen(), Link(options.address)
    try:
        await _look(link, options, seen)
    except PsyQueueError as exc:
        advice = "Nothing can be enqueued or run before this is mended"
        seen.findings.append(Finding("server", False, exc.message, advice))
    finally:
        await link.close()
    return seen


async def _look(link: Link, options: RedisOptions, seen: Seen) -> None:
    info = await info_of(link, options)
    settings = await settings_of(link, (*SETTINGS, *_SMALL_HASHES, *_ACCESS))
    found = from_info(info, settings)
    # All but that the clock stands still, which no check here is about.
    seen.warnings |= {*warnings(found, replace(options, test_clock=False))}
    seen.findings += [_server(found), _role(found), _saving(found), _memory(found, info), _replicas(found)]
    seen.findings += [_access(found, settings), _network(options), _small_hashes(settings)]
    seen.findings.append(await _latency(link))
    seen.findings.append(await _namespace(link, options, seen))


def _server(found: Facts) -> Finding:
    least = ".".join(map(str, VERSION_MIN))
    is_new = not found.version or found.version >= VERSION_MIN
    detail = f"{found.kind} {found.version_text} ({least} or newer is needed)"
    return finding("server", is_new, detail, "Upgrade the server")


def _role(found: Facts) -> Finding:
    detail = f"{found.role}, a node of a cluster" if found.is_cluster else found.role
    is_good = found.role in ("master", UNKNOWN) and not found.is_cluster
    return finding("role", is_good, detail, "Point psyqueue to a master that is in no cluster: it alone takes writes")


def _saving(found: Facts) -> Finding:
    saves = {"": "no snapshots", UNKNOWN: "snapshots unknown"}.get(found.rdb_saves, f"snapshots {found.rdb_saves}")
    fsync = f" ({found.appendfsync})" if found.aof == "on" else ""
    problems = [*about_saving(found)]
    detail = f"append-only file {found.aof}{fsync}, {saves}"
    advice = "What a crash of the server may lose stands in docs/backends/redis.md"
    return finding("saving", not problems, "; ".join((detail, *problems)), advice)


def _memory(found: Facts, info: Mapping[str, str]) -> Finding:
    """The policy when it is full, and how near that is."""
    used, limit = int(info.get("used_memory", 0)), found.maxmemory_bytes
    problems = [*about_memory(found)]
    if limit and used > limit * MEMORY_SHARE_MAX:
        problems.append("it is nearly full: soon nothing more can be enqueued")
    room = f"of {limit >> 20:,} MiB" if limit else "without a limit"
    detail = f"{used >> 20:,} MiB {room}, maxmemory-policy {found.maxmemory_policy}"
    advice = "Set maxmemory-policy noeviction, and a maxmemory that leaves the machine some room"
    return finding("memory", not problems, "; ".join((detail, *problems)), advice)


def _replicas(found: Facts) -> Finding:
    there, wanted = found.replicas, found.replicas_min or 0
    detail = f"{UNKNOWN if there is None else there}, min-replicas-to-write {wanted}"
    advice = "The server refuses every write until enough replicas are in step: look at them"
    return finding("replicas", there is None or there >= wanted, detail, advice)


def _access(found: Facts, settings: Mapping[str, str]) -> Finding:
    """Whether strangers are let in: no password for the default user, and ears for other machines."""
    if "bind" not in settings:
        return Finding("access", True, "not shown by the server (CONFIG GET)")
    others = [each for each in settings["bind"].split() if not each.startswith(_LOOPBACK)]
    is_guarded = settings.get("requirepass") != "" or settings.get("protected-mode") != "no"
    password = "with" if settings.get("requirepass") else "without"
    # Before 7.0 an empty setting means every address, since then none.
    is_wide = not settings["bind"] and found.version < (7, 0)
    where = "every address" if is_wide else settings["bind"] or "nothing"
    detail = f"bound to {where}, protected-mode {settings.get('protected-mode', UNKNOWN)}"
    advice = "Anybody who reaches the port can read and change jobs: set requirepass or ACL users, or bind 127.0.0.1"
    return finding("access", is_guarded or not (others or is_wide), f"{detail}, {password} a password", advice)


def _network(options: RedisOptions) -> Finding:
    address = options.address
    if not is_far(address):
        return Finding("network", True, f"{address.place}, on this machine")
    if address.tls is None:
        advice = "Jobs and passwords cross the network in the clear: write rediss:// and give the server certificates"
        return Finding("network", False, f"{address.place}, without TLS", advice)
    detail = f"{address.place}, TLS {'verified' if address.tls.is_verified else 'not verified'}"
    advice = "Anybody in between can read and change jobs: give tls_ca= instead of tls_verify=False"
    return finding("network", address.tls.is_verified, detail, advice)


def _small_hashes(settings: Mapping[str, str]) -> Finding:
    """Since 7.0 they are called listpack, before ziplist; newer servers know both names."""
    limits = {}
    for name in ("entries", "value"):
        texts = [settings.get(f"hash-max-{kind}-{name}") for kind in ("listpack", "ziplist")]
        limits[name] = next((int(text) for text in texts if text is not None), None)
    entries, value = limits["entries"], limits["value"]
    if entries is None or value is None:
        return Finding("small hashes", True, "not shown by the server (CONFIG GET)")
    detail = f"up to {entries:,} fields of {value:,} bytes; a longer name of a queue or job makes its jobs larger"
    advice = (
        f"Jobs take twice the memory: set hash-max-listpack-entries {FIELDS_MIN} and -value {FIELD_BYTES_MIN} or more"
    )
    return finding("small hashes", entries >= FIELDS_MIN and value >= FIELD_BYTES_MIN, detail, advice)


async def _latency(link: Link) -> Finding:
    clock, times = SystemClock(), []
    for _ in range(ROUND_TRIPS):
        began_ms = clock.mono_ms()
        await link.call("PING")
        times.append(clock.mono_ms() - began_ms)
    detail = f"{median(times):.2f} ms, longest {max(times):.2f} ms of {ROUND_TRIPS}"
    advice = "Every call waits for it: run workers near the server, and look for slow commands (SLOWLOG GET)"
    return finding("round trip", median(times) <= ROUND_TRIP_MS_MAX, detail, advice)


async def _namespace(link: Link, options: RedisOptions, seen: Seen) -> Finding:
    try:
        schema = await link.call("HGET", f"{options.base}meta", "schema")
    except ReplyError as exc:
        return Finding("namespace", False, translate(exc, options.address.place).message, "Look at key_prefix=")
    seen.has_store = schema is not None
    where = f"{options.base}* in database {options.address.db}"
    if schema is None:
        advice = "If db= and key_prefix= are as meant: `psyqueue enqueue` and a worker create a store"
        return Finding("namespace", False, f"no store in {where}", advice)
    if not schema.isdigit():
        return Finding("namespace", False, f"{where} holds what psyqueue did not write", "Give another key_prefix=")
    is_known = int(schema) <= SCHEMA
    return finding("namespace", is_known, f"{where}, schema {int(schema)}", "Upgrade psyqueue: a newer one made it")

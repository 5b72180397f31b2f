"""What a server really promises: read from it, judged here, told in words."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from psyqueue.backend import Survives
from psyqueue.backends._redis.address import Address
from psyqueue.backends._redis.faults import ReplyError, translate
from psyqueue.backends._redis.link import Link
from psyqueue.backends._redis.options import RedisOptions
from psyqueue.errors import StoreUnavailable, StoreUnusable

log = logging.getLogger(__name__)

UNKNOWN: Final = "unknown"
VERSION_MIN: Final = (6, 2)
"""LPOP with a count came with it, and older ones are maintained by nobody."""
_SECTIONS: Final = ("server", "persistence", "replication", "memory", "cluster")
SETTINGS: Final = ("appendfsync", "save", "maxmemory-policy", "min-replicas-to-write")
_LOCAL: Final = ("localhost", "127.", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """As the server says it; `UNKNOWN`, or None for numbers, where it does not, as some managed ones do.

    `rdb_saves`: pairs of seconds and changes, such as "900 1 300 10"; empty: none.
    """

    kind: Literal["redis", "valkey"]
    version: tuple[int, ...]
    role: str
    is_cluster: bool
    aof: Literal["on", "off", "unknown"]
    appendfsync: str
    rdb_saves: str
    has_saving_failed: bool
    maxmemory_bytes: int | None
    maxmemory_policy: str
    replicas: int | None
    replicas_min: int | None

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version)) or UNKNOWN


async def facts(link: Link, options: RedisOptions) -> Facts:
    """Ask the server. Raises StoreError."""
    return from_info(await info_of(link, options), await settings_of(link))


async def info_of(link: Link, options: RedisOptions) -> dict[str, str]:
    """The fields of INFO. Raises StoreError."""
    info: dict[str, str] = {}
    try:
        for section in _SECTIONS:  # one by one: several in a call are known since 7.0 only
            info |= parse_info(await link.call("INFO", section))
    except ReplyError as exc:
        raise translate(exc, options.address.place) from exc
    return info


async def settings_of(link: Link, names: Sequence[str] = SETTINGS) -> dict[str, str]:
    """What CONFIG GET shows of them; nothing where it is not allowed."""
    found: dict[str, str] = {}
    try:
        for name in names:
            for key, value in _pairs(await link.call("CONFIG", "GET", name)):
                found[key.decode()] = value.decode(errors="replace")
    except ReplyError as exc:
        log.info("the server does not show its settings", extra={"error": exc.text})
    return found


def _pairs(reply: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(reply[::2], reply[1::2], strict=True)


def parse_info(reply: bytes) -> dict[str, str]:
    """The fields of INFO's reply."""
    lines = (line.partition(":") for line in reply.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon and not name.startswith("#")}


def from_info(info: Mapping[str, str], settings: Mapping[str, str]) -> Facts:
    """From the fields of INFO and the replies of CONFIG GET, by their names."""
    kind: Literal["redis", "valkey"] = "valkey" if "valkey_version" in info else "redis"
    aof: dict[str | None, Literal["on", "off"]] = {"1": "on", "0": "off"}
    saved = (info.get(field, "ok") for field in ("rdb_last_bgsave_status", "aof_last_write_status"))
    return Facts(
        kind=kind,
        version=tuple(int(part) for part in info.get(f"{kind}_version", "").split(".") if part.isdigit()),
        role=info.get("role", UNKNOWN),
        is_cluster=info.get("cluster_enabled") == "1",
        aof=aof.get(info.get("aof_enabled"), "unknown"),
        appendfsync=settings.get("appendfsync", UNKNOWN),
        rdb_saves=settings.get("save", UNKNOWN),
        has_saving_failed=any(status != "ok" for status in saved),
        maxmemory_bytes=_number(info.get("maxmemory")),
        maxmemory_policy=settings.get("maxmemory-policy") or info.get("maxmemory_policy") or UNKNOWN,
        replicas=_number(info.get("connected_slaves")),
        replicas_min=_number(settings.get("min-replicas-to-write")),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


# ── judging ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def require_usable(found: Facts, options: RedisOptions) -> None:
    """Raises StoreUnusable; for a replica StoreUnavailable, since a failover may soon make it a master."""
    place = options.address.place
    if found.version and found.version < VERSION_MIN:
        least = ".".join(map(str, VERSION_MIN))
        text = f"{place} is {found.kind} {found.version_text}; psyqueue needs {least} or newer. Upgrade the server"
        raise StoreUnusable(text, server=place)
    if found.role not in ("master", UNKNOWN):
        text = f"{place} is a replica and takes no writes. Point psyqueue to the master"
        raise StoreUnavailable(text, outcome="refused", server=place)
    if found.maxmemory_policy.startswith("allkeys-") and not options.allow_eviction:
        text = f"{place} throws any key away when its memory is full (maxmemory-policy {found.maxmemory_policy})"
        way_out = "Set the policy to noeviction there, or accept the loss with allow_eviction=True"
        raise StoreUnusable(f"{text}: jobs would be lost. {way_out}", server=place)


def survives(found: Facts) -> dict[Literal["process_crash", "server_crash", "power_loss", "failover"], Survives]:
    """What becomes of acknowledged jobs; the names are those of `Info`.

    process_crash: clients and workers die. server_crash: the server's process is killed, its machine goes on.
    """
    return {
        "process_crash": "safe",
        "server_crash": _server_crash(found),
        "power_loss": _power_loss(found),
        # Replication is asynchronous: a replica that takes over may lack what was acknowledged last.
        "failover": "unknown" if found.replicas is None else "bounded_loss" if found.replicas else "lost",
    }


def _server_crash(found: Facts) -> Survives:
    """What the server wrote is with the system, synced or not; everysec and no may hold it back for up to 2 s."""
    if found.aof != "on":
        return "lost" if found.aof == "off" else "unknown"
    return _by_fsync(found.appendfsync, {"always": "safe", "everysec": "bounded_loss", "no": "bounded_loss"})


def _power_loss(found: Facts) -> Survives:
    """Unsynced (`no`), the system decides when it writes: nothing bounds the loss."""
    if found.aof != "on":
        return "lost" if found.aof == "off" else "unknown"
    return _by_fsync(found.appendfsync, {"always": "safe", "everysec": "bounded_loss", "no": "lost"})


def _by_fsync(appendfsync: str, table: Mapping[str, Survives]) -> Survives:
    return table.get(appendfsync, "unknown")


def warnings(found: Facts, options: RedisOptions) -> tuple[str, ...]:
    """What an operator should know, in words."""
    return (*about_saving(found), *about_memory(found), *_about_access(found, options))


def about_saving(found: Facts) -> Iterator[str]:
    if found.aof == "off" and found.rdb_saves in ("", UNKNOWN):
        yield "the server saves nothing that is known: its restart loses all jobs. Set appendonly yes"
    elif found.aof == "off":
        text = f"the server saves snapshots alone (save {found.rdb_saves}): its restart loses what came after the last"
        yield f"{text}. Set appendonly yes"
    elif found.aof == "on" and found.appendfsync == "no":
        yield "the server never syncs by itself (appendfsync no): a power loss may lose jobs. Set everysec or always"
    if found.aof == "unknown" or (found.aof == "on" and found.appendfsync == UNKNOWN):
        yield "the server does not show how it saves (INFO, CONFIG GET): what survives a crash is unknown"
    if found.has_saving_failed:
        yield "the server's last try to save its data failed: look at its log and its disk"


def about_memory(found: Facts) -> Iterator[str]:
    policy = found.maxmemory_policy
    if policy == UNKNOWN:
        yield "the server does not show its maxmemory-policy: make sure that it is noeviction, or jobs may be lost"
    elif policy.startswith("allkeys-"):
        yield f"the server throws jobs away when its memory is full (maxmemory-policy {policy}). Set noeviction"
    elif policy != "noeviction":
        yield f"maxmemory-policy is {policy}: no job has a time to live, but set noeviction to be sure"


def is_far(address: Address) -> bool:
    """Whether what is said crosses a network."""
    return address.unix_socket is None and not address.host.startswith(_LOCAL)


def _about_access(found: Facts, options: RedisOptions) -> Iterator[str]:
    address = options.address
    if address.tls is not None and not address.tls.is_verified:
        yield "the server's certificate is not verified (tls_verify=False): anybody in between may read and change jobs"
    if is_far(address) and address.tls is None and (address.credentials or address.credential_source):
        yield "the password crosses the network in the clear: use TLS"
    if found.is_cluster:
        yield "the server is a node of a cluster, which is not supported yet: all keys must stay in its slots"
    if options.test_clock:
        yield "the store's clock stands still: for tests only"

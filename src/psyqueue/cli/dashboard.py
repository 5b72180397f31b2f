"""`psyqueue dashboard`: the queue in a browser, for a store that no application shows."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
import signal
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from psyqueue import PsyQueue
from psyqueue.cli import output
from psyqueue.cli.existing import require_store
from psyqueue.cli.logs import FORMATS, start_logging
from psyqueue.cli.surface import DONE, Surface, as_application
from psyqueue.cli.waits import on_signal
from psyqueue.cli.worker import LEVELS
from psyqueue.config import mask
from psyqueue.dashboard import ROLES, Access, Dashboard, Passwords, Role, Visitor
from psyqueue.errors import ConfigError, MissingExtra
from psyqueue.ids import new_token
from psyqueue.plugins import Schedules, Workflows

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection
    from starlette.types import ASGIApp

CONNECTIONS_MAX = 500
STOP_S_MAX = 5
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::\d+)?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where it listens, and what stands before it."""

    host: str
    port: int
    certfile: str | None
    keyfile: str | None
    behind_proxy: bool
    root_path: str

    def require_safe(self, *, has_passwords: bool) -> None:
        """Raises ConfigError for what others than this machine could read or listen to."""
        if self.keyfile and not self.certfile:
            raise ConfigError("--keyfile goes with --certfile")
        if self.root_path and not self.root_path.startswith("/"):
            raise ConfigError(f"--root-path {self.root_path} does not begin with a slash, as a path does")
        if self.behind_proxy or _is_loopback(self.host):
            return
        if not has_passwords:
            text = f"--everyone lets all who reach {self.host} do as they like: use --password-file"
            raise ConfigError(f"{text}, or --behind-proxy where a proxy asks who it is")
        if not self.certfile:
            text = f"{self.host} is open to other machines, which could listen to passwords: give --certfile"
            raise ConfigError(f"{text}, or --behind-proxy where a proxy does TLS")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8_420, show_default=True, help="0: any free port.")
@click.option("--password-file", metavar="FILE", help="Lines 'ROLE PASSWORD'. Without it a password is made and shown.")
@click.option("--everyone", type=click.Choice(ROLES), help="Ask for no password: all who reach it have this role.")
@click.option(
    "--payloads",
    type=click.Choice(ROLES),
    default="viewer",
    show_default=True,
    help="The least role that sees payloads, results and errors.",
)
@click.option("--certfile", metavar="FILE", help="TLS: the certificate.")
@click.option("--keyfile", metavar="FILE", help="TLS: its key, if that is not in the same file.")
@click.option("--behind-proxy", is_flag=True, help="A proxy does TLS: other addresses than loopback are fine.")
@click.option("--root-path", metavar="PATH", default="", help="Under which a proxy shows it, and takes it off.")
@click.option(
    "--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="Of the log on standard error."
)
@click.option(
    "--log-format", type=click.Choice(FORMATS), default="text", show_default=True, help="json: one document a line."
)
@as_application
def dashboard(
    surface: Surface,
    password_file: str | None,
    everyone: Role | None,
    payloads: Role,
    log_level: str,
    log_format: str,
    **options: Any,
) -> int:
    """Show queues, jobs, failures and workers in a browser, until SIGTERM or SIGINT.

    Roles: viewer looks; operator runs again, cancels, pauses; admin deletes, changes limits, stops workers.
    """
    place = Place(**options)
    if everyone and password_file:
        raise ConfigError("--everyone asks for no password, so --password-file is in vain: give one of them")
    place.require_safe(has_passwords=everyone is None)
    if place.certfile:
        _require_certificate(place.certfile, place.keyfile)
    made = new_token() if everyone is None and password_file is None else None
    queue = _queue(surface)
    access = _access(place, password_file, everyone, made)
    title = "" if surface.app is not None else mask(surface.require_url())
    site = Dashboard(queue, access=access, payloads=payloads, title=title)
    require_store(queue.get_exposed("backend"))
    start_logging(log_level, log_format)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # that it began and ended is said by the command
    return asyncio.run(_serve(surface, queue, site, place, made))


def _queue(surface: Surface) -> PsyQueue:
    """That of --app as an application has it, else one of our own on the store as it is."""
    queue = surface.queue() if surface.app is None else surface.producer()
    for namespace, plugin in (("schedules", Schedules(makes_jobs=False)), ("workflows", Workflows())):
        try:
            queue.get_exposed(namespace)
        except ConfigError:
            queue.use(plugin)
    return queue


# ── who comes in ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _access(place: Place, password_file: str | None, everyone: Role | None, made: str | None) -> Access:
    if everyone is not None:
        return _of_all(everyone, is_local=not place.behind_proxy)
    return Passwords(admin=made) if password_file is None else Passwords(**_passwords_in(Path(password_file)))


def _of_all(role: Role, *, is_local: bool) -> Access:
    """`is_local`: a page of another site may send its own name to this machine; a browser tells which name it asked."""
    visitor = Visitor(role)

    def find(request: HTTPConnection) -> Visitor | None:
        return visitor if not is_local or _is_here(request.headers.get("host", "")) else None

    return find


def _passwords_in(file: Path) -> dict[str, str]:
    """Raises ConfigError, which shows no password."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"--password-file {file} cannot be read: {exc}") from exc
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        role, _, password = line.strip().partition(" ")
        if role not in ROLES or role in found:
            problem = "names a role twice" if role in found else f"does not begin with {', '.join(ROLES)} and a space"
            raise ConfigError(f"line {number} of {file} {problem}")
        found[role] = password.strip()
    return found


def _require_certificate(certfile: str, keyfile: str | None) -> None:
    """Raises ConfigError, before anything is announced."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile)
    except OSError as exc:
        raise ConfigError(f"--certfile {certfile} and its key cannot be used: {exc.strerror or exc}") from exc


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_here(host: str) -> bool:
    """Whether what a browser asked for is no name that somebody else could have given to this machine."""
    found = _HOST.fullmatch(host)
    return found is not None and _is_loopback(found[1].strip("[]"))


# ── serve ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def _serve(surface: Surface, queue: PsyQueue, site: ASGIApp, place: Place, made: str | None) -> int:
    try:
        import uvicorn  # noqa: PLC0415 - only who has the extra can load it
    except ModuleNotFoundError as exc:
        raise MissingExtra("psyqueue dashboard", "dashboard") from exc

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """They are heard below: its own way ends the process before the queue is closed."""
            yield

    server = Server(
        uvicorn.Config(
            site,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            root_path=place.root_path.rstrip("/"),
            limit_concurrency=CONNECTIONS_MAX,
            timeout_graceful_shutdown=STOP_S_MAX,
            ssl_certfile=place.certfile,
            ssl_keyfile=place.keyfile,
        )
    )

    def stop(_: signal.Signals) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        on_signal(number, stop)
    with _listening(place) as listener:
        async with queue:
            _announce(surface, _url_of(listener, place), made)
            await server.serve([listener])
    return DONE


def _listening(place: Place) -> socket.socket:
    """Raises ConfigError if the port is taken."""
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    try:
        return socket.create_server((place.host, place.port), family=family)
    except OSError as exc:
        text = f"port {place.port} on {place.host} cannot be opened ({exc.strerror or exc}). Choose another --port"
        raise ConfigError(text, port=place.port) from exc


def _url_of(listener: socket.socket, place: Place) -> str:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if place.certfile else 'http'}://{shown}:{port}/"


def _announce(surface: Surface, url: str, made: str | None) -> None:
    if surface.is_json:
        output.print_json({"ready": True, "url": url, "password": made})
        return
    click.echo(f"psyqueue dashboard ready: {url}")
    if made is not None:
        click.echo(f"password: {made} (with any name; a new one each time, --password-file keeps yours)")

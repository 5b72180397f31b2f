"""A real PgBouncer in transaction mode, where one is installed."""

from __future__ import annotations

import shutil
import socket
import time
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from support.postgres_server import unprivileged
from support.server_home import ServerHome
from support.server_search import require_version, version_text
from support.servers import Launch, Server, Unavailable, free_port, own_server

_READY_S_MAX = 10.0
_SETTINGS = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
auth_type = any
pool_mode = transaction
default_pool_size = 3
min_pool_size = 3
server_round_robin = 1
"""


def start_pgbouncer(server: Server) -> Server:
    """Before `server`, with few sessions, of which each transaction gets the next. Raises Unavailable."""
    began = time.monotonic()
    found = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    if found is None:
        raise Unavailable("pgbouncer is not installed")
    version = require_version(version_text(Path(found)), r"(\d+(?:\.\d+)*)", (1,))
    home, port, behind = ServerHome(), free_port(), urlsplit(server.url)
    try:
        settings = _SETTINGS.format(host=behind.hostname, port=behind.port, user=behind.username, own_port=port)
        (home / "pgbouncer.ini").write_text(settings)
        identity = unprivileged()  # it refuses to run as root
        if identity:
            home.give_to(identity["user"], identity["group"])
        launch = Launch(
            argv=[found, str(home / "pgbouncer.ini")],
            home=home,
            is_ready=partial(_is_ready, port),
            ready_s_max=_READY_S_MAX,
            identity=identity,
        )
        url = behind._replace(netloc=f"{behind.username}@127.0.0.1:{port}").geturl()
        return own_server(launch, kind="pgbouncer", url=url, version=version, origin="PATH", began=began)
    except BaseException:
        home.remove()
        raise


def _is_ready(port: int, _pid: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

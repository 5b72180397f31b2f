"""The guides: what they say of Kubernetes agrees with the worker, and their set-ups work that no example shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from docs.pages import DOCS, blocks, text_of
from psyqueue.cli.main import cli
from psyqueue.cli.supervisor import BEYOND_GRACE_MS
from psyqueue.cli.worker import worker
from psyqueue.clock import to_ms
from psyqueue.kernel.worker import WorkerOptions
from support.servers import Server

KUBERNETES = DOCS / "guides" / "kubernetes.md"


def manifests() -> dict[str, Any]:
    """By kind."""
    found = [each for block in blocks(KUBERNETES, "yaml") for each in yaml.safe_load_all(block.code)]
    return {each["kind"]: each for each in found}


def container(kind: str) -> dict[str, Any]:
    (only,) = manifests()[kind]["spec"]["template"]["spec"]["containers"]
    return dict(only)


def read(command: click.Command, words: list[str]) -> dict[str, Any]:
    """What the command line makes of them. Raises click.UsageError."""
    return command.make_context(command.name, list(words)).params


def worker_of_the_page() -> dict[str, Any]:
    found = container("Deployment")
    assert found["command"][:2] == ["psyqueue", "worker"]
    return read(worker, [*found["command"][2:], *found["args"]])


# ── Kubernetes ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_kubernetes_kills_no_worker_that_still_drains():
    spec = manifests()["Deployment"]["spec"]["template"]["spec"]
    drained_ms = to_ms("grace", worker_of_the_page()["grace"]) + BEYOND_GRACE_MS
    assert spec["terminationGracePeriodSeconds"] * 1000 > drained_ms
    text = " ".join(text_of(KUBERNETES).split())
    defaults = {each.name: str(each.default) for each in worker.params}
    assert f"`--grace`, {to_ms('grace', defaults['grace']) // 1000} s by default" in text
    assert f"`--lease`, {to_ms('lease', defaults['lease']) // 1000} s by default" in text
    assert f"left behind within {BEYOND_GRACE_MS // 1000} s" in text
    assert f"# above --grace ({defaults['grace'].replace('s', ' s')}) and what giving up takes" in text


def test_probes_ask_the_port_that_the_worker_opens_to_other_hosts():
    options, found = worker_of_the_page(), container("Deployment")
    assert [port["containerPort"] for port in found["ports"]] == [options["health_port"]]
    assert options["health_host"] == "0.0.0.0"
    probes = {name: found[name] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {name: probe["httpGet"]["path"] for name, probe in probes.items()} == {
        "startupProbe": "/readyz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/healthz",
    }
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {found["ports"][0]["name"]}


def test_a_restart_by_the_liveness_probe_comes_after_the_workers_own():
    probe = container("Deployment")["livenessProbe"]
    hang_ms = WorkerOptions(queues=(), name="w").hang_ms
    assert probe["periodSeconds"] * probe["failureThreshold"] * 1000 > hang_ms
    assert f"stands still for {hang_ms // 60_000} min" in " ".join(text_of(KUBERNETES).split())


def test_selectors_fit_and_a_disruption_leaves_workers():
    found = manifests()
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert found["PodDisruptionBudget"]["spec"]["maxUnavailable"] < found["Deployment"]["spec"]["replicas"]


def test_the_job_makes_the_schema_with_a_command_that_exists():
    found = container("Job")
    command: click.Command = cli
    words: list[str] = [*found["command"], *found["args"]]
    assert words.pop(0) == "psyqueue"
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    assert (command.name, read(command, words)["role"]) == ("up", "shop_worker")
    assert {each["name"] for each in (*found["env"], *container("Deployment")["env"])} == {"PSYQUEUE_URL"}


@pytest.mark.parametrize("words", [["shop:q", "--health"], ["shop:q", "--health-port", "x"], []])
def test_check_sees_a_wrong_command_line(words):
    with pytest.raises(click.UsageError):
        read(worker, words)


# ── Django on PostgreSQL ──────────────────────────────────────────────────────────────────────────────────────────────
DJANGO = """
import asyncio, sys
import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connection, transaction
from psyqueue import PsyQueue

URL, SCHEMA, HOST, PORT, NAME, USER, PASSWORD = sys.argv[1:]
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "HOST": HOST, "PORT": PORT,
                                          "NAME": NAME, "USER": USER, "PASSWORD": PASSWORD}})
django.setup()
q = PsyQueue.from_url(URL, schema=SCHEMA)

@q.handle("order.confirm", queue="orders")
def confirm(number: int) -> None: ...

def place(number, fails=False):
    try:
        with transaction.atomic(), transaction.atomic():
            confirm.options(id=f"order-{number}", conn=connection.connection).sync.enqueue(number)
            seen = q.sync.get(f"order-{number}")
            if fails:
                raise LookupError
    except LookupError:
        pass
    return seen, q.sync.get(f"order-{number}")

with q.sync:
    print([each and each.status for each in (*place(1), *place(2, fails=True))])
    print(asyncio.run(sync_to_async(confirm.sync.enqueue)(3)).created)
    with connection.cursor() as cursor:
        cursor.execute("SET client_min_messages TO warning")
        cursor.execute(f'DROP SCHEMA "{SCHEMA}" CASCADE')
connection.close()
"""


def test_django_enqueues_in_its_own_transaction_on_postgres(postgres_server: Server, namespace: str, tmp_path: Path):
    """A process of its own: the settings of Django are for a whole process."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DJANGO, postgres_server.url, namespace, *place_of(postgres_server.url)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[None, 'pending', None, None]\nTrue\n", "")


def place_of(url: str) -> list[str]:
    """Host, port, database, user and password, as Django has them."""
    from psycopg.conninfo import conninfo_to_dict

    found = conninfo_to_dict(url)
    return [str(found.get(name) or "") for name in ("host", "port", "dbname", "user", "password")]

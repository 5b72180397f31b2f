"""The parts of the harness that figures rest on."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from support.source import ROOT


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_processes_that_left_our_group_are_ours_by_their_parents():
    text = """
from benchmarks.machine import _of_descendants
print(_of_descendants([1, 4], {1: [(2, 5)], 2: [(3, 7)], 9: [(8, 100)]}))
"""
    assert run("-c", text).stdout == "12\n"


@pytest.mark.parametrize(
    ("rates", "ran", "says"),
    [([4.0, 2.0], 9, "only 9 of 10 jobs ran"), ([4.0], 5, "the time was over before the second round")],
)
def test_rounds_whose_jobs_did_not_all_run_have_no_ratio(rates, ran, says):
    text = "from benchmarks.peers.figures import churned; print(churned([4.0, 2.0], 5, 10)); "
    done = run("-c", f"{text} churned({rates}, 5, {ran})")
    assert "'value': 0.5" in done.stdout
    assert says in done.stderr


SERVER = """
import sys
from pathlib import Path
from benchmarks.postgres_server import Client, OldSnapshot, PostgresError, Server, find
from benchmarks.spec import Spec

found = find()
if found is None:
    print("none")
    sys.exit()
spec = Spec(store="postgres", case="", kind="", peer="", n=1, folder=sys.argv[1], server=str(found.path))
server = Server(spec)
with Client(server.port) as client:
    print([client.one(f"show {name}") for name in ("fsync", "synchronous_commit", "full_page_writes")])
    client.ask("create table kept as select n from generate_series(1, 1000) as n")
    client.ask("alter table kept set (autovacuum_enabled = off)")
server.save()
server = Server(spec)
spec = Spec(**{name: getattr(spec, name) for name in ("store", "case", "kind", "peer", "n")}, url=server.url)
with Client(server.port) as client:
    dead = "select pg_relation_size('kept') > 0"
    with OldSnapshot(spec):
        client.ask("delete from kept")
        client.ask("vacuum kept")
        print(client.one(dead))
    client.ask("vacuum kept")
    print(client.one(dead))
    try:
        client.ask("select 1 / 0")
    except PostgresError as exc:
        print(exc)
    print(client.ask("select null, ''"))
server.stop()
"""


def test_the_server_of_a_measurement_is_durable_keeps_its_data_and_knows_an_old_transaction():
    with tempfile.TemporaryDirectory(prefix="psyqueue-test-bench-") as folder:
        Path(folder).chmod(0o711)
        own = Path(folder, "own")
        own.mkdir()
        done = run("-c", SERVER, str(own))
    if done.stdout == "none\n":
        pytest.skip("there is no PostgreSQL")
    assert done.stdout.splitlines() == [
        "['on', 'on', 'on']",
        "t",
        "f",
        "22012 division by zero",
        "[[None, '']]",
    ], done.stderr

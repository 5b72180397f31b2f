"""What PostgreSQL gives by itself, by its own measuring program: no caller of so many statements can be faster."""

from __future__ import annotations

import re
import subprocess

from benchmarks.machine import Window
from benchmarks.postgres_server import DATABASE, USER, Client, port_of
from benchmarks.spec import Facts, Spec


def select(spec: Spec) -> Facts:
    """Round trips, by `callers` connections."""
    return _run(spec, "SELECT 1;")


def insert(spec: Spec) -> Facts:
    """Commits of one row each, by `callers` connections."""
    with Client.at(spec) as client:
        client.ask("CREATE TABLE bench (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text NOT NULL)")
        found = _run(spec, "INSERT INTO bench (body) VALUES ('{\"i\":12345}');")
        rows = int(client.one("SELECT count(*) FROM bench"))
    if rows != spec.n // spec.callers * spec.callers:
        raise RuntimeError(f"{rows} of {spec.n} rows are there")
    return found


def _run(spec: Spec, statement: str) -> Facts:
    script = spec.place / "script.sql"
    script.write_text(statement, encoding="utf-8")
    where = ["-h", "127.0.0.1", "-p", str(port_of(spec)), "-U", USER]
    how = ["-n", "-M", "prepared", "-c", str(spec.callers), "-t", str(spec.n // spec.callers), "-f", str(script)]
    with Window() as window:
        done = subprocess.run(["pgbench", *where, *how, DATABASE], capture_output=True, text=True, check=False)
    found = re.search(r"^tps = ([\d.]+) \(without", done.stdout, re.MULTILINE)
    if done.returncode or found is None:
        raise RuntimeError(f"pgbench: {(done.stderr or done.stdout).strip()[-400:]}")
    return {"value": round(float(found[1]))} | window.facts()

"""`psyqueue doctor` on one server, for tests that make something wrong and look whether it is found."""

from __future__ import annotations

from typing import Any

ON_REDIS = [
    "server",
    "role",
    "saving",
    "memory",
    "replicas",
    "access",
    "network",
    "small hashes",
    "round trip",
    "namespace",
]
ON_POSTGRES = [
    "server",
    "saving",
    "commits",
    "standbys",
    "connections",
    "old transactions",
    "prepared transactions",
    "replication slots",
    "timeouts",
    "network",
    "notices",
    "round trip",
    "schema",
]
IN_THE_SCHEMA = ["rights", "autovacuum", "dead rows", "tables"]
"""On PostgreSQL, where there is one."""
IN_THE_STORE = [
    "store",
    "clock",
    "mode",
    "warnings",
    "worker sessions",
    "stranded jobs",
    "worker versions",
    "worker names",
    "worker clocks",
    "leases",
    "queues without worker",
    "forgotten pauses",
    "limits of nothing",
    "backlog",
    "full queues",
    "retention",
    "growth",
    "unknown handlers",
    "overdue jobs",
    "overdue schedules",
    "open circuits",
    "dropped tiers",
    "stuck jobs",
    "held jobs",
    "slow handlers",
    "unheeded cancels",
    "dead in the last day",
    "dead ratio",
    "deadly jobs",
    "invariants",
]


class Doctor:
    """A server of the test's own, a store on it, and its doctor."""

    def __init__(self, cli: Any, server: Any) -> None:
        self.cli, self.server = cli, server
        cli.url = server.url

    def checks(self, *arguments: str) -> dict[str, dict[str, Any]]:
        """By name; each that fails has an advice, each that does not has none."""
        answer = self.cli.call("doctor", "--json", *arguments)
        found = answer.json["checks"]
        assert answer.code == (not all(each["ok"] for each in found)), answer
        assert all(bool(each["advice"]) != each["ok"] for each in found), found
        return {each["name"]: each for each in found}

    def failed(self, *arguments: str) -> dict[str, str]:
        return {name: each["detail"] for name, each in self.checks(*arguments).items() if not each["ok"]}

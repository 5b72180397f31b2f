"""`psyqueue queues limits`, and what shells are given to complete."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest

UNSET: dict[str, Any] = {
    "queue": "mail",
    "lane": None,
    "weight": 1,
    "active_max": None,
    "starts_per_minute": None,
    "starts_burst": 1,
    "pending_max": None,
    "retain_ended": {"age_ms": 86_400_000, "count": 10_000},
    "retain_dead": {"age_ms": 7_776_000_000, "count": 100_000},
    "lanes": [],
    "cursor": None,
}
OF_LANE = {"weight": 1, "active_max": None, "starts_per_minute": None, "starts_burst": 1, "pending_max": None}


def test_limits_are_shown_set_and_lifted_on_every_store(stored):
    stored.enqueue("mail")
    assert stored.json("queues", "limits", "mail") == UNSET
    changed = stored.json("queues", "limits", "mail", "--active-max", "3", "--retain-ended", "7d:50")
    assert changed == {**UNSET, "active_max": 3, "retain_ended": {"age_ms": 604_800_000, "count": 50}}
    assert stored.json("queues", "limits", "mail", "--retain-dead", "none", "--starts-per-minute", "60") == {
        **changed,
        "retain_dead": None,
        "starts_per_minute": 60,
    }
    assert stored.json("queues", "limits", "mail", "--active-max", "none")["active_max"] is None
    told = stored.call("queues", "limits", "mail").out
    assert "retain_ended       7 d, 50 jobs" in told
    assert "active_max         none" in told


def test_a_queue_that_nobody_knows_is_told_and_set_all_the_same(stored):
    stored.enqueue("mail")
    for words in (["pause", "mial"], ["resume", "miall"], ["limits", "maill", "--active-max", "3"]):
        done = stored.call("queues", *words)
        assert done.code == 0
        assert f"no job is in queue {words[1]!r}, and no worker takes it: did you mean 'mail'?" in done.err
        assert "no job is in queue" not in stored.call("queues", words[0], "mail").err
    assert stored.json("queues", "limits", "maill")["active_max"] == 3


def test_a_lane_gets_limits_of_its_own(stored):
    stored.enqueue("mail", tenant="acme", id="held")
    lane = stored.json("queues", "limits", "mail", "--lane", "acme", "--active-max", "0")
    assert (lane["lane"], lane["active_max"]) == ("acme", 0)
    reasons = [reason["code"] for reason in stored.json("jobs", "explain", "held")["reasons"]]
    assert "limit:lane" in reasons
    assert stored.json("queues", "limits", "mail")["active_max"] is None


def test_limits_of_lanes_are_shown_and_what_is_not_named_stays(stored):
    stored.enqueue("mail")
    stored.json("queues", "limits", "mail", "--lane", "acme", "--weight", "3")
    changed = stored.json("queues", "limits", "mail", "--lane", "acme", "--active-max", "7")
    assert changed == stored.json("queues", "limits", "mail", "--lane", "acme")
    assert {field: changed[field] for field in OF_LANE} == {**OF_LANE, "weight": 3, "active_max": 7}
    stored.json("queues", "limits", "mail", "--lane", "", "--starts-per-minute", "60")
    assert stored.json("queues", "limits", "mail")["lanes"] == [
        {"lane": "", **OF_LANE, "starts_per_minute": 60},
        {"lane": "acme", **OF_LANE, "weight": 3, "active_max": 7},
    ]
    told = [line.split() for line in stored.call("queues", "limits", "mail").out.splitlines()[-3:]]
    assert told == [
        ["LANE", "WEIGHT", "ACTIVE", "MAX", "STARTS", "PER", "MINUTE", "STARTS", "BURST", "PENDING", "MAX"],
        ['""', "1", "none", "60", "1", "none"],
        ["acme", "3", "7", "none", "1", "none"],
    ]


def test_a_look_at_limits_writes_nothing(stored):
    stored.enqueue("mail")
    for arguments in (["other"], ["other", "--lane", "acme"], ["mail"]):
        assert stored.json("queues", "limits", *arguments)["active_max"] is None
    assert [item["queue"] for item in stored.json("queues", "ls")["items"]] == ["mail"]
    assert stored.json("queues", "limits", "mail")["lanes"] == []


def test_more_lanes_than_a_page_are_gone_on_with(cli):
    names = [f"lane {number:03}" for number in range(501)]

    async def limit(queue):
        for name in names:
            await queue.limits("mail", name, weight=2)

    cli.with_queue(limit)
    first = cli.json("queues", "limits", "mail")
    rest = cli.json("queues", "limits", "mail", "--cursor", first["cursor"])
    assert [lane["lane"] for lane in (*first["lanes"], *rest["lanes"])] == names
    assert (len(rest["lanes"]), rest["cursor"]) == (1, None)
    assert f"There are more lanes: --cursor '{first['cursor']}'" in cli.call("queues", "limits", "mail").err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--active-max", "many"], "'many' is neither a number nor 'none'"),
        (["--active-max", "-1"], "option active_max=-1"),
        (["--retain-ended", "7d"], "is neither AGE:COUNT, e.g. 7d:10000, nor 'none'"),
        (["--retain-ended", "soon:5"], "is not a duration"),
        (["--weight", "none"], "option weight=None"),
        (["--lane", "acme", "--retain-dead", "none"], "is for a whole queue"),
    ],
)
def test_limits_that_make_no_sense_are_told(cli, options, told):
    cli.enqueue("mail")
    answer = cli.call("queues", "limits", "mail", *options)
    assert (answer.code, answer.out) == (2, "")
    assert told in answer.err
    assert "Traceback" not in answer.err


# ── completion ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(cli, shell):
    script = cli.run("completion", shell, store=False).out
    assert f"_PSYQUEUE_COMPLETE={shell}_complete" in script
    assert "psyqueue" in script


def test_commands_and_choices_are_completed(cli):
    """As bash asks: the words of the line, and which one is to be completed."""

    def complete(line: str) -> list[str]:
        words = line.split(" ")
        answer = cli.run(
            store=False, _PSYQUEUE_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1)
        )
        return [each.partition(",")[2] for each in answer.out.splitlines()]

    assert {"jobs", "queues", "top"} <= set(complete("psyqueue "))
    assert complete("psyqueue jobs ca") == ["cancel"]
    assert complete("psyqueue jobs ls --status de") == ["dead"]


def test_the_script_is_one_that_bash_reads(cli):
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    script = cli.run("completion", "bash", store=False).out
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_shell_that_is_not_known_is_told(cli):
    answer = cli.call("completion", "tcsh")
    assert (answer.code, "'tcsh' is not one of 'bash', 'zsh', 'fish'" in answer.err) == (2, True)

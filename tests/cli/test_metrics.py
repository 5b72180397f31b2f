"""`psyqueue metrics`, and /metrics on the health port of a worker."""

from __future__ import annotations

import re
import signal
import urllib.request
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from support.store_at import place_on, url_of
from support.waiting import wait_until

METERED = """
from psyqueue.plugins import Metrics
from shop import bare, q

q.use(Metrics())
bare.use(Metrics(shows_store=False, prefix="bare"))
"""
METRICS = Path(__file__).parents[2] / "docs" / "metrics"


def read(url: str) -> dict[tuple[str, ...], float]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        return samples(answer.read().decode())


def samples(text: str) -> dict[tuple[str, ...], float]:
    """By name and the values of its labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_worker_shows_what_it_does_and_what_is_in_the_store(shop):
    (shop.folder / "metered.py").write_text(METERED)
    shop.enqueue("note", {"text": "a"}, id="one")
    worker = shop.start("worker", "metered:q", "--queues", "note", "--health-port", "0")
    url = worker.line(r"health (http\S+)/healthz")[1]
    shop.wait_for_note("a")
    shop.wait_for_status("one", "completed")
    found = read(f"{url}/metrics")
    assert found["psyqueue_job_duration_seconds_count", "note", "note"] == 1
    assert found["psyqueue_queue_jobs", "note", "completed"] == 1
    assert found["psyqueue_queue_workers", "note"] == found["psyqueue_workers",] == found["psyqueue_store_up",] == 1
    worker.send(signal.SIGTERM)
    assert worker.end() == 0


def test_a_worker_may_leave_the_store_to_others(shop):
    (shop.folder / "metered.py").write_text(METERED)
    worker = shop.start("worker", "metered:bare", "--backend", shop.url, "--queues", "note", "--health-port", "0")
    found = read(worker.line(r"health (http\S+)/healthz")[1] + "/metrics")
    assert found["bare_worker_errors_total",] == 0
    assert ("bare_store_up",) not in found
    worker.send(signal.SIGTERM)
    assert worker.end() == 0


def test_the_store_is_shown_once(shop):
    shop.enqueue("note", {"text": "a"}, id="one")
    answer = shop.call("metrics")
    assert samples(answer.out)["psyqueue_queue_jobs", "note", "pending"] == 1
    assert {name for name, *_ in samples(answer.out)} == {
        "psyqueue_store_up",
        "psyqueue_queue_jobs",
        "psyqueue_queue_oldest_pending_seconds",
        "psyqueue_queue_paused",
        "psyqueue_queue_workers",
        "psyqueue_workers",
    }
    items = shop.call("metrics", "--json").json["items"]
    assert {"name": "psyqueue_queue_jobs", "labels": {"queue": "note", "status": "pending"}, "value": 1} in items


@pytest.mark.parametrize("how", [(), ("--json",)], ids=["text", "json"])
def test_the_store_is_shown_until_a_signal(shop, how):
    shop.enqueue("note", {"text": "a"}, id="one")
    server = shop.start("metrics", "--port", "0", *how, store=True)
    url = server.line(r"(http\S+/metrics)")[1]
    assert read(url)["psyqueue_queue_jobs", "note", "pending"] == 1
    shop.enqueue("note", {"text": "b"})
    assert read(url)["psyqueue_queue_jobs", "note", "pending"] == 2
    server.send(signal.SIGTERM)
    assert server.end() == 0


def test_what_is_due_becomes_pending_without_a_worker(shop):
    """Else an autoscaler that went down to none would never hear of it."""
    shop.enqueue("note", {"text": "a"}, delay="1s")
    server = shop.start("metrics", "--port", "0", store=True)
    url = server.line(r"(http\S+/metrics)")[1]
    assert read(url)["psyqueue_queue_jobs", "note", "pending"] == 0
    assert wait_until(lambda: read(url)["psyqueue_queue_jobs", "note", "pending"] == 1, limit_s=30)
    server.send(signal.SIGTERM)
    assert server.end() == 0


def test_a_store_that_is_away_is_waited_for(cli, own_servers):
    redis = own_servers.redis(durable=True)
    cli.url = url_of(place_on(redis.url, "away"))
    cli.enqueue("note")
    redis.process.kill()
    redis.process.wait(10)
    server = cli.start("metrics", "--port", "0", store=True)
    page = server.line(r"(http\S+/metrics)")[1]
    assert read(page)["psyqueue_store_up",] == 0
    redis.restart()
    assert wait_until(lambda: read(page)["psyqueue_store_up",] == 1, limit_s=30)
    server.send(signal.SIGTERM)
    assert server.end() == 0


# ── what is shipped beside it ─────────────────────────────────────────────────────────────────────────────────────────
def names_in(text: str) -> set[str]:
    """Of samples, in expressions; what is made of a histogram or a counter keeps its ending."""
    return set(re.findall(r"psyqueue_[a-z_]+", text))


@pytest.mark.parametrize("name", ["alerts.yml", "grafana.json"])
def test_rules_and_dashboard_name_only_what_there_is(shop, name):
    (shop.folder / "metered.py").write_text(METERED)
    shop.enqueue("note", {"text": "a"}, id="one")
    worker = shop.start("worker", "metered:q", "--queues", "note", "--health-port", "0")
    url = worker.line(r"health (http\S+)/healthz")[1]
    shop.wait_for_status("one", "completed")
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    there = set()
    for family in families:
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}[family.type]
        there |= {family.name.removesuffix("_total") + ending for ending in endings}
    named = names_in((METRICS / name).read_text())
    assert named
    assert named <= there
    worker.send(signal.SIGTERM)
    assert worker.end() == 0


def test_every_rule_says_what_to_do():
    groups = yaml.safe_load((METRICS / "alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 5
    for rule in rules:
        assert rule["annotations"].keys() == {"summary", "description"}
        assert rule["labels"]["severity"] in ("warning", "critical")

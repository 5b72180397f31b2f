"""`psyqueue doctor` on stores with a server: what is found alike on Redis and PostgreSQL."""

from __future__ import annotations

import json
import math
from typing import NamedTuple

import pytest

from psyqueue import PsyQueue
from psyqueue.backend import Op
from psyqueue.cli import doctor_postgres, doctor_redis
from support.doctor import IN_THE_SCHEMA, IN_THE_STORE, ON_POSTGRES, ON_REDIS, Doctor
from support.waiting import wait_until


class Kind(NamedTuple):
    """`other`: what to add to an address for a place without a store; `still`: for one whose clock stands still."""

    name: str
    outside: list[str]
    inside: list[str]
    place: str
    other: str
    nothing: str
    still: str


REDIS = Kind(
    name="redis",
    outside=ON_REDIS,
    inside=IN_THE_STORE,
    place="namespace",
    other="?key_prefix=other:",
    nothing="no store in other:{other}:* in database 0",
    still="?key_prefix=still:&test_clock=true",
)
POSTGRES = Kind(
    name="postgres",
    outside=ON_POSTGRES,
    inside=[*IN_THE_SCHEMA, *IN_THE_STORE],
    place="schema",
    other="?schema=other",
    nothing="no store in schema other of database postgres",
    still="?schema=still&test_clock=true",
)


@pytest.fixture(params=[REDIS, POSTGRES], ids=["redis", "postgres"])
def kind(request) -> Kind:
    made: Kind = request.param
    return made


@pytest.fixture
def doctor(cli, own_servers, kind, monkeypatch) -> Doctor:
    """A sound server, with a store in which all is well. Neither the speed of this machine nor the day is a finding."""
    monkeypatch.setattr(doctor_postgres, "SUPPORTED_UNTIL", {})
    for each in (doctor_postgres, doctor_redis):
        monkeypatch.setattr(each, "ROUND_TRIP_MS_MAX", math.inf)
    made = Doctor(cli, getattr(own_servers, kind.name)(durable=True))
    cli.make_active("slow")
    return made


def test_a_healthy_store_passes_every_check(doctor, kind):
    found = doctor.checks()
    assert list(found) == [*kind.outside, *kind.inside]
    assert [each for each in found.values() if not each["ok"]] == []
    told = doctor.cli.call("doctor")
    assert told.code == 0
    assert "FAILED" not in told.out
    assert len(told.out.splitlines()) == len(found) + 1


def test_the_answer_of_the_doctor_is_one_document(doctor):
    answer = doctor.cli.call("doctor", "--json")
    assert list(json.loads(answer.out)) == ["ok", "checks"]


def test_a_place_without_a_store_is_said_to_be_empty(doctor, kind):
    url = f"{doctor.server.url}{kind.other}"
    found = doctor.checks("--backend", url)
    assert list(found) == kind.outside
    assert [name for name, each in found.items() if not each["ok"]] == [kind.place]
    assert found[kind.place]["detail"] == kind.nothing
    assert "create a store" in found[kind.place]["advice"]
    assert doctor.checks("--backend", url)[kind.place]["detail"] == kind.nothing, "looking made none"


def test_a_server_that_is_away_is_found(doctor):
    doctor.server.kill()
    found = doctor.failed()
    assert list(found) == ["server"]
    assert "nobody listens there" in found["server"]


def test_a_slow_server_is_found(doctor, kind, monkeypatch):
    monkeypatch.setattr(doctor_redis if kind is REDIS else doctor_postgres, "ROUND_TRIP_MS_MAX", 0.0)
    assert "of 21" in doctor.failed()["round trip"]


def test_a_clock_that_stands_still_is_found(doctor, kind):
    url = f"{doctor.server.url}{kind.still}"
    assert doctor.cli.call("enqueue", "mail", "--backend", url).code == 0
    assert doctor.failed("--backend", url)["warnings"] == "the store's clock stands still: for tests only"


def test_dead_workers_waiting_jobs_and_dead_jobs_are_found(doctor):
    doctor.cli.enqueue("mail")
    doctor.cli.make_dead("other")
    doctor.cli.make_active("late", lease_ms=1)
    assert wait_until(lambda: any(info.expires_in_ms < 0 for info in doctor.cli.sessions()))
    found = doctor.failed()
    assert found["queues without worker"] == "mail (1)"
    assert found["dead in the last day"] == "1 job"
    assert found["stranded jobs"] == "1 held by late sessions"


def test_a_store_that_is_being_moved_is_found(doctor):
    async def freeze(queue: PsyQueue) -> None:
        backend = queue.get_exposed("backend")
        epoch = (await backend.info()).epoch
        await backend.set_mode(Op("test", 1, 1), "frozen", epoch + 1)

    doctor.cli.with_queue(freeze)
    assert doctor.failed() == {"mode": "frozen"}

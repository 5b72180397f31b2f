"""What is written down of a real store is judged as it was."""

from __future__ import annotations

import pytest

from psyqueue.backend import Ack, Fetch, NewJob, Op, Session
from psyqueue.backends._memory import MemoryBackend
from psyqueue.testing.history import RecordedBackend, Recorder, check_history


@pytest.fixture
async def store(tmp_path):
    recorder = Recorder(tmp_path / "w.jsonl", "w")
    backend = MemoryBackend()
    await backend.connect()
    yield RecordedBackend(backend, recorder, store="old")
    await backend.disconnect()
    recorder.close()


async def test_a_call_that_is_repeated_though_it_was_answered_is_one(store, tmp_path):
    """As a worker of a move does, whose other store did not answer."""
    await store.enqueue(Op("p", 0, 1), [NewJob(id="a", queue="q", name="work", payload=b"{}", digest=b"")])
    await store.backend.open_session(Op("w", 0, 1), Session(id="s", worker="w", queues=("q",), lease_ms=10_000))
    fetched = await store.settle(Op("w", 0, 2), "s", (), Fetch(queues=("q",), count=1, token_seed="0" * 32))
    (job,) = fetched.deliveries
    for _ in range(3):
        reply = await store.settle(Op("w", 0, 3), "s", [Ack(job_id="a", completion_token=job.completion_token)])
        assert [each.verdict for each in reply.settled] == ["ok"]
    report = check_history([tmp_path / "w.jsonl"], {"a": "completed"}, stores=["old"])
    assert report.is_clean, report

"""A handler called as the function that it is."""

from __future__ import annotations

import pytest

from psyqueue import Context, PsyQueue
from psyqueue.errors import InvalidOption, InvalidState, PayloadError, TooLarge
from psyqueue.testing import context

q = PsyQueue()


@q.handle("report", unique="number")
async def report(ctx: Context, number: int) -> str:
    for percent in (50, 100):
        if ctx.cancelled:
            return "stopped"
        ctx.progress({"percent": percent})
    ctx.enqueue(report.build(number + 1))
    ctx.enqueue("mail", {"to": ["ada"]}, delay="5m", queue="post")
    ctx.state["seen"] = number
    ctx.log.info("done")
    return f"report {number} of {ctx.tenant}, attempt {ctx.attempt}"


async def test_handler_is_called_with_a_context_of_its_own():
    ctx = context(tenant="acme", attempt=2)
    assert await report(ctx, 7) == "report 7 of acme, attempt 2"
    assert ctx.progressed == [{"percent": 50}, {"percent": 100}]
    assert ctx.state == {"seen": 7}
    following, mail = ctx.enqueued
    assert (following.name, following.queue, following.payload) == ("report", "report", {"number": 8})
    assert (mail.name, mail.queue, mail.payload) == ("mail", "post", {"to": ["ada"]})
    assert mail.options == {"delay": "5m", "queue": "post"}


async def test_signals_can_be_given():
    ctx = context()
    assert (ctx.cancelled, ctx.lease_lost, ctx.stop_reason) == (False, False, None)
    ctx.cancel()
    assert ctx.stop_reason == "cancel"
    assert await report(ctx, 1) == "stopped"
    ctx.lose_lease()
    assert ctx.lease_lost


def test_job_is_what_it_is_told():
    ctx = context(
        {"pair": (1, 2)}, name="n", queue="q", id="i", priority=3, lane="l", max_retries=9, meta={"a": 1}, attempt=4
    )
    job = ctx.job
    assert (job.name, job.queue, job.id, job.priority, job.lane, job.max_retries) == ("n", "q", "i", 3, "l", 9)
    assert (job.payload, job.meta, job.attempt, ctx.fence) == ({"pair": [1, 2]}, {"a": 1}, 4, 4)
    assert job.started_at == job.created_at


def test_follow_ups_are_checked_as_in_a_run():
    ctx = context()
    with pytest.raises(InvalidOption, match="dela"):
        ctx.enqueue("mail", {}, dela=1)
    with pytest.raises(PayloadError):
        ctx.enqueue("mail", {"to": object()})
    for _ in range(400):
        ctx.enqueue("mail", {})
    with pytest.raises(TooLarge):
        ctx.enqueue("mail", {})


def test_handle_of_a_follow_up_names_it():
    ctx = context()
    handle = ctx.enqueue("mail", {}, id="chosen")
    assert (str(handle), ctx.enqueued[0].id) == ("chosen", "chosen")


async def test_transaction_yields_the_connection_it_was_given():
    connection = object()
    async with context(connection=connection).transaction() as given:
        assert given is connection
    with pytest.raises(InvalidState, match=r"context\(connection=...\)"):
        async with context().transaction():
            pass


@pytest.mark.parametrize("options", [{"attempt": 0}, {"name": ""}, {"queue": "\n"}, {"tenant": ""}, {"meta": 1}])
def test_bad_options_are_refused(options):
    with pytest.raises(InvalidOption):
        context(**options)

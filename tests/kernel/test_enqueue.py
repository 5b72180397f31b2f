"""Enqueue as a user types it, on the memory store: what is written, what is refused, what is told."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging

import pytest

from psyqueue import (
    Cancel,
    IdConflict,
    InvalidOption,
    JobHandle,
    KeyConflict,
    PayloadError,
    PluginError,
    PsyQueue,
    QueueFull,
    Rejected,
    TooLarge,
    UnknownDependency,
)
from psyqueue.backend import Enqueued
from psyqueue.backends import memory
from support.kernel import Heard, build, next_turn


async def send(to, subject="Hi"):
    return to


async def raw(ctx): ...


@pytest.fixture
def h(started):
    return started.handle("email.send", send, queue="mail", max_retries=5)


# ── one ───────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_enqueued_job_is_in_the_store_when_the_call_returns(started, h):
    handle = await h.enqueue("a@b.c", subject="x")
    assert isinstance(handle, JobHandle)
    assert (str(handle), handle.name, handle.queue, handle.created) == (handle.id, "email.send", "mail", True)
    view = await started.get(handle.id)
    assert (view.payload, view.status, view.queue, view.max_retries) == (
        {"to": "a@b.c", "subject": "x"},
        "pending",
        "mail",
        5,
    )


async def test_enqueue_by_name_is_the_same_job_as_through_the_handler(started, h):
    by_name = await (await started.enqueue("email.send", {"to": "a"})).refresh()
    by_handler = await (await h.enqueue("a")).refresh()
    by_call = await (await started.enqueue(h.build("a"))).refresh()
    assert by_name.payload == by_handler.payload == by_call.payload
    assert (by_name.queue, by_name.max_retries) == (by_handler.queue, by_handler.max_retries) == ("mail", 5)


async def test_queue_is_the_option_then_the_handlers_then_the_name(started, h):
    assert (await started.enqueue("email.send", {"to": "a"}, queue="vip")).queue == "vip"
    assert (await h.enqueue("a")).queue == "mail"
    assert (await started.enqueue("other")).queue == "other"


@pytest.mark.parametrize("wrong", [send, "h"])
async def test_a_function_or_handler_in_the_place_of_the_name_is_told_what_to_write(started, h, wrong):
    with pytest.raises(InvalidOption, match=r"not text\. Await handler\.enqueue.*handler\.build"):
        await started.enqueue(h if wrong == "h" else wrong, {"to": "a"})


async def test_alias_is_enqueued_under_the_handlers_name(started):
    started.handle("new", send, aliases=("old",))
    assert (await started.enqueue("old", {"to": "a"})).name == "new"


async def test_options_of_a_copy_apply_to_it_alone_and_later_ones_win(started, h):
    urgent = h.options(priority=5, tenant="acme")
    assert (await (await urgent.enqueue("a")).refresh()).priority == 5
    again = await (await urgent.options(priority=7).enqueue("a")).refresh()
    assert (again.priority, again.tenant_id, again.lane) == (7, "acme", "acme")
    assert (await (await h.enqueue("a")).refresh()).priority == 0
    call = urgent.build("a")
    assert (await (await started.enqueue(call, priority=9)).refresh()).priority == 9
    assert (await (await started.enqueue(call)).refresh()).priority == 5


def test_wrong_options_of_a_copy_are_refused_where_they_are_given(q):
    handler = q.handle("x", send)
    with pytest.raises(InvalidOption, match="Did you mean tenant"):
        handler.options(tennant="x")


async def test_argument_given_as_an_option_is_told_where_it_belongs(started):
    started.handle("x", send)
    with pytest.raises(InvalidOption, match=r"option to=.ada.: .*What the handler takes is the payload"):
        await started.enqueue("x", to="ada")


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
async def test_call_that_was_not_awaited_is_told_what_to_do(started):
    handler = started.handle("x", send)
    with pytest.raises(InvalidOption, match=r"Await handler\.enqueue"):
        await started.enqueue(handler.enqueue("ada"))
    with pytest.raises(InvalidOption, match="Await it first"):
        await handler.options(depends_on=[handler.enqueue("ada")]).enqueue("bob")


async def test_ctx_only_handler_takes_any_payload(started):
    started.handle("raw", raw)
    for payload in (None, [1], "x", {"a": 1}):
        handle = await started.enqueue("raw", payload)
        assert (await handle.refresh()).payload == payload


async def test_unknown_handler_is_allowed_and_warned_about_once(started, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert (await started.enqueue("elsewhere", [1])).created
    warned = [record for record in caplog.records if "does not know" in record.message]
    assert len(warned) == 1
    assert warned[0].job_name == "elsewhere"


async def test_version_of_the_handler_goes_with_the_job(started):
    handler = started.handle("v", send, version=3)
    assert (await (await handler.enqueue("a")).refresh()).schema_version == 3


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"to": float("nan")}, "$.to"),
        ({"to": [1, {"x": object()}]}, "$.to[1].x"),
        ({"to": "\ud800"}, "$.to"),
        ({"to": {1: 2}}, "$.to"),
        ({"subject": "x"}, "$.to"),
        ({"to": 1, "cc": 2}, "$.cc"),
        ([1], "$"),
    ],
)
async def test_bad_payload_is_refused_with_its_place_before_anything_is_written(started, probe, h, payload, path):
    with pytest.raises(PayloadError) as caught:
        await started.enqueue("email.send", payload)
    assert caught.value.path == path
    assert probe.store.count("enqueue") == 0


async def test_payload_beyond_the_limit_is_refused(started, probe, h):
    with pytest.raises(TooLarge, match="1048576"):
        await h.enqueue("x" * (1 << 20))
    assert probe.store.count("enqueue") == 0


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201, None, 7])
async def test_absurd_name_is_refused(started, name):
    with pytest.raises(InvalidOption, match="name"):
        await started.enqueue(name)


async def test_payload_beside_a_built_call_is_refused(started, h):
    with pytest.raises(PayloadError, match="has its payload already"):
        await started.enqueue(h.build("a"), {"to": "b"})


# ── the store's refusals ──────────────────────────────────────────────────────────────────────────────────────────────
async def test_same_id_with_the_same_content_finds_the_job(started, h):
    first = await h.options(id="one").enqueue("a")
    again = await h.options(id="one").enqueue("a")
    assert (first.created, again.created, again.id) == (True, False, "one")


async def test_same_id_with_other_content_is_a_conflict(started, h):
    await h.options(id="one").enqueue("a")
    with pytest.raises(IdConflict) as caught:
        await h.options(id="one").enqueue("b")
    assert caught.value.existing_job_id == "one"


async def test_generated_id_enqueued_again_with_the_same_content_finds_the_job(started, h):
    first = await h.enqueue("a")
    assert not (await h.options(id=first.id).enqueue("a")).created


async def test_idempotency_key_finds_the_first_job_and_refuses_other_content(started, h):
    once = h.options(idempotency_key="order-1")
    first = await once.enqueue("a")
    again = await once.enqueue("a")
    assert (again.id, again.created) == (first.id, False)
    with pytest.raises(KeyConflict) as caught:
        await once.enqueue("b")
    assert caught.value.existing_job_id == first.id
    assert (await once.options(tenant="other").enqueue("b")).created


async def test_unique_handler_has_one_live_job_per_field_value(started):
    handler = started.handle("sync", send, unique="to")
    first = await handler.enqueue("a", subject="1")
    again = await handler.enqueue("a", subject="2")
    assert (again.id, again.created) == (first.id, False)
    assert (await handler.enqueue("b")).created
    with pytest.raises(KeyConflict):
        await handler.options(on_conflict="reject").enqueue("a", subject="3")
    await handler.options(on_conflict="replace").enqueue("a", subject="4")
    assert (await first.refresh()).payload == {"to": "a", "subject": "4"}
    assert (await handler.options(unique_key="mine").enqueue("a")).created


async def test_unknown_parent_is_refused(started, h):
    with pytest.raises(UnknownDependency, match="'nobody'"):
        await h.options(depends_on="nobody").enqueue("a")


async def test_child_waits_for_its_parents(started, h):
    parent = await h.enqueue("a")
    child = await h.options(depends_on=[parent]).enqueue("b")
    view = await child.refresh()
    assert (view.status, view.needs) == ("waiting", (parent.id,))


async def test_order_key_lets_one_start_at_a_time(started):
    handler = started.handle("ledger", send, order_key="to")
    first, second, other = [await handler.enqueue(to) for to in ("a", "a", "b")]
    assert [(await job.refresh()).status for job in (first, second, other)] == ["pending", "waiting", "pending"]


async def test_full_queue_refuses(started, h):
    await started.limits("mail", pending_max=1)
    await h.enqueue("a")
    with pytest.raises(QueueFull):
        await h.enqueue("b")


async def test_connection_that_the_store_does_not_take_is_refused(started, h):
    with pytest.raises(InvalidOption, match="conn"):
        await h.options(conn=object()).enqueue("a")


async def test_job_in_the_callers_transaction_goes_through_bind_and_is_not_told(q, probe):
    """Whether it exists is up to the caller's commit, so the kernel announces nothing."""
    bound = []

    class Bound:
        async def enqueue(self, jobs):
            bound.extend(jobs)
            return tuple(Enqueued(job.id, True, "pending") for job in jobs)

    heard = Heard(q.events, "job:*")
    connection = object()
    async with q:
        probe.store.bind = lambda given: Bound() if given is connection else None
        handler = q.handle("x", send)
        one = await handler.options(conn=connection).enqueue("a")
        many = await q.enqueue_bulk([handler.build("b"), {"name": "y"}], conn=connection)
        assert [job.id for job in bound] == [one.id, *(handle.id for handle in many)]
        assert probe.store.count("enqueue") == 0
        with pytest.raises(InvalidOption, match="differs between the jobs"):
            await q.enqueue_bulk([handler.options(conn=connection).build("a"), handler.build("b")])
    assert heard.events == []


# ── bulk ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_bulk_takes_calls_and_mappings_in_order(started, h):
    handles = await started.enqueue_bulk(
        [
            h.build("a"),
            {"name": "email.send", "payload": {"to": "b"}, "options": {"priority": 2}},
            {"name": "other"},
            h.options(priority=3).build("c"),
        ],
        priority=1,
    )
    views = [await handle.refresh() for handle in handles]
    assert [view.payload for view in views] == [{"to": "a"}, {"to": "b"}, None, {"to": "c"}]
    assert [view.priority for view in views] == [1, 2, 1, 3]
    assert [handle.queue for handle in handles] == ["mail", "mail", "other", "mail"]


async def test_bulk_goes_in_chunks_of_500_in_order(started, probe, h):
    handles = await started.enqueue_bulk(h.build(str(n)) for n in range(1201))
    sizes = [len(jobs) for _, jobs in probe.store.args("enqueue")]
    assert sizes == [500, 500, 201]
    assert [handle.id for handle in handles] == [job.id for _, jobs in probe.store.args("enqueue") for job in jobs]
    assert len({handle.id for handle in handles}) == 1201


async def test_bulk_goes_in_chunks_of_8_mib(started, probe, h):
    await started.enqueue_bulk([h.build("x" * 1_000_000) for _ in range(10)])
    assert [len(jobs) for _, jobs in probe.store.args("enqueue")] == [8, 2]


async def test_bulk_of_nothing_is_nothing(started, probe):
    assert await started.enqueue_bulk([]) == []
    assert probe.store.count("enqueue") == 0


async def test_error_of_a_later_chunk_carries_the_handles_made_before(started, probe, h):
    await h.options(id="taken").enqueue("other content")
    items = [h.build(str(n)) for n in range(700)] + [h.options(id="taken").build("x")]
    with pytest.raises(IdConflict) as caught:
        await started.enqueue_bulk(items)
    assert len(vars(caught.value)["enqueued"]) == 500
    assert (await started.get(vars(caught.value)["enqueued"][-1].id)).payload == {"to": "499"}


async def test_one_chunk_is_all_or_nothing(started, h):
    await h.options(id="taken").enqueue("other content")
    with pytest.raises(IdConflict) as caught:
        await started.enqueue_bulk([h.build("a"), h.options(id="taken").build("x")])
    assert vars(caught.value)["enqueued"] == []
    assert [view.id for view in await started.jobs(queue="mail")] == ["taken"]


@pytest.mark.parametrize(
    ("items", "text"),
    [
        ("email.send", "not a list of items"),
        ({"name": "x"}, "not a list of items"),
        (7, "not a list of items"),
        ([7], r"\$\[0\].*neither handler.build"),
        ([{"name": "x"}, {"payload": 1}], r"\$\[1\].*has no name"),
        ([{"name": "x", "opts": {}}], "unknown keys opts"),
        ([{"name": "x", "options": [1]}], r"\$\[0\].options"),
    ],
)
async def test_bulk_items_that_are_none_are_refused_with_their_place(started, probe, items, text):
    with pytest.raises(PayloadError, match=text):
        await started.enqueue_bulk(items)
    assert probe.store.count("enqueue") == 0


async def test_bad_item_is_refused_before_any_chunk_is_written(started, probe, h):
    items = [h.build(str(n)) for n in range(600)] + [{"name": "x", "options": {"delay": -1}}]
    with pytest.raises(InvalidOption, match="delay"):
        await started.enqueue_bulk(items)
    assert probe.store.count("enqueue") == 0


@pytest.mark.parametrize("common", [{}, {"priority": 1}])
@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"name": "email.send", "payload": {"too": "x"}}, r"item 600: payload at \$\.to: is missing"),
        ({"name": "x", "payload": {"a": {object()}}}, r"item 600: payload at \$\.a.*is not a JSON value; give"),
        ({"name": "x", "options": {"delay": -1}}, "item 600: option delay=-1"),
        (7, r"bulk item at \$\[600\]"),
    ],
)
async def test_refusal_says_which_item_of_many_it_was(started, h, bad, text, common):
    with pytest.raises((PayloadError, InvalidOption), match=text) as caught:
        await started.enqueue_bulk([h.build(str(n)) for n in range(600)] + [bad], **common)
    assert caught.value.context["item"] == 600
    assert str(caught.value) == f"[{caught.value.code}] {caught.value.message}"


async def test_refusal_of_a_lone_job_names_no_item(started, h):
    with pytest.raises(PayloadError, match=r"\] payload at \$\.to: is missing"):
        await started.enqueue_bulk([{"name": "email.send", "payload": {"too": "x"}}])


async def test_one_id_for_all_jobs_is_refused(started, h):
    with pytest.raises(InvalidOption, match="id"):
        await started.enqueue_bulk([h.build("a")], id="x")


async def test_parent_and_child_may_come_in_one_call(started, h):
    parent, child = await started.enqueue_bulk([h.options(id="p").build("a"), h.options(depends_on="p").build("b")])
    assert (await parent.refresh()).status == "pending"
    assert (await child.refresh()).status == "waiting"


# ── events ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_enqueued_is_told_after_the_commit_and_only_for_created_jobs(q, probe):
    """D-42."""
    heard = Heard(q.events, "job:enqueued")
    committed = []

    async def after(op, jobs):
        committed.append(len(heard.events))

    async with q:
        probe.store.after["enqueue"] = after
        handler = q.handle("x", send, queue="mail")
        first = await handler.options(id="one").enqueue("a")
        await handler.options(id="one").enqueue("a")
        with pytest.raises(IdConflict):
            await handler.options(id="one").enqueue("b")
        await q.enqueue_bulk([handler.build("c"), handler.options(id="one").build("a")])
    assert committed == [0, 1, 1]
    assert heard.events[0] == ("job:enqueued", {"job_id": first.id, "queue": "mail", "name": "x"})
    assert len(heard.events) == 2


# ── middleware ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def wired():
    """A queue with a handler and a way to add enqueue middleware before it starts."""
    q, probe = build()
    return q, probe, q.handle("email.send", send, queue="mail")


async def test_middleware_runs_once_per_call_with_all_jobs(wired):
    """D-41: bulk goes the same way as one."""
    q, _probe, h = wired
    batches = []

    async def guard(ctx, call_next):
        batches.append([(job.name, job.queue, job.payload, job.options) for job in ctx.jobs])
        await call_next()
        assert [handle.id for handle in ctx.handles] == [job.id for job in ctx.jobs]

    q.pipeline("enqueue", guard, phase="guard")
    async with q:
        await h.options(priority=2).enqueue("a")
        await q.enqueue("email.send", {"to": "b"})
        handles = await q.enqueue_bulk([h.build("c"), {"name": "other", "payload": [1]}])
    assert batches == [
        [("email.send", "mail", {"to": "a"}, {"priority": 2})],
        [("email.send", "mail", {"to": "b"}, {})],
        [("email.send", "mail", {"to": "c"}, {}), ("other", "other", [1], {})],
    ]
    assert len(handles) == 2


async def test_middleware_edits_what_is_written_and_not_the_callers_objects(wired):
    q, _probe, _h = wired

    async def edit(ctx, call_next):
        for job in ctx.jobs:
            job.payload["to"] = job.payload["to"].upper()
            job.options["priority"] = 9
            job.queue = "vip"
            job.id = "mine"
        await call_next()

    q.pipeline("enqueue", edit, phase="transform")
    payload = {"to": "a"}
    async with q:
        handle = await q.enqueue("email.send", payload)
        view = await handle.refresh()
    assert payload == {"to": "a"}
    assert (handle.id, view.payload, view.priority, view.queue) == ("mine", {"to": "A"}, 9, "vip")


async def test_what_middleware_makes_of_a_job_is_checked_again(wired):
    q, probe, h = wired

    async def break_it(ctx, call_next):
        ctx.jobs[0].options["delay"] = "soon"
        await call_next()

    q.pipeline("enqueue", break_it)
    async with q:
        with pytest.raises(InvalidOption, match="delay"):
            await h.enqueue("a")
        assert probe.store.count("enqueue") == 0


@pytest.mark.parametrize(
    ("trace", "error"),
    [("00-…", InvalidOption), ({"traceparent": 7}, InvalidOption), ({"baggage": "x" * 70_000}, TooLarge)],
    ids=["no mapping", "no text", "too long"],
)
async def test_a_trace_that_no_job_can_carry_is_refused(wired, trace, error):
    q, probe, h = wired

    async def set_trace(ctx, call_next):
        ctx.jobs[0].trace = trace
        await call_next()

    q.pipeline("enqueue", set_trace)
    async with q:
        with pytest.raises(error, match="trace"):
            await h.enqueue("a")
        assert probe.store.count("enqueue") == 0


async def test_bad_input_is_refused_before_any_middleware_sees_it(wired):
    q, _probe, h = wired
    seen = []

    async def spy(ctx, call_next):
        seen.append(ctx)
        await call_next()

    q.pipeline("enqueue", spy, phase="guard")
    async with q:
        with pytest.raises(InvalidOption):
            await q.enqueue("email.send", {"to": "a"}, delay=-1)
        with pytest.raises(PayloadError):
            await h.enqueue(float("nan"))
    assert seen == []


@pytest.mark.parametrize("how", ["reject", "verdict raised", "verdict returned"])
async def test_middleware_that_turns_a_job_away_says_why_and_nothing_is_written_or_told(wired, how):
    q, probe, h = wired
    heard = Heard(q.events, "job:*")

    async def guard(ctx, call_next):
        if how == "reject":
            raise Rejected("tenant is closed")
        if how == "verdict raised":
            raise Cancel("tenant is closed")
        return Cancel("tenant is closed")

    q.pipeline("enqueue", guard, phase="guard")
    async with q:
        with pytest.raises(Rejected, match="tenant is closed"):
            await h.enqueue("a")
        with pytest.raises(Rejected):
            await q.enqueue_bulk([h.build("a")] * 3)
        assert probe.store.count("enqueue") == 0
    assert heard.events == []


async def test_middleware_that_drops_a_job_silently_is_an_error(wired):
    q, probe, h = wired

    async def drop(ctx, call_next):
        ctx.jobs.pop()
        await call_next()

    q.pipeline("enqueue", drop)
    async with q:
        with pytest.raises(PluginError, match="left 1 of 2 jobs"):
            await q.enqueue_bulk([h.build("a"), h.build("b")])
        assert probe.store.count("enqueue") == 0


async def test_middleware_that_swallows_the_stores_refusal_is_an_error(wired):
    """Else the caller would hold a handle of a job that nobody wrote."""
    q, _, h = wired

    async def swallow(ctx, call_next):
        with contextlib.suppress(IdConflict):
            await call_next()

    q.pipeline("enqueue", swallow)
    async with q:
        await h.options(id="x").enqueue("a")
        with pytest.raises(PluginError, match="swallowed the error"):
            await h.options(id="x").enqueue("b")


async def test_middleware_may_reorder_and_every_caller_gets_its_own_handle(wired):
    q, probe, h = wired

    async def urgent_first(ctx, call_next):
        ctx.jobs.reverse()
        await call_next()

    q.pipeline("enqueue", urgent_first)
    async with q:
        handles = await q.enqueue_bulk([h.options(id=name).build(name) for name in "abc"])
    assert [handle.id for handle in handles] == ["a", "b", "c"]
    assert [job.id for job in probe.store.args("enqueue")[0][1]] == ["c", "b", "a"]


async def test_middleware_that_swaps_a_job_for_another_is_an_error(wired):
    q, probe, h = wired

    async def swap(ctx, call_next):
        ctx.jobs[0] = copy.copy(ctx.jobs[0])
        await call_next()

    q.pipeline("enqueue", swap)
    async with q:
        with pytest.raises(PluginError, match="Edit them in place"):
            await h.enqueue("a")
        assert probe.store.count("enqueue") == 0


async def test_queue_and_id_set_as_options_by_middleware_count(wired):
    q, _, h = wired

    async def route(ctx, call_next):
        ctx.jobs[0].options.update(queue="vip", id="mine")
        await call_next()

    q.pipeline("enqueue", route)
    async with q:
        handle = await h.enqueue("a")
        assert (handle.id, handle.queue) == ("mine", "vip")
        assert (await handle.refresh()).queue == "vip"


async def test_middleware_cannot_move_a_job_into_another_transaction(wired):
    q, probe, h = wired

    async def bind(ctx, call_next):
        ctx.jobs[0].options["conn"] = object()
        await call_next()

    q.pipeline("enqueue", bind)
    async with q:
        with pytest.raises(InvalidOption, match="middleware"):
            await h.enqueue("a")
        assert probe.store.count("enqueue") == 0


async def test_store_error_passes_through_the_middleware(wired):
    q, _probe, h = wired
    seen = []

    async def observe(ctx, call_next):
        try:
            await call_next()
        except IdConflict as exc:
            seen.append(exc.existing_job_id)
            raise

    q.pipeline("enqueue", observe, phase="observe")
    async with q:
        await h.options(id="x").enqueue("a")
        with pytest.raises(IdConflict):
            await h.options(id="x").enqueue("b")
    assert seen == ["x"]


# ── concurrency ───────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_hundred_concurrent_callers_share_calls(started, probe, h):
    async def slow(op, jobs):
        await next_turn()

    probe.store.before["enqueue"] = slow
    handles = await asyncio.gather(*(h.enqueue(str(n)) for n in range(100)))
    assert len({handle.id for handle in handles}) == 100
    assert probe.store.count("enqueue") <= 3


async def test_one_callers_conflict_does_not_touch_its_neighbours(started, probe, h):
    await h.options(id="taken").enqueue("a")

    async def slow(op, jobs):
        await next_turn()

    probe.store.before["enqueue"] = slow
    calls = [h.enqueue(str(n)) for n in range(10)] + [h.options(id="taken").enqueue("b")]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(handle, JobHandle) and handle.created for handle in results[:10])
    assert isinstance(results[10], IdConflict)


async def test_two_queues_in_one_process_are_apart():
    one, two = PsyQueue(name="one").use(memory()), PsyQueue(name="two").use(memory())
    async with one, two:
        handle = await one.enqueue("x")
        assert await two.get(handle.id) is None

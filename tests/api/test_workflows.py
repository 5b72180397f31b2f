"""Workflows on every store: order, results, failure, what is undone, cancelling, going on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from psyqueue import Cancel, Context, DeadLetter, Event, IdConflict, InvalidState, JobNotFound, PsyQueue, WorkflowFailed
from psyqueue.backend import Change, Filter
from psyqueue.plugins import Flow, Workflows, results_of
from psyqueue.plugins.workflows import run as run_of_workflow

FLOW_QUEUE = "workflows"


class Shop:
    """A queue whose handlers write down what they do; `broken` names those that fail."""

    def __init__(self, q: PsyQueue) -> None:
        self.workflows = Workflows()
        self.q = q.use(self.workflows)
        self.did: list[str] = []
        self.seen: dict[str, dict[str, Any]] = {}
        self.broken: set[str] = set()
        self.events: list[tuple[str, dict[str, Any]]] = []
        q.events.on("workflow:*", self._note)

        @q.handle("do", queue="shop", max_retries=0)
        async def do(ctx: Context, what: str) -> str:
            self.seen[what] = results_of(ctx)
            if what in self.broken:
                raise ValueError(f"{what} is broken")
            self.did.append(what)
            return f"{what} done"

        self.do = do

    def _note(self, event: Event) -> None:
        self.events.append((event.type, event.data))

    async def work(self) -> None:
        """Until nothing more is to be done."""
        while await self.q.process_next("shop") or await self.q.process_next(FLOW_QUEUE):
            pass

    async def statuses(self, workflow_id: str) -> dict[str, str]:
        view = await self.workflows.get(workflow_id)
        assert view is not None
        return {name: "gone" if job is None else job.status for name, job in view.steps.items()}


async def delete(q: PsyQueue, *ids: str) -> None:
    backend = q.get_exposed("backend")
    amended = await q._core.operate(
        lambda op: backend.amend(op, Filter(ids=ids), Change(kind="delete"), None, len(ids))
    )
    assert set(amended.changed) == set(ids)


@pytest.fixture
def shop(q: PsyQueue) -> Shop:
    return Shop(q)


def diamond(shop: Shop, **more: Any) -> Flow:
    flow = Flow("diamond").add("a", shop.do.build("a"), **more)
    flow.add("b", shop.do.build("b"), after="a").add("c", shop.do.build("c"), after=["a"])
    return flow.add("d", shop.do.build("d"), after=("b", "c"))


def saga(shop: Shop) -> Flow:
    flow = Flow("saga")
    flow.add("a", shop.do.build("a"), compensate=shop.do.build("undo a"))
    flow.add("b", shop.do.build("b"), after="a", compensate=shop.do.build("undo b"))
    return flow.add("c", shop.do.build("c"), after="b", compensate=shop.do.build("undo c"))


# ── the good way ──────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_steps_run_in_their_order_and_see_the_results_before_them(shop):
    async with shop.q:
        run = await shop.workflows.enqueue(diamond(shop))
        assert await shop.statuses(run.id) == {"a": "pending", "b": "waiting", "c": "waiting", "d": "waiting"}
        assert (await run.view()).status == "running"
        await shop.work()
        assert await run.result("10s") == {name: f"{name} done" for name in "abcd"}
        view = await run.view()
    assert (shop.did[0], set(shop.did[1:3]), shop.did[3]) == ("a", {"b", "c"}, "d")
    assert shop.seen == {
        "a": {},
        "b": {"a": "a done"},
        "c": {"a": "a done"},
        "d": {"b": "b done", "c": "c done"},
    }
    assert (view.name, view.status, view.reason) == ("diamond", "completed", "")
    assert view.completed_at is not None
    assert shop.events == [
        ("workflow:started", {"workflow_id": run.id, "flow": "diamond"}),
        ("workflow:completed", {"workflow_id": run.id}),
    ]


async def test_a_second_start_with_the_same_id_finds_the_first(shop):
    async with shop.q:
        first = await shop.workflows.enqueue(diamond(shop), id="order-7")
        again = await shop.workflows.enqueue(diamond(shop), id="order-7")
        assert (first.created, again.created, again.id) == (True, False, "order-7")
        with pytest.raises(IdConflict, match="'order-7'"):
            await shop.workflows.enqueue(saga(shop), id="order-7")
        with pytest.raises(IdConflict, match="'order-7'"):
            await shop.workflows.enqueue(Flow("diamond").add("a", shop.do.build("another a")), id="order-7")
        assert len(await shop.q.jobs()) == 5
    assert [event for event, _ in shop.events] == ["workflow:started"]


async def test_an_id_stands_for_its_workflow_also_when_jobs_of_it_are_deleted(shop):
    """Else its steps would run a second time, those that are no longer kept."""
    async with shop.q:
        run = await shop.workflows.enqueue(diamond(shop), id="order-7")
        await shop.work()
        for gone in ([f"{run.id}.a"], [run.id, *(f"{run.id}.{step}" for step in "bcd")]):
            await delete(shop.q, *gone)
            assert not (await shop.workflows.enqueue(diamond(shop), id="order-7")).created
            await shop.work()
        assert await shop.workflows.get("order-7") is None
    assert sorted(shop.did) == list("abcd")


async def test_an_id_that_is_taken_by_a_job_is_a_conflict(shop):
    async with shop.q:
        for taken in ("order-7", "order-8.b"):
            await shop.do.options(id=taken).enqueue("x")
        for workflow_id in ("order-7", "order-8"):
            with pytest.raises(IdConflict, match=workflow_id):
                await shop.workflows.enqueue(diamond(shop), id=workflow_id)
        assert len(await shop.q.jobs()) == 2


async def test_options_hold_for_all_jobs_and_those_of_a_step_win(shop):
    async with shop.q:
        run = await shop.workflows.enqueue(diamond(shop, priority=9, meta={"by": "ada"}), priority=2, tenant="acme")
        view = await run.view()
        assert {name: job.priority for name, job in view.steps.items()} == {"a": 9, "b": 2, "c": 2, "d": 2}
        assert {job.tenant_id for job in view.steps.values()} == {"acme"}
        assert view.steps["a"].meta["by"] == "ada"
        assert view.steps["d"].meta["workflow"]["step"] == "d"


async def test_a_step_may_wait_for_a_failure(shop):
    shop.broken.add("charge")
    flow = Flow("order").add("charge", shop.do.build("charge"))
    flow.add("ship", shop.do.build("ship"), after="charge")
    flow.add("tell", shop.do.build("tell"), after={"charge": "dead"})
    flow.add(
        "close", shop.do.build("close"), after={"ship": ("completed", "cancelled"), "tell": ["completed", "cancelled"]}
    )
    async with shop.q:
        run = await shop.workflows.enqueue(flow)
        await shop.work()
        assert shop.did == ["tell", "close"]
        assert (await run.view()).status == "failed"


async def test_handlers_by_name_run_where_they_are_known(shop):
    async with shop.q:
        run = await shop.workflows.enqueue(Flow("named").add("only", "do", {"what": "x"}, queue="shop"))
        await shop.work()
        assert await run.result("10s") == {"only": "x done"}


# ── failure ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_dead_step_fails_the_workflow_when_the_others_have_ended(shop):
    shop.broken.add("b")
    async with shop.q:
        run = await shop.workflows.enqueue(diamond(shop))
        await shop.work()
        assert await shop.statuses(run.id) == {"a": "completed", "b": "dead", "c": "completed", "d": "cancelled"}
        with pytest.raises(WorkflowFailed, match="step b is dead: exhausted") as caught:
            await run.result("10s")
        view = await run.view()
    assert (caught.value.code, caught.value.job_id) == ("WORKFLOW_FAILED", run.id)
    assert (view.status, view.reason) == ("failed", "step b is dead: exhausted")
    assert shop.events[1:] == [("workflow:failed", {"workflow_id": run.id, "reason": "step b is dead: exhausted"})]


async def test_what_was_done_is_undone_the_other_way_round(shop):
    shop.broken.add("c")
    async with shop.q:
        run = await shop.workflows.enqueue(saga(shop))
        await shop.q.process_next("shop")
        await shop.q.process_next("shop")
        await shop.q.process_next("shop")
        await shop.q.process_next(FLOW_QUEUE)
        assert (await run.view()).status == "compensating"
        await shop.work()
        view = await run.view()
    assert shop.did == ["a", "b", "undo b", "undo a"]
    assert shop.seen["undo b"] == {"b": "b done"}
    assert view.status == "compensated"
    assert {name: job.status for name, job in view.undoing.items()} == {
        "a": "completed",
        "b": "completed",
        "c": "cancelled",
    }


async def test_undoing_goes_on_where_a_part_of_it_dies(shop):
    shop.broken |= {"c", "undo b"}
    async with shop.q:
        run = await shop.workflows.enqueue(saga(shop))
        await shop.work()
        view = await run.view()
    assert shop.did == ["a", "b", "undo a"]
    assert (view.status, view.undoing["b"].status) == ("compensated", "dead")


async def test_what_was_done_is_undone_also_where_the_end_itself_is_dead(shop, monkeypatch):
    def lost(*_: object) -> str:
        raise DeadLetter("it took its workers with it")

    monkeypatch.setattr("psyqueue.plugins.workflows.plugin.failure", lost)
    async with shop.q:
        run = await shop.workflows.enqueue(saga(shop))
        await shop.work()
        view = await run.view()
    assert shop.did == ["a", "b", "c", "undo c", "undo b", "undo a"]
    assert (view.status, view.reason) == ("compensated", "it took its workers with it")


async def test_nothing_is_undone_where_all_went_well(shop):
    async with shop.q:
        run = await shop.workflows.enqueue(saga(shop))
        await shop.work()
        view = await run.view()
    assert shop.did == ["a", "b", "c"]
    assert (view.status, {job.status for job in view.undoing.values()}) == ("completed", {"cancelled"})


async def test_a_step_that_cancels_itself_fails_the_workflow(shop):
    async def stop() -> None:
        raise Cancel("nobody wants it")

    flow = Flow("one").add("x", shop.q.handle("stop", stop, queue="shop").build())
    async with shop.q:
        run = await shop.workflows.enqueue(flow)
        await shop.work()
        view = await run.view()
    assert (view.status, view.reason) == ("cancelled", "step x was cancelled: nobody wants it")


# ── cancel ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_cancel_ends_what_is_left_and_undoes_what_was_done(shop):
    async with shop.q:
        run = await shop.workflows.enqueue(saga(shop))
        await shop.q.process_next("shop")
        assert (await shop.workflows.cancel(run.id)).steps["c"].status == "cancelled"
        await shop.work()
        view = await run.view()
    assert shop.did == ["a", "undo a"]
    assert view.status == "compensated"
    assert "step b was cancelled: cancelled by request" in view.reason


async def test_a_step_that_runs_hears_of_the_cancel_at_once(shop):
    began = asyncio.Event()

    async def wait() -> None:
        began.set()
        await asyncio.get_running_loop().create_future()

    flow = Flow("long").add("x", shop.q.handle("wait", wait, queue="shop").build())
    async with shop.q:
        shop.q.start_worker(lease="10m")
        run = await shop.workflows.enqueue(flow)
        await began.wait()
        await shop.workflows.cancel(run.id)
        assert (await run.wait("20s")).reason == "step x was cancelled: cancelled by request"


async def test_a_cancelled_workflow_that_undoes_nothing_is_cancelled(shop):
    async with shop.q:
        run = await shop.workflows.enqueue(diamond(shop))
        await shop.workflows.cancel(run.id)
        await shop.work()
        assert (await run.view()).status == "cancelled"
        assert (await shop.workflows.cancel(run.id)).status == "cancelled"


# ── go on ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_failed_workflow_goes_on_where_it_failed(shop):
    shop.broken.add("b")
    async with shop.q:
        run = await shop.workflows.enqueue(diamond(shop))
        await shop.work()
        shop.broken.clear()
        view = await shop.workflows.resume(run.id)
        assert (view.status, await shop.statuses(run.id)) == (
            "running",
            {"a": "completed", "b": "pending", "c": "completed", "d": "waiting"},
        )
        await shop.work()
        assert await run.result("10s") == {name: f"{name} done" for name in "abcd"}
    assert shop.did == ["a", "c", "b", "d"]
    assert shop.seen["d"] == {"b": "b done", "c": "c done"}


async def test_who_waits_while_somebody_resumes_waits_on(shop, monkeypatch):
    """It is resumed between the end of its last job and the look at it."""
    shop.broken.add("b")
    look = run_of_workflow.viewed

    async def late(kernel: Any, workflow_id: str) -> Any:
        monkeypatch.undo()
        shop.broken.clear()
        await shop.workflows.resume(workflow_id)
        shop.q.start_worker()
        return await look(kernel, workflow_id)

    async with shop.q:
        run = await shop.workflows.enqueue(diamond(shop))
        await shop.work()
        monkeypatch.setattr(run_of_workflow, "viewed", late)
        assert (await run.result("20s"))["d"] == "d done"


async def test_what_a_resumption_does_is_told(shop):
    shop.broken.add("b")
    told: list[tuple[str, str]] = []
    for event in ("job:enqueued", "job:replayed"):
        shop.q.events.on(event, lambda event: told.append((event.type, event.data["job_id"].partition(".")[2])))
    async with shop.q:
        run = await shop.workflows.enqueue(diamond(shop))
        await shop.work()
        told.clear()
        await shop.workflows.resume(run.id)
    assert sorted(told) == [("job:enqueued", ""), ("job:enqueued", "d~1"), ("job:replayed", "b")]


async def test_a_workflow_may_fail_and_go_on_again_and_again(shop):
    async with shop.q:
        run = await shop.workflows.enqueue(diamond(shop))
        for broken in ("a", "b", "d"):
            shop.broken = {broken}
            await shop.work()
            with pytest.raises(WorkflowFailed, match=f"step {broken} is dead"):
                await run.result("10s")
            await shop.workflows.resume(run.id)
        shop.broken = set()
        await shop.work()
        assert await run.result("10s") == {name: f"{name} done" for name in "abcd"}
    assert sorted(shop.did) == list("abcd")
    assert shop.seen["d"] == {"b": "b done", "c": "c done"}, "of the jobs that took the places of the first ones"


async def test_a_step_that_was_replayed_by_hand_lets_the_rest_go_on(shop):
    shop.broken.add("b")
    async with shop.q:
        run = await shop.workflows.enqueue(diamond(shop))
        await shop.work()
        shop.broken.clear()
        await shop.q.dead_letter.replay(f"{run.id}.b")
        await shop.work()
        await shop.workflows.resume(run.id)
        await shop.work()
        assert await run.result("10s") == {name: f"{name} done" for name in "abcd"}
    assert sorted(shop.did) == list("abcd")


async def test_a_step_that_was_replayed_in_time_does_not_hide_what_was_cut_off(shop):
    """D was cancelled when b died; b is well again before the workflow ends."""
    shop.broken.add("b")
    async with shop.q:
        run = await shop.workflows.enqueue(diamond(shop))
        await shop.q.process_next("shop")
        await shop.q.process_next("shop")
        assert (await shop.statuses(run.id))["b"] == "dead"
        shop.broken.clear()
        await shop.q.dead_letter.replay(f"{run.id}.b")
        await shop.work()
        with pytest.raises(WorkflowFailed, match="step d was cancelled before a step in front of it was replayed"):
            await run.result("10s")
        await shop.workflows.resume(run.id)
        await shop.work()
        assert await run.result("10s") == {name: f"{name} done" for name in "abcd"}
    assert sorted(shop.did) == list("abcd")


async def test_the_end_waits_for_a_step_that_was_replayed(make):
    """C ends while b, which was dead, waits to run again: the job that ends the workflow puts itself off."""
    shop = Shop(make(test_clock=True))
    shop.broken.add("b")
    async with shop.q:
        run = await shop.workflows.enqueue(diamond(shop))
        for _ in range(3):
            await shop.q.process_next("shop")
        await shop.q.dead_letter.replay(f"{run.id}.b")
        await shop.q.process_next(FLOW_QUEUE)
        assert (await run.view()).status == "running"
        shop.broken.clear()
        await shop.work()
        await shop.q.get_exposed("backend").advance_clock(1_000)
        await shop.work()
        assert (await run.view()).status == "cancelled"
        await shop.workflows.resume(run.id)
        await shop.work()
        assert await run.result("10s") == {name: f"{name} done" for name in "abcd"}


async def test_what_is_no_longer_kept_cannot_go_on(shop):
    shop.broken.add("b")
    async with shop.q:
        run = await shop.workflows.enqueue(diamond(shop))
        await shop.work()
        await delete(shop.q, f"{run.id}.a")
        assert (await shop.statuses(run.id))["a"] == "gone"
        with pytest.raises(InvalidState, match=r"step a .* is no longer kept"):
            await shop.workflows.resume(run.id)


async def test_two_who_resume_at_once_resume_once(shop):
    shop.broken.add("a")
    async with shop.q:
        run = await shop.workflows.enqueue(diamond(shop))
        await shop.work()
        shop.broken.clear()
        await asyncio.gather(shop.workflows.resume(run.id), shop.workflows.resume(run.id), return_exceptions=True)
        await shop.work()
        assert await run.result("10s") == {name: f"{name} done" for name in "abcd"}
        assert len(await shop.q.jobs(name="do", status="completed")) == 4
    assert sorted(shop.did) == list("abcd")


async def test_only_what_failed_and_has_nothing_to_undo_goes_on(shop):
    shop.broken.add("c")
    async with shop.q:
        run = await shop.workflows.enqueue(saga(shop))
        with pytest.raises(InvalidState, match="is running: there is nothing to resume"):
            await shop.workflows.resume(run.id)
        await shop.work()
        with pytest.raises(InvalidState, match=r"compensated, and has steps with compensate=.*enqueue it anew"):
            await shop.workflows.resume(run.id)
        shop.broken = {"a"}
        run = await shop.workflows.enqueue(saga(shop))
        await shop.work()
        assert (await run.view()).status == "failed"
        with pytest.raises(InvalidState, match="failed, and has steps with compensate="):
            await shop.workflows.resume(run.id)


async def test_a_step_that_is_replayed_by_hand_is_told_as_not_undone(shop):
    """What undoes it was cancelled when it died."""
    flow = Flow("order").add("charge", shop.do.build("charge"), compensate=shop.do.build("refund"))
    flow.add("pack", shop.do.build("pack"))
    shop.broken.add("charge")
    async with shop.q:
        run = await shop.workflows.enqueue(flow)
        await shop.q.process_next("shop")
        shop.broken = {"pack"}
        await shop.q.dead_letter.replay(f"{run.id}.charge")
        await shop.work()
        told = "step pack is dead: exhausted; not undone, since replayed or cancelled by hand: charge"
        assert (await run.view()).reason == told


async def test_limits_of_time_are_those_of_the_steps(make):
    """The job that ends the workflow, and what undoes steps, come after them."""
    shop = Shop(make(test_clock=True))
    async with shop.q:
        run = await shop.workflows.enqueue(saga(shop), expires="1m", max_retries=7, delay="1s")
        backend = shop.q.get_exposed("backend")
        (last,) = await backend.get((run.id,))
        (undo,) = await backend.get((f"{run.id}.a~undo",))
        assert (last.expires_at_ms, undo.expires_at_ms, last.job.max_retries) == (None, None, 100)
        view = await run.view()
        assert {job and job.max_retries for job in view.steps.values()} == {7}
        await backend.advance_clock(1_000)
        await shop.q.process_next("shop")
        await backend.advance_clock(120_000)
        await backend.promote(("shop",), 100)
        await shop.work()
        view = await run.view()
    assert view.reason == "step b is dead: expired; step c is dead: expired"
    assert shop.did == ["a", "undo a"]


async def test_nothing_is_undone_while_steps_run(shop):
    """Whoever cancels the job that ends a workflow, and not the workflow, has it undone; that waits for the steps."""
    async with shop.q:
        run = await shop.workflows.enqueue(saga(shop))
        await shop.q.process_next("shop")
        await shop.q.cancel(run.id)
        await shop.q.process_next("shop")
        await shop.q.process_next("shop")
        assert shop.did == ["a", "b", "c"]
        await shop.work()
    assert shop.did[3:] == ["undo c", "undo b", "undo a"]


async def test_resumed_workflows_outlive_the_jobs_that_they_replaced(shop):
    shop.broken.add("b")
    async with shop.q:
        run = await shop.workflows.enqueue(diamond(shop))
        await shop.work()
        await shop.workflows.resume(run.id)
        await delete(shop.q, run.id, f"{run.id}.d")
        assert (await run.view()).status == "running"
        await shop.work()
        with pytest.raises(WorkflowFailed, match="step b is dead"):
            await run.result("10s")
        shop.broken = {"d"}
        await shop.workflows.resume(run.id)
        await shop.work()
        with pytest.raises(WorkflowFailed, match="step d is dead"):
            await run.result("10s")
        shop.broken.clear()
        await shop.workflows.resume(run.id)
        await shop.work()
        assert (await run.result("10s"))["d"] == "d done"


async def test_what_is_resumed_starts_no_earlier_than_it_would_have(make):
    shop = Shop(make(test_clock=True))
    shop.broken.add("b")
    flow = Flow("o").add("b", shop.do.build("b")).add("survey", shop.do.build("survey"), after="b", delay="4s")
    async with shop.q:
        run = await shop.workflows.enqueue(flow)
        await shop.work()
        shop.broken.clear()
        await shop.workflows.resume(run.id)
        await shop.work()
        assert shop.did == ["b"]
        await shop.q.get_exposed("backend").advance_clock(4_000)
        await shop.work()
        assert (await run.view()).status == "completed"
    assert shop.did == ["b", "survey"]


async def test_a_dead_step_behind_another_one_waits_for_it_again(shop):
    """Its place in the order holds, and so does what it waits for."""
    shop.broken |= {"charge", "invoice", "x"}
    flow = Flow("o").add("charge", shop.do.build("charge"))
    flow.add("invoice", shop.do.build("invoice"), after={"charge": "dead"})
    async with shop.q:
        run = await shop.workflows.enqueue(flow)
        await shop.work()
        shop.broken.clear()
        await shop.workflows.resume(run.id)
        await shop.work()
        assert (await run.view()).status == "completed"
        assert await shop.statuses(run.id) == {"charge": "completed", "invoice": "cancelled"}
    assert shop.did == ["charge"]


@pytest.mark.parametrize("word", ["nightly", {"x": 1}, ["a"]], ids=["text", "mapping", "list"])
async def test_meta_of_the_application_may_have_the_same_word(shop, word):
    shop.broken.add("b")
    async with shop.q:
        run = await shop.workflows.enqueue(diamond(shop), meta={"workflow": word})
        await shop.work()
        shop.broken.clear()
        await shop.workflows.resume(run.id)
        await shop.work()
        assert (await run.result("10s"))["d"] == "d done"


async def test_a_failure_stays_one_when_its_jobs_are_deleted(shop):
    shop.broken.add("a")
    async with shop.q:
        run = await shop.workflows.enqueue(saga(shop))
        await shop.work()
        await delete(shop.q, f"{run.id}.b", f"{run.id}.b~undo")
        assert (await run.view()).status == "failed"


async def test_the_first_ends_of_a_workflow_that_is_resumed_often_may_be_deleted(shop):
    shop.broken.add("a")
    async with shop.q:
        run = await shop.workflows.enqueue(diamond(shop))
        for _ in range(12):
            await shop.work()
            await shop.workflows.resume(run.id)
        await delete(shop.q, run.id, *(f"{run.id}~{number}" for number in range(1, 12)))
        shop.broken.clear()
        await shop.work()
        assert (await run.result("10s"))["d"] == "d done"


async def test_a_workflow_may_be_resumed_very_often(shop):
    shop.broken.add("a")
    async with shop.q:
        run = await shop.workflows.enqueue(diamond(shop))
        for _ in range(23):
            await shop.work()
            await shop.workflows.resume(run.id)
        shop.broken.clear()
        await shop.work()
        assert (await run.result("10s"))["d"] == "d done"
        assert sorted(job.id for job in await shop.q.jobs(name="psyqueue.workflow", status="completed")) == [
            f"{run.id}~23"
        ]


async def test_an_id_belongs_to_one_tenant(shop):
    async with shop.q:
        await shop.workflows.enqueue(diamond(shop), id="order-1", tenant="acme")
        assert not (await shop.workflows.enqueue(diamond(shop), id="order-1", tenant="acme")).created
        with pytest.raises(IdConflict):
            await shop.workflows.enqueue(diamond(shop), id="order-1", tenant="umbrella")


async def test_meta_reaches_all_jobs_and_a_call_keeps_its_handler(shop):
    other = PsyQueue().handle("elsewhere", lambda: None, queue="mails", max_retries=7)
    flow = Flow("f").add("a", other.build(), compensate=other.build(), meta={"of": "step"})
    async with shop.q:
        run = await shop.workflows.enqueue(flow, meta={"customer": 7, "of": "all"})
        view = await run.view()
        step, undo, last = view.steps["a"], view.undoing["a"], await shop.q.get(run.id)
    assert (step.queue, step.max_retries, undo.queue, undo.max_retries) == ("mails", 7, "mails", 7)
    assert [(job.meta["customer"], job.meta["of"]) for job in (step, undo, last)] == [
        (7, "step"),
        (7, "all"),
        (7, "all"),
    ]


# ── look ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_what_is_no_workflow_is_not_found(shop):
    async with shop.q:
        job = await shop.do.enqueue("a")
        assert await shop.workflows.get("nothing") is None
        assert await shop.workflows.get(job.id) is None
        for call in (shop.workflows.cancel, shop.workflows.resume, lambda each: shop.workflows.run_of(each).wait()):
            with pytest.raises(JobNotFound):
                await call("nothing")


async def test_a_worker_runs_a_whole_workflow(shop):
    async with shop.q:
        shop.q.start_worker()
        run = await shop.workflows.enqueue(diamond(shop))
        assert await run.result("20s") == {name: f"{name} done" for name in "abcd"}
        other = shop.workflows.run_of(run.id)
        assert (await other.wait("5s")).status == "completed"

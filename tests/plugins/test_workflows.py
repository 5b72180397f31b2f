"""Flows and what may be in them; workflows in tests, in threads, without asyncio, in the caller's own transaction."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from psyqueue import ConfigError, Context, InvalidOption, NotStarted, PsyQueue, TooLarge
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.backends import memory, sqlite
from psyqueue.plugins import Flow, Workflows, results_of
from psyqueue.plugins.workflows.flow import STEPS_MAX


@pytest.fixture
def workflows() -> Workflows:
    return Workflows()


@pytest.fixture
def q(workflows: Workflows) -> PsyQueue:
    return PsyQueue().use(memory()).use(workflows)


async def step(n: int = 0) -> int:
    return n


# ── flows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("wrong", ["", None, "a~1", "a\nb", 7])
def test_a_step_needs_a_name(wrong: Any):
    with pytest.raises(InvalidOption, match="step"):
        Flow("f").add(wrong, "work")


@pytest.mark.parametrize("wrong", ["", None, 7])
def test_a_flow_needs_a_name(wrong: Any):
    with pytest.raises(InvalidOption, match="name"):
        Flow(wrong)


def test_names_of_steps_are_theirs_alone():
    with pytest.raises(InvalidOption, match="'a': is there already"):
        Flow("f").add("a", "work").add("a", "work")


@pytest.mark.parametrize(
    ("after", "problem"),
    [
        ("b", "no step that was added before 'c'. There are a"),
        (["a", "b"], "no step that was added before"),
        (["a", None], "no step that was added before"),
        (5, "neither the name of a step nor several"),
        ({"a": "done"}, "is no end of step 'a'. There are cancelled, completed, dead"),
        ({"a": ()}, "is no end of step 'a'"),
        ({"a": None}, "is no end of step 'a'"),
        ({"a": [["completed"]]}, "is no end of step 'a'"),
    ],
)
def test_a_step_waits_for_steps_before_it(after: Any, problem: str):
    with pytest.raises(InvalidOption, match=problem):
        Flow("f").add("a", "work").add("c", "work", after=after)


@pytest.mark.parametrize("option", ["id", "depends_on", "conn", "unique_key", "idempotency_key", "on_conflict"])
async def test_what_would_make_another_job_of_a_step_is_refused(q, workflows, option: str):
    with pytest.raises(InvalidOption, match=f"{option}=.*belong to it alone"):
        Flow("f").add("a", "work", **{option: "x"})
    if option in ("id", "unique_key"):
        handler = q.handle("work", step).options(**{option: "x"})
        with pytest.raises(InvalidOption, match=f"{option}=.*belong to it alone"):
            Flow("f").add("a", "work", compensate=handler)
    if option not in ("id", "conn"):
        async with q:
            with pytest.raises(InvalidOption, match=f"{option}=.*belong to it alone"):
                await workflows.enqueue(Flow("f").add("a", "work"), **{option: "x"})


def test_the_order_of_ends_means_nothing():
    flows = [
        Flow("f").add("a", "x").add("b", "x", after={"a": ends.split()})
        for ends in ("dead cancelled", "cancelled dead")
    ]
    assert len({flow.digest() for flow in flows}) == 1


async def test_meta_is_a_mapping(q, workflows):
    with pytest.raises(InvalidOption, match="meta=5"):
        Flow("f").add("a", "work", meta=5)
    async with q:
        with pytest.raises(InvalidOption, match="meta="):
            await workflows.enqueue(Flow("f").add("a", "work"), meta=[1])


def test_a_handler_with_unique_keys_is_no_step(q):
    handler = q.handle("once", step, unique=True)
    with pytest.raises(InvalidOption, match="'once': has unique="):
        Flow("f").add("a", handler.build(1))


def test_only_calls_and_names_are_steps(q):
    with pytest.raises(InvalidOption, match=r"handler\.build"):
        Flow("f").add("a", object())


async def test_a_handler_stands_for_its_call_and_options_are_kept(q, workflows):
    handler = q.handle("work", step, queue="w").options(priority=3, meta={"by": "ada"})
    flow = Flow("f").add("a", handler).add("b", handler, {"n": 4}).add("c", handler.build(5), priority=7)
    async with q:
        run = await workflows.enqueue(flow)
        steps = (await run.view()).steps
    assert {name: (job.payload, job.priority) for name, job in steps.items() if job is not None} == {
        "a": ({}, 3),
        "b": ({"n": 4}, 0),
        "c": ({"n": 5}, 7),
    }
    assert steps["c"] is not None
    assert steps["c"].meta["by"] == "ada"


async def test_the_largest_flow_is_one_step_of_the_store(q, workflows):
    handler = q.handle("work", step, queue="w")
    flow = Flow("f")
    for number in range(STEPS_MAX):
        flow.add(f"s{number}", handler.build(number), after=[f"s{number - 1}"] if number else (), compensate=handler)
    with pytest.raises(InvalidOption, match=f"one more than {STEPS_MAX}"):
        flow.add("more", handler)
    assert len(list(flow.items("id", {}))) <= ITEMS_MAX
    async with q.testing() as t:
        run = await workflows.enqueue(flow)
        await t.drain()
        assert len(await run.result("1s")) == STEPS_MAX


async def test_a_flow_too_large_for_one_step_is_refused_before_anything_is_written(q, workflows):
    flow = Flow("f")
    for number in range(10):
        flow.add(f"s{number}", "work", "x" * 1_000_000)
    async with q:
        with pytest.raises(TooLarge, match="flow 'f'"):
            await workflows.enqueue(flow)
        assert len(await q.jobs()) == 0


@pytest.mark.parametrize("wrong", [None, "f", {"steps": []}])
async def test_only_flows_with_steps_are_enqueued(q, workflows, wrong: Any):
    async with q:
        with pytest.raises(InvalidOption, match="not a Flow"):
            await workflows.enqueue(wrong)
        with pytest.raises(ConfigError, match="'f' has no steps"):
            await workflows.enqueue(Flow("f"))


@pytest.mark.parametrize("wrong", ["", "a~b", None, "x" * 199, "x" * 180])
async def test_an_id_that_cannot_be_is_refused(q, workflows, wrong: Any):
    async with q:
        with pytest.raises(InvalidOption, match="id="):
            await workflows.enqueue(Flow("f").add("step", "work"), id=wrong or "")
        assert len(await q.jobs()) == 0


# ── where they run ────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_test_runs_a_whole_workflow(q, workflows):
    handler = q.handle("work", step, queue="w")
    async with q.testing() as t:
        run = await workflows.enqueue(Flow("f").add("a", handler.build(1)).add("b", handler.build(2), after="a"))
        await t.drain()
        assert await run.result("1s") == {"a": 1, "b": 2}


async def test_a_thread_sees_the_results(q, workflows):
    @q.handle("plain", queue="w")
    def plain(ctx: Context) -> Any:
        return results_of(ctx)

    flow = Flow("f").add("a", q.handle("work", step, queue="w").build(3)).add("b", plain, after="a")
    async with q.testing() as t:
        run = await workflows.enqueue(flow)
        await t.drain()
        assert await run.result("1s") == {"a": 3, "b": {"a": 3}}


async def test_outside_of_a_workflow_there_are_no_results(q):
    seen: list[Any] = []

    @q.handle("plain", queue="w")
    async def plain(ctx: Context) -> None:
        seen.append(results_of(ctx))

    async with q:
        for own in ("a word of the application's own", {"after": "x"}, {"id": "x", "after": 7}):
            await plain.options(meta={"workflow": own}).enqueue()
            await q.process_next("w")
    assert seen == [{}, {}, {}]


def test_programs_without_asyncio_have_the_same_verbs(tmp_path):
    workflows = Workflows()
    q = PsyQueue().use(sqlite(path=tmp_path / "jobs.db")).use(workflows)
    handler = q.handle("work", step, queue="w")
    with q.sync:
        q.sync.start_worker()
        run = workflows.sync.enqueue(Flow("f").add("a", handler.build(1)), id="one")
        assert workflows.sync.result(run.id, "20s") == {"a": 1}
        view = workflows.sync.get("one")
        assert view is not None
        assert view.status == "completed"


async def test_a_workflow_in_the_callers_transaction_is_there_with_it(tmp_path):
    workflows = Workflows()
    path = tmp_path / "jobs.db"
    q = PsyQueue().use(sqlite(path=path)).use(workflows)
    handler = q.handle("work", step, queue="w")
    started: list[str] = []
    q.events.on("workflow:started", lambda event: started.append(event.data["workflow_id"]))
    connection = sqlite3.connect(path)
    async with q:
        for ending, count in (("rollback", 0), ("commit", 3)):
            flow = Flow("f").add("a", handler.build(1)).add("b", handler.build(2), after="a")
            await workflows.enqueue(flow, conn=connection)
            getattr(connection, ending)()
            assert len(await q.jobs()) == count
    connection.close()
    assert started == []


# ── wrong use ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_workflows_are_for_one_queue(workflows, q):
    with pytest.raises(ConfigError, match="another queue"):
        PsyQueue().use(workflows)


async def test_they_need_a_queue_that_runs(q, workflows):
    with pytest.raises(ConfigError, match=r"q\.use\(workflows\)"):
        await Workflows().get("one")
    with pytest.raises(NotStarted):
        await workflows.enqueue(Flow("f").add("a", "work"))
    with pytest.raises(InvalidOption, match="queue"):
        Workflows(queue="")

"""Plugins: what use() refuses, the order of start and stop, and that nothing half-done stays."""

from __future__ import annotations

import asyncio

import click
import pytest

from psyqueue import (
    CircularDependencyError,
    ConfigError,
    DependencyError,
    LifecycleError,
    NotStarted,
    PluginError,
    PsyQueue,
)
from psyqueue.backends import memory
from psyqueue.kernel import services
from support.kernel import FakeClock, Heard, build, next_turn


class Told:
    """A plugin that writes its steps into `log`."""

    def __init__(self, name, log=None, *, provides=(), depends=(), fails=()):
        self.name, self.provides, self.depends = name, provides, depends
        self.log = [] if log is None else log
        self._fails = fails

    def _step(self, what):
        self.log.append(f"{self.name} {what}")
        if what in self._fails:
            raise ValueError(f"{self.name} cannot {what}")

    def init(self, kernel):
        self._step("init")

    async def start(self):
        self._step("start")

    def stop(self):
        self._step("stop")

    async def destroy(self):
        self._step("destroy")


def plugin(**attributes):
    return type("Made", (), attributes)()


# ── use() ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("misfit", "text"),
    [
        (plugin(), "'Made'.*has no `name`"),
        (plugin(name=""), "its name has 0 characters"),
        (plugin(name=7), "its name is int"),
        (plugin(name="x", version=1), "'x'.*version"),
        (plugin(name="x", provides=7), "'x'.*provides"),
        (plugin(name="x", depends=[""]), "'x'.*depends"),
        (plugin(name="x", init=lambda self: None), r"'x'.*init must be callable as init\(kernel\)"),
        (plugin(name="x", start=lambda self, other: None), r"'x'.*start must be callable as start\(\)"),
        (plugin(name="x", stop=7), "'x'.*stop must be callable"),
        (Told, "is a type, not a plugin; call it"),
        ("sqlite:./jobs.db", r"text is no plugin.*PsyQueue\.from_url"),
        (memory, r"is a function, not a plugin; call it: use\(memory"),
    ],
)
def test_misfit_is_refused_by_name_and_problem(misfit, text):
    with pytest.raises(PluginError, match=text):
        PsyQueue().use(misfit)


def test_async_init_is_refused():
    async def init(self, kernel): ...

    with pytest.raises(PluginError, match="init must be a plain function"):
        PsyQueue().use(plugin(name="x", init=init))


def test_second_plugin_of_a_name_is_refused():
    q = PsyQueue().use(Told("one"))
    with pytest.raises(PluginError, match=r"'one'.*used twice"):
        q.use(Told("one"))


def test_second_provider_of_a_capability_is_refused_naming_both():
    q = PsyQueue().use(Told("one", provides="clock"))
    with pytest.raises(PluginError, match=r"'two'.*'clock'.*'one'"):
        q.use(Told("two", provides=("x", "clock")))


def test_second_backend_is_refused():
    with pytest.raises(PluginError, match="backend-memory"):
        PsyQueue().use(memory()).use(memory())


def test_what_is_no_backend_is_refused_listing_what_it_lacks():
    half = plugin(name="half", init=lambda self, kernel: kernel.backend(object()))
    with pytest.raises(PluginError, match=r"'half'.*lacks advance_clock.*settle"):
        PsyQueue().use(half)


async def shown() -> tuple[str, bytes]:
    return "text/plain", b"shown"


@pytest.mark.parametrize(
    "register",
    [
        lambda kernel: kernel.pipeline("process", lambda ctx, call_next: None),
        lambda kernel: kernel.service(lambda: None),
        lambda kernel: kernel.wrap_backend(lambda: None),
        lambda kernel: kernel.command("not a command"),
        lambda kernel: kernel.page("/page", lambda: ("text/plain", b"")),
        lambda kernel: kernel.page("page", shown),
        lambda kernel: kernel.page("/a page", shown),
        lambda kernel: kernel.page("/healthz", shown),
        lambda kernel: kernel.expose("", object()),
        lambda kernel: kernel.expose("backend", object()),
    ],
)
def test_wrong_registration_is_refused_with_the_plugins_name(register):
    with pytest.raises(PluginError, match="'x'"):
        PsyQueue().use(plugin(name="x", init=lambda self, kernel: register(kernel)))


async def test_failed_init_leaves_nothing_behind():
    """D-103: the name, exposures, middleware and subscriptions of the failed plugin are gone; using it again works."""
    ran = []

    async def spy(ctx, call_next):
        ran.append("middleware")
        await call_next()

    def init(self, kernel):
        kernel.expose("api", self)
        kernel.pipeline("enqueue", spy)
        kernel.events.on("*", lambda event: ran.append("event"))
        kernel.service(self.serve)
        kernel.command(click.Command("cmd"))
        kernel.page("/page", shown)
        if self.fails:
            raise ValueError("not ready")

    async def serve(self):
        ran.append("service")

    one = plugin(name="one", init=init, fails=True, serve=serve)
    q = PsyQueue().use(memory())
    with pytest.raises(ValueError, match="not ready"):
        q.use(one)
    with pytest.raises(ConfigError, match="'api'"):
        q.get_exposed("api")
    assert q.commands == ()
    assert q._core.registry.pages == {}
    async with q:
        await q.enqueue("job")
        await next_turn()
    assert ran == []
    one.fails = False
    assert PsyQueue().use(one).get_exposed("api") is one


def test_exposed_api_is_found_and_a_missing_one_lists_what_there_is():
    q = PsyQueue().use(plugin(name="x", init=lambda self, kernel: kernel.expose("clock", 7)))
    assert q.get_exposed("clock") == 7
    with pytest.raises(ConfigError, match=r"'calendar'.*clock"):
        q.get_exposed("calendar")


def test_commands_of_plugins_are_collected_and_a_taken_name_is_refused():
    adds = plugin(name="a", init=lambda self, kernel: kernel.command(click.Command("cron")))
    q = PsyQueue().use(adds)
    assert [command.name for command in q.commands] == ["cron"]
    with pytest.raises(PluginError, match=r"'b'.*'cron'"):
        q.use(plugin(name="b", init=lambda self, kernel: kernel.command(click.Command("cron"))))


def test_pages_of_plugins_are_collected_and_a_taken_path_is_refused():
    q = PsyQueue().use(plugin(name="a", init=lambda self, kernel: kernel.page("/a/page", shown)))
    assert dict(q._core.registry.pages) == {"/a/page": shown}
    with pytest.raises(PluginError, match=r"'b'.*'/a/page'"):
        q.use(plugin(name="b", init=lambda self, kernel: kernel.page("/a/page", shown)))


# ── order ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_plugins_start_after_what_they_depend_on_and_stop_in_reverse():
    log: list[str] = []
    q = PsyQueue().use(memory())
    q.use(Told("report", log, depends=("calendar", "mail")))
    q.use(Told("mail", log, depends="backend"))
    q.use(Told("cron", log, provides="calendar"))
    q.use(Told("free", log))
    log.clear()
    async with q:
        assert log == ["mail start", "cron start", "report start", "free start"]
        log.clear()
    stops = [f"{name} stop" for name in ("free", "report", "cron", "mail")]
    assert log == stops + [step.replace("stop", "destroy") for step in stops]


async def test_missing_dependency_is_named_and_nothing_starts():
    log: list[str] = []
    q = PsyQueue().use(memory()).use(Told("report", log, depends="calendar"))
    with pytest.raises(DependencyError, match=r"'report'.*'calendar'") as caught:
        await q.start()
    assert caught.value.missing == "calendar"
    assert log == ["report init"]


async def test_missing_backend_is_named_with_the_way_out():
    with pytest.raises(DependencyError, match=r"needs 'backend'.*use\(sqlite"):
        await PsyQueue().start()


async def test_ring_is_listed_exactly_without_bystanders():
    q = PsyQueue().use(memory()).use(Told("waits", depends="a"))
    q.use(Told("a", depends="b")).use(Told("b", depends="cap")).use(Told("c", provides="cap", depends="a"))
    with pytest.raises(CircularDependencyError) as caught:
        await q.start()
    assert caught.value.ring == ["a", "b", "c"]
    assert "a → b → c → a" in str(caught.value)


async def test_plugin_that_needs_itself_is_a_ring_of_one():
    q = PsyQueue().use(memory()).use(Told("a", provides="cap", depends="cap"))
    with pytest.raises(CircularDependencyError) as caught:
        await q.start()
    assert caught.value.ring == ["a"]


# ── start and stop ────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_half_failed_start_is_rolled_back_and_may_be_repeated():
    log: list[str] = []
    q, probe = build()
    q.use(Told("one", log))
    two = Told("two", log, fails=("start",))
    q.use(two).use(Told("three", log))
    log.clear()
    with pytest.raises(ValueError, match="two cannot start"):
        await q.start()
    assert log == ["one start", "two start", "two stop", "one stop", "two destroy", "one destroy"]
    assert probe.store.count("disconnect") == 1
    with pytest.raises(NotStarted):
        await q.enqueue("job")
    two._fails = ()
    await q.start()
    assert (await q.enqueue("job")).created
    await q.stop()


async def test_what_a_plugin_exposes_while_starting_is_taken_back_with_a_failed_start():
    class Late:
        name = "late"
        fails = True

        def init(self, kernel):
            self.kernel = kernel

        def start(self):
            self.kernel.expose("late", 1)
            if self.fails:
                raise ValueError("down")

    late = Late()
    q = PsyQueue().use(memory()).use(late)
    with pytest.raises(ValueError, match="down"):
        await q.start()
    late.fails = False
    async with q:
        assert q.get_exposed("late") == 1


async def test_store_that_cannot_connect_leaves_plugins_unstarted():
    log: list[str] = []
    q, probe = build()
    q.use(Told("one", log))
    log.clear()

    def broken(adapter):
        wrapped = probe.wrap(adapter)
        wrapped.before["connect"] = refuse
        return wrapped

    async def refuse():
        raise OSError("no store")

    q.use(plugin(name="breaks", init=lambda self, kernel: kernel.wrap_backend(broken)))
    with pytest.raises(OSError, match="no store"):
        await q.start()
    assert log == []


async def test_one_failing_stop_never_stops_the_others(caplog):
    log: list[str] = []
    q, probe = build()
    q.use(Told("one", log)).use(Told("two", log, fails=("stop",))).use(Told("three", log, fails=("destroy",)))
    await q.start()
    log.clear()
    with pytest.raises(ExceptionGroup) as caught:
        await q.stop()
    assert [str(exc) for exc in caught.value.exceptions] == ["two cannot stop", "three cannot destroy"]
    assert log == ["three stop", "two stop", "one stop", "three destroy", "two destroy", "one destroy"]
    assert probe.store.count("disconnect") == 1
    assert "plugin failed to stop" in caplog.text


async def test_a_single_failure_of_stop_is_raised_as_itself():
    q = PsyQueue().use(memory()).use(Told("one", fails=("stop",)))
    await q.start()
    with pytest.raises(ValueError, match="one cannot stop"):
        await q.stop()


async def test_registering_after_start_is_refused(started):
    kernels = []
    with pytest.raises(LifecycleError, match=r"use\(\) after start"):
        started.use(Told("late"))
    with pytest.raises(LifecycleError, match=r"pipeline\(\) after start"):
        started.pipeline("process", None)
    q = PsyQueue().use(memory()).use(plugin(name="x", init=lambda self, kernel: kernels.append(kernel)))
    async with q:
        (kernel,) = kernels

        async def serve(): ...

        with pytest.raises(LifecycleError, match=r"service\(\)"):
            kernel.service(serve)


async def test_events_tell_start_and_stop_once_and_around_everything():
    log: list[str] = []
    q = PsyQueue().use(memory()).use(Told("one", log))
    q.events.on("kernel:*", lambda event: log.append(event.type))
    async with q:
        pass
    assert log == ["one init", "one start", "kernel:started", "one stop", "one destroy", "kernel:stopped"]


# ── services ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def with_service(serve, clock=None):
    q, _ = build(clock=clock)
    return q.use(plugin(name="svc", init=lambda self, kernel: kernel.service(serve)))


async def test_service_runs_from_start_to_stop():
    log = []

    async def serve():
        log.append("up")
        try:
            await asyncio.Event().wait()
        finally:
            log.append("down")

    async with with_service(serve):
        await next_turn()
        assert log == ["up"]
    assert log == ["up", "down"]


async def test_service_that_fails_is_logged_told_and_started_again_with_growing_pauses(caplog):
    clock, runs, done = FakeClock(), [], asyncio.Event()

    async def serve():
        runs.append(clock.mono_ms())
        if len(runs) == 4:
            done.set()
            await asyncio.Event().wait()
        raise ValueError(f"run {len(runs)}")

    q = with_service(serve, clock)
    heard = Heard(q.events, "service:error")
    async with q:
        await asyncio.wait_for(done.wait(), 5)
    pauses = clock.slept[:3]
    for pause, full in zip(pauses, (1000, 2000, 4000), strict=True):
        assert full / 2 <= pause <= full
    told = heard.data("service:error")
    assert [data["restart_in_ms"] for data in told] == [1000, 2000, 4000]
    assert "svc." in told[0]["service"]
    assert "run 1" in told[0]["error"]
    assert "run 1" in caplog.text


async def test_service_that_ignores_its_end_does_not_keep_the_queue(monkeypatch, caplog):
    monkeypatch.setattr(services, "STOP_MS", 10)
    heard, may_end = [], asyncio.Event()

    async def serve():
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                heard.append("cancel")

    q = with_service(serve)
    await q.start()
    await next_turn()
    try:
        await asyncio.wait_for(q.stop(), 20)
    finally:
        may_end.set()
    assert heard[:1] == ["cancel"]
    assert "service ignores its end" in caplog.text


async def test_service_that_returns_is_not_started_again():
    runs = []

    async def serve():
        runs.append(1)

    async with with_service(serve):
        for _ in range(5):
            await next_turn()
    assert runs == [1]


async def test_wrappers_of_the_store_are_applied_in_order_and_the_plugin_sees_the_outermost():
    kernels = []

    class Layer:
        def __init__(self, name):
            self.name = name

        def init(self, kernel):
            kernel.wrap_backend(self.wrap)
            kernels.append(kernel)

        def wrap(self, adapter):
            self.inner = adapter
            self.made = type("Layered", (), {"__getattr__": lambda _, verb: getattr(adapter, verb)})()
            return self.made

    inner, outer = Layer("inner"), Layer("outer")
    q = PsyQueue().use(memory()).use(inner).use(outer)
    with pytest.raises(NotStarted):
        _ = kernels[0].store
    async with q:
        assert outer.inner is inner.made
        assert kernels[0].store is outer.made
        assert q.get_exposed("backend") is outer.made


async def test_wrapper_that_returns_no_backend_is_refused_with_its_name():
    q = PsyQueue().use(memory())
    q.use(plugin(name="lost", init=lambda self, kernel: kernel.wrap_backend(lambda adapter: None)))
    with pytest.raises(PluginError, match=r"'lost'.*returned None"):
        await q.start()

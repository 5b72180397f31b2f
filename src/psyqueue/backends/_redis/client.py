"""One connected client: its links, and what they need to know of the server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from psyqueue.backend import Info, SessionKeeper
from psyqueue.backend.failpoints import failpoint
from psyqueue.backend.state_rules import TEST_EPOCH_MS
from psyqueue.backends._redis.blocking import BlockingLink
from psyqueue.backends._redis.facts import Facts, facts, require_usable, survives, warnings
from psyqueue.backends._redis.faults import ReplyError, translate
from psyqueue.backends._redis.keeper import Keeper
from psyqueue.backends._redis.link import Link
from psyqueue.backends._redis.options import RedisOptions
from psyqueue.backends._redis.scripts import FUNCTIONS_SINCE, SCHEMA, Scripts
from psyqueue.backends._redis.signals import Signals
from psyqueue.backends._redis.topics import Topics
from psyqueue.errors import SchemaTooNew, StoreUnavailable, StoreUnusable
from psyqueue.ids import new_token

_FINISH_MS: Final = 1_000
"""For the replies of calls on their way when the client disconnects."""


class Client:
    """Connected between `connect` and `disconnect`, both idempotent."""

    def __init__(self, options: RedisOptions) -> None:
        self._options = options
        self._id = new_token()
        self._link: Link | None = None
        self._scripts: Scripts | None = None
        self._signals: Signals | None = None
        self._topics: Topics | None = None
        self._connecting = asyncio.Lock()
        self._running = 0
        """Scripts that were sent and not answered."""
        self._is_idle = asyncio.Event()

    async def connect(self) -> None:
        async with self._connecting:
            if self._link is None:
                await self._connect()

    async def _connect(self) -> None:
        options = self._options
        link = Link(options.address)
        try:
            found = await facts(link, options)
            require_usable(found, options)
            scripts = Scripts(link, options.base, has_functions=found.version >= FUNCTIONS_SINCE)
            await self._open_namespace(scripts)
        except BaseException:
            await link.close()
            raise
        self._link, self._scripts = link, scripts
        self._signals = Signals(lambda: Link(options.address), self, options.base, self._id)
        self._topics = Topics(options.address, link, options.base, self._id)

    async def _open_namespace(self, scripts: Scripts) -> None:
        start = TEST_EPOCH_MS if self._options.test_clock else ""
        try:
            schema, *_, test = await scripts.run("create", start)
        except ReplyError as exc:
            raise translate(exc, self._options.address.place) from exc
        where = f"the keys {self._options.base}* on {self._options.address.place}"
        if not schema.isdigit():
            raise StoreUnusable(f"{where} are not psyqueue's own. Give another key_prefix")
        if int(schema) > SCHEMA:
            raise SchemaTooNew(f"{where} have schema {int(schema)}; this psyqueue knows {SCHEMA}. Upgrade it")
        if int(schema) < SCHEMA:
            text = f"{where} were made by a version before the first release, with schema {int(schema)}"
            raise StoreUnusable(f"{text}. Run its jobs with that version to their end, or give another key_prefix")
        if (test is not None) != self._options.test_clock:
            made = "with" if test is not None else "without"
            raise StoreUnusable(f"{where} were made {made} test_clock=True. Open them so, or give another key_prefix")

    async def disconnect(self) -> None:
        link, signals, topics = self._link, self._signals, self._topics
        if link is None or signals is None or topics is None:
            return
        await signals.close()
        await topics.close()
        self._link = self._scripts = self._signals = self._topics = None
        if self._running:
            self._is_idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FINISH_MS / 1000):
                    await self._is_idle.wait()
        await link.close()

    # ── what is connected ─────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def signals(self) -> Signals:
        if self._signals is None:
            raise _not_connected()
        return self._signals

    @property
    def topics(self) -> Topics:
        if self._topics is None:
            raise _not_connected()
        return self._topics

    def keeper(self) -> SessionKeeper:
        if self._scripts is None:
            raise _not_connected()
        link = BlockingLink(self._options.address)
        return Keeper(link, self._options.base, has_functions=self._scripts.has_functions)

    async def run(self, script: str, /, *args: bytes | str | int) -> Any:
        """A script's reply. Raises StoreError."""
        if self._scripts is None:
            raise _not_connected()
        failpoint(f"redis.{script}.before")
        self._running += 1
        try:
            reply = await self._scripts.run(script, *args)
        except ReplyError as exc:
            raise translate(exc, self._options.address.place) from exc
        finally:
            self._running -= 1
            if not self._running:
                self._is_idle.set()
        failpoint(f"redis.{script}.after")
        return reply

    async def info(self) -> Info:
        if self._link is None:
            raise _not_connected()
        found = await self._facts()
        schema, mode, epoch, moved_to, now_ms = await self.run("info")
        return Info(
            store=found.kind,
            version=found.version_text,
            schema=int(schema or 0),
            now_ms=now_ms,
            mode=mode.decode(),
            epoch=epoch,
            moved_to=moved_to.decode(),
            **survives(found),
            warnings=warnings(found, self._options),
        )

    async def _facts(self) -> Facts:
        assert self._link is not None
        try:
            return await facts(self._link, self._options)
        except ReplyError as exc:
            raise translate(exc, self._options.address.place) from exc


def _not_connected() -> StoreUnavailable:
    return StoreUnavailable("the Redis store is not connected: call connect()", outcome="refused")

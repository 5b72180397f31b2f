"""What an operator tells a worker: to take no more jobs and end. Kept in the store, and said in its session's topic.

The word in the topic only means: look. When it is lost, the order is found with the next renewal of the lease.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from psyqueue.backend import Effects, StateWrite
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.kernel.cancels import session_topic

if TYPE_CHECKING:
    from psyqueue.backend import BackendAdapter
    from psyqueue.kernel.core import Core

log: logging.Logger = logging.getLogger(__name__)

KEPT_MS = 7 * 86_400_000
LISTEN_AGAIN_MS = 5_000
SESSIONS_KEPT = 8
"""An order to a session that was reaped is meant for the worker, which has a new one since."""


class Order(Struct, frozen=True, omit_defaults=True):
    """drain: what runs may end, however long it takes. stop: within the grace, None is the worker's own."""

    kind: Literal["drain", "stop"]
    grace_ms: int | None = None


async def give_order(core: Core, session_ids: Sequence[str], order: Order) -> None:
    """Of two orders the later counts."""
    body = _encode(order)
    for at in range(0, len(session_ids), ITEMS_MAX):
        some = session_ids[at : at + ITEMS_MAX]
        writes = tuple(StateWrite(kind="put", key=_key(each), value=body, ttl_ms=KEPT_MS) for each in some)
        await _write(core, Effects(writes=writes))
    for each in session_ids:
        await core.backend.publish(session_topic(each), (b"null",))


async def read_orders(backend: BackendAdapter, session_ids: Sequence[str]) -> tuple[Order | None, ...]:
    """The order that each session was given; None also for one that cannot be read."""
    found: list[Order | None] = []
    for at in range(0, len(session_ids), ITEMS_MAX):
        items = await backend.read_state([_key(each) for each in session_ids[at : at + ITEMS_MAX]])
        found += [None if item is None else _read(item.value) for item in items]
    return tuple(found)


class Heeder:
    """Listens for one worker. `on_word`: something concerns its jobs. `on_order`: of each new order, once."""

    def __init__(
        self, core: Core, worker: str, *, on_word: Callable[[], None], on_order: Callable[[Order], None]
    ) -> None:
        self._core = core
        self._worker = worker
        self._on_word = on_word
        self._on_order = on_order
        self._sessions: deque[str] = deque(maxlen=SESSIONS_KEPT)
        self._seen: Order | None = None

    async def work(self, session_id: str) -> None:
        """Who cancels a job that the session holds says so here, and who gives it an order.

        A store that cannot be listened to is no trouble: then the next call or renewal brings the news.
        """
        self._sessions.append(session_id)
        while True:
            try:
                async for _ in self._core.backend.subscribe((session_topic(session_id),)):
                    self._on_word()
                    await self.look()
            except Exception as exc:  # noqa: BLE001 - as it says
                log.warning("cancels are heard of late", extra={"worker": self._worker, "error": str(exc)})
            await self._core.clock.sleep_ms(LISTEN_AGAIN_MS)

    async def look(self) -> None:
        """Whether there is an order, now."""
        try:
            orders = await read_orders(self._core.backend, tuple(self._sessions))
        except Exception as exc:  # noqa: BLE001 - the next renewal looks again
            log.debug("orders not read", extra={"worker": self._worker, "error": str(exc)})
            return
        given = [order for order in orders if order is not None]
        if given and given[-1] != self._seen:
            self._seen = given[-1]
            log.info("ordered to end", extra={"worker": self._worker, "order": self._seen.kind})
            self._on_order(self._seen)


async def _write(core: Core, effects: Effects) -> None:
    await core.operate(lambda op: core.backend.write_state(op, effects))


def _key(session_id: str) -> str:
    return f"order:{session_id}"


def _read(body: bytes) -> Order | None:
    try:
        return _decode(body)
    except msgspec.MsgspecError:
        return None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Order).decode

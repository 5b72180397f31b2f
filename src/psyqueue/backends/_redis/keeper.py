"""The lease thread's own way to the server: renewals do not pass through the event loop."""

from __future__ import annotations

from psyqueue.backend import Renewal
from psyqueue.backend.failpoints import failpoint
from psyqueue.backends._redis import decoding
from psyqueue.backends._redis.blocking import BlockingLink
from psyqueue.backends._redis.faults import ReplyError, translate
from psyqueue.backends._redis.scripts import is_unknown, script


class Keeper:
    """One connection, made when it is needed and again after a loss."""

    def __init__(self, link: BlockingLink, base: str, *, has_functions: bool) -> None:
        self._link = link
        self._base = base
        self._renew = script("renew", has_functions=has_functions)

    def renew(self, session_id: str) -> Renewal:
        """Extend the lease to now + lease. Raises StoreError; the caller tries again until it knows."""
        failpoint("redis.renew.before")
        try:
            reply = self._call(session_id)
        except ReplyError as exc:
            raise translate(exc, self._link.place) from exc
        failpoint("redis.renew.after")
        return decoding.renewal_of(reply)

    def close(self) -> None:
        self._link.close()

    def _call(self, session_id: str) -> list[object]:
        renew = self._renew
        try:
            reply = self._link.call("EVALSHA", renew.name, 1, self._base, session_id)
        except ReplyError as exc:
            if not is_unknown(exc):
                raise
            reply = self._link.call("EVAL", renew.text, 1, self._base, session_id)
        assert isinstance(reply, list), reply
        return reply

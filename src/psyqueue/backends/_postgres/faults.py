"""What the server, the driver and the network say went wrong, in the words of psyqueue."""

from __future__ import annotations

import json
import socket
import ssl
from typing import Final

import asyncpg

from psyqueue.backends._postgres.carriers import causes
from psyqueue.backends.refusals import refusal
from psyqueue.errors import (
    InvalidOption,
    InvalidState,
    PsyQueueError,
    StoreBusy,
    StoreFull,
    StoreUnavailable,
    StoreUnusable,
)

REFUSED: Final = "PQ001"
_ISOLATED: Final = "PQ003"
AGAIN: Final = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.UniqueViolationError)
"""The step was taken back whole, and may be done again at once. The last: two took the same id in the same moment."""

CALL_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    UnicodeEncodeError,
)
"""All that a call can end with. TimeoutError is an OSError."""

_POOLED: Final = "hands each call to another session, as a pooler in transaction mode does. Give prepared=False"
_UNUSABLE: Final = {
    "28": "does not let this user in. Look at user= and password=, and at the server's pg_hba.conf",
    "3D": "has no such database. Look at database=, or create it",
    "42501": "does not allow this user what psyqueue needs. `psyqueue schema up --grant ROLE` gives it the rights",
    "42P01": "lacks a table of psyqueue: the schema was dropped or changed. Connect anew, or restore it",
    "26": _POOLED,
    "42P05": _POOLED,
    "42883": "lacks a function of psyqueue: the schema was dropped or changed. Connect anew, or restore it",
    "3F": "lacks the schema: it was dropped. Connect anew, or restore it",
    "58": "cannot use its own files. Look at its log",
    "XX001": "says that its data is corrupt. Look at its log",
    "XX002": "says that an index is corrupt. Look at its log, and reindex",
}
_BUSY: Final = {
    "40": "somebody else was in the way again and again",
    "55P03": "somebody else holds a lock for too long",
    "57014": "the server ended the statement (its statement_timeout, or an operator)",
    "25P04": "the server ended the transaction (its transaction_timeout)",
    "53200": "the server is out of memory for this",
}
_READ_ONLY: Final = "is read-only: a replica, perhaps. Point psyqueue to the primary"
_REFUSED_NOW: Final = {
    "53300": "has no connection left. Raise its max_connections, or lower max_size=",
    "57P03": "is starting or stopping. Try again soon",
    "25006": _READ_ONLY,
    "0A000": _READ_ONLY,  # a replica refuses to read the one table of ours that is not logged
}


def translate(exc: BaseException, place: str) -> PsyQueueError:
    """The error to raise `from exc`; psyqueue's own pass unchanged."""
    if isinstance(exc, PsyQueueError):
        return exc
    if isinstance(exc, asyncpg.PostgresError):
        return _of_server(exc, place)
    if isinstance(exc, asyncpg.DataError | asyncpg.exceptions.UnsupportedClientFeatureError | UnicodeEncodeError):
        return InvalidOption("argument", str(exc)[:60], "is nothing that PostgreSQL can hold")
    if isinstance(exc, TimeoutError):
        return lost(place, "no reply within statement_timeout")
    return lost(place, f"the connection was lost ({type(exc).__name__})")


def _of_server(exc: asyncpg.PostgresError, place: str) -> PsyQueueError:
    return _of_state(exc.sqlstate or "", _said(exc), exc.detail, place)


def _said(exc: BaseException) -> str:
    return str(exc.args[0]) if exc.args else ""


def _of_state(code: str, said: str, detail: str | None, place: str) -> PsyQueueError:
    """`said` is the server's text, without DETAIL, which may show values."""
    text = f"{code} {said}".strip()
    if code == REFUSED:
        name, *facts = json.loads(detail or "[]")
        return refusal(name, facts)
    if code == _ISOLATED:
        return isolated(place, said)
    if code in ("53100", "53400"):
        return StoreFull(f"{place}: the server's disk is full; nothing was written. Free some room", server=place)
    if words := _found(_REFUSED_NOW, code):
        return StoreUnavailable(f"{place} {words}", outcome="refused", server=place)
    if words := _found(_BUSY, code):
        return StoreBusy(f"{place}: {words}; nothing was written. Try again", server=place)
    if words := _found(_UNUSABLE, code):
        return StoreUnusable(f"{place} {words} ({text})", server=place)
    if code.startswith("22"):
        return InvalidOption("argument", text, "is nothing that PostgreSQL can hold")
    if code.startswith(("08", "57")):
        return lost(place, f"the server hung up ({text})")
    return StoreUnusable(f"{place} says: {text}. This is a defect of psyqueue, or of its schema", server=place)


def _found(table: dict[str, str], code: str) -> str | None:
    return table.get(code) or table.get(code[:2])


# ── in a transaction of the caller's own ──────────────────────────────────────────────────────────────────────────────
_AGAIN_WHOLE: Final = "roll back, and do the whole transaction again"


def of_callers_server(code: str, said: str, detail: str | None, place: str) -> PsyQueueError:
    """Whatever is wrong: nothing of the call was written, and nothing will be unless the caller commits."""
    if code == "25P02":
        return InvalidState("the transaction of the caller has failed before: roll it back, and begin another one")
    if code == "25P03":
        return InvalidState("the server ended the caller's transaction: it was idle for too long. Begin another one")
    if code == "25006":
        return InvalidState("the transaction of the caller is read-only: begin one that writes, on the primary")
    if code.startswith("40") or code == "23505":
        # The second: a key that was taken after a transaction in repeatable read began to look.
        text = f"{place}: the caller's transaction and another one met ({code} {said}); {_AGAIN_WHOLE}"
        return StoreBusy(text, server=place)
    if code == "57014":
        text = f"{place}: the statement was cancelled, by its statement_timeout or by somebody; {_AGAIN_WHOLE}"
        return StoreBusy(text, server=place)
    if code.startswith(("08", "57")):
        return _gone(place, f"{code} {said}")
    return _of_state(code, said, detail, place)


def of_caller(exc: BaseException, place: str) -> PsyQueueError:
    """What the library of the caller's connection raised."""
    for each in causes(exc):
        code = getattr(each, "sqlstate", None)
        if isinstance(code, str):
            return of_callers_server(code, _said(each).partition("\n")[0], None, place)
    if isinstance(exc, TimeoutError):
        return StoreBusy(f"{place}: no reply within the time limit of the caller's connection; {_AGAIN_WHOLE}")
    if isinstance(exc, OSError | asyncpg.InternalClientError) or any(map(_is_loss, causes(exc))):
        return _gone(place, type(exc).__name__)
    if isinstance(exc, UnicodeEncodeError):
        return InvalidOption("argument", str(exc)[:60], "is nothing that PostgreSQL can hold")
    said = str(exc).partition("\n")[0]
    return InvalidState(f"the connection of the caller cannot be used now ({type(exc).__name__}: {said})")


def _is_loss(exc: BaseException) -> bool:
    """Of those without a SQLSTATE: a connection that broke. Both libraries name it so, and SQLAlchemy marks it."""
    return bool(getattr(exc, "connection_invalidated", False)) or type(exc).__name__ in (
        "ConnectionDoesNotExistError",
        "OperationalError",
    )


def _gone(place: str, why: str) -> StoreUnavailable:
    text = f"{place}: the caller's connection was lost ({why}), and its transaction with it: nothing was written"
    return StoreUnavailable(f"{text}. Begin it again on another connection", outcome="refused", server=place)


def unreachable(exc: BaseException, place: str) -> PsyQueueError:
    """Nothing was sent but the greeting."""
    if isinstance(exc, PsyQueueError):
        return exc
    if isinstance(exc, asyncpg.PostgresError):
        found = _of_server(exc, place)
        if isinstance(found, StoreUnavailable) and found.outcome == "unknown":
            text = f"{place} does not let us in: {exc.sqlstate} {_said(exc)}"
            return StoreUnavailable(text, outcome="refused", server=place)
        return found
    return StoreUnavailable(f"{place} cannot be reached: {_reason(exc)}", outcome="refused", server=place)


def _reason(exc: BaseException) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({exc.verify_message}). Give ssl_ca=, or use the name it was made for"
    if isinstance(exc, ssl.SSLError):
        return f"TLS failed ({exc})"
    if isinstance(exc, socket.gaierror):
        return f"the name of its host is not known ({exc.strerror}). Look at host="
    if isinstance(exc, TimeoutError):
        return "no answer within connect_timeout. Look at host=, port= and the firewall"
    if isinstance(exc, ConnectionRefusedError):
        return "nobody listens there. Is the server running, and is the port right?"
    if isinstance(exc, ConnectionError) and "connection_lost" in str(exc):  # all that the driver says
        return "whoever listens there hung up at once. Is it a proxy or balancer, and the server behind it away?"
    if isinstance(exc, ConnectionError) and "SSL" in str(exc):
        return "the server speaks no TLS. Switch it on there, or leave ssl out"
    is_telling = isinstance(exc, OSError | asyncpg.InterfaceError)
    return f"{type(exc).__name__}: {exc}" if is_telling else type(exc).__name__


def leaves_in_doubt(exc: BaseException) -> bool:
    """Whether the connection must not be used again: who waited for a reply has gone, or its session is out of date.

    The driver would let the next caller wait for the old reply, for ever where the network swallows it. A session that
    was made while the server took no writes, or under a setting that is of no use here, may stay so.
    """
    if isinstance(exc, asyncpg.PostgresError):
        return exc.sqlstate in ("25006", "0A000", _ISOLATED)
    return not isinstance(exc, UnicodeEncodeError)


def isolated(place: str, isolation: str) -> StoreUnusable:
    """A step is no step in another isolation than read committed: nothing was done."""
    text = f"{place}: default_transaction_isolation is {isolation!r} for this user or database"
    advice = "each step of psyqueue takes its own locks and needs 'read committed'. Set it so"
    return StoreUnusable(f"{text}; {advice}", server=place)


def exhausted(place: str, size: int, wait_s: float) -> StoreBusy:
    """No connection became free: nothing was sent."""
    text = f"{place}: all {size} connections were in use for {wait_s:g} s; nothing was sent"
    return StoreBusy(f"{text}. Raise max_size=, or call less at once", server=place)


def lost(place: str, why: str) -> StoreUnavailable:
    """A call was on its way."""
    text = f"{place}: {why}; whether the call was done is unknown. Repeat the same call to find out"
    return StoreUnavailable(text, outcome="unknown", server=place)

"""What the server and the network say went wrong, in the words of psyqueue."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from typing import Final

from psyqueue.errors import PsyQueueError, StoreBusy, StoreFull, StoreUnavailable, StoreUnusable

RETIRING: Final = frozenset(("READONLY", "UNBLOCKED"))
"""Said by a server that is no master any more: the next call has to look for the new one on a new connection."""

_REFUSED = {
    "LOADING": "is still loading its data. Try again soon",
    "MASTERDOWN": "is a replica that lost its master. Wait for the failover, or point psyqueue to the master",
    "CLUSTERDOWN": "belongs to a cluster that is down. Look at CLUSTER INFO",
    "TRYAGAIN": "is moving these keys to another node. Try again soon",
    "READONLY": "is a replica. Wait for the failover, or point psyqueue to the master",
    "UNBLOCKED": "is a replica now. Wait for the failover, or point psyqueue to the master",
    "NOREPLICAS": "has fewer replicas in step than its min-replicas-to-write asks for. Look at the replicas",
    "MISCONF": "cannot save its data and takes no writes. Look at its log, its disk and its rights there",
}
_UNUSABLE = {
    "NOAUTH": "wants a password. Give password= (and username=), or put it in the url",
    "WRONGPASS": "refuses this user and password. Look at username= and password=",
    "NOPERM": "does not allow this user what psyqueue needs. Extend its ACL as docs/backends/redis.md says",
    "WRONGTYPE": "holds a foreign key among ours. Give another key_prefix=, or remove that key",
    "MOVED": "is a node of a cluster that keeps these keys elsewhere. Clusters are not supported yet",
    "ASK": "is a node of a cluster that is moving these keys. Clusters are not supported yet",
    "CROSSSLOT": "is a cluster, and got keys of several slots: a defect of psyqueue. Please report it",
    "DENIED": "is in protected mode and takes local clients only. Give the server a password",
}
_LACKS = "lacks a command that psyqueue needs. Use Redis or Valkey, and rename no commands"
_UNUSABLE_TEXTS = {
    "DB index is out of range": "has no such database. Look at db=, and at the server's setting `databases`",
    "invalid DB index": "has no such database. Look at db=, and at the server's setting `databases`",
    "is not allowed in cluster mode": "is a cluster, which has database 0 alone. Give db=0",
    "without any password configured": "has no password, but one was given. Leave password= out, or set it there",
    "unknown command": _LACKS,
    # In a script; the two after them as Redis 6.2 says it.
    "ACL failure in script": _UNUSABLE["NOPERM"],
    "Unknown Redis command": _LACKS,
    "The user executing the script can't": _UNUSABLE["NOPERM"],
}
# Redis 6.2 wraps what a script ran into: "ERR Error running script (…): @user_script: 1: -OOM command …"; later ones do
# so where the script caught it and raised it again: "ERR WRONGTYPE Operation … script: …, on @user_function:7."
_IN_SCRIPT = re.compile(r"@user_script: ?\d+: -?([A-Z]{3,}) |^ERR ([A-Z]{3,}) .* on @user_(?:script|function):\d+")


class ReplyError(Exception):
    """An error reply: `text` as it came, `code` its first word. Leaves the package only as a cause."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        self.code = text.partition(" ")[0]
        if self.code == "ERR" and (inner := _IN_SCRIPT.search(text)):
            self.code = inner[1] or inner[2]


def translate(exc: BaseException, place: str = "the server") -> PsyQueueError:
    """The error to raise `from exc`, whatever a call or a connecting ended with; psyqueue's own pass unchanged."""
    if isinstance(exc, PsyQueueError):
        return exc
    if isinstance(exc, ReplyError):
        return _of_reply(exc, place)
    return unreachable(exc, place)


def _of_reply(exc: ReplyError, place: str) -> PsyQueueError:
    code, text = exc.code, f"{place}: the server"
    if code == "OOM":
        return StoreFull(
            f"{place}: the server's memory (maxmemory) is full; nothing was written. Purge, or give it more",
            server=place,
        )
    if code == "MISCONF" and "No space left" in exc.text:
        return StoreFull(f"{place}: the server's disk is full; nothing was written. Free some room", server=place)
    if code == "BUSY":
        return StoreBusy(f"{text} is busy with somebody's script; nothing was written. Try again", server=place)
    if code in _REFUSED:
        return StoreUnavailable(f"{text} {_REFUSED[code]} ({exc.text})", outcome="refused", server=place)
    if code in _UNUSABLE:
        return StoreUnusable(f"{text} {_UNUSABLE[code]} ({exc.text})", server=place)
    for part, meaning in _UNUSABLE_TEXTS.items():
        if part in exc.text:
            return StoreUnusable(f"{text} {meaning} ({exc.text})", server=place)
    if "max number of clients" in exc.text:
        return StoreUnavailable(f"{text} has no room for another client. Raise its maxclients", "refused", server=place)
    return StoreUnavailable(f"{text} says: {exc.text}. Repeat the same call to find out", server=place)


def unreachable(exc: BaseException, place: str) -> PsyQueueError:
    """Nothing was sent but the greeting."""
    return StoreUnavailable(f"{place} cannot be reached: {_reason(exc)}", outcome="refused", server=place)


def _reason(exc: BaseException) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({exc.verify_message}). Give tls_ca=, or use the name it was made for"
    if isinstance(exc, ssl.SSLError):
        return f"TLS failed ({exc}). Does this port speak TLS, and does it want a client's certificate?"
    if isinstance(exc, socket.gaierror):
        return f"the name of its host is not known ({exc.strerror}). Look at host="
    if isinstance(exc, TimeoutError):
        return "no answer within connect_timeout. Look at host=, port=, the firewall, and whether this port speaks TLS"
    # A name with several addresses: asyncio puts the failures into one text.
    if isinstance(exc, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(exc):
        return "nobody listens there. Is the server running, and is the port right?"
    if isinstance(exc, FileNotFoundError):
        return "there is no such socket. Is the server running, and is the path right?"
    if isinstance(exc, PermissionError):
        return "this user may not open it. Look at the rights of the socket"
    if isinstance(exc, EOFError):
        return "the server hung up while it was greeted. Does it want TLS, or refuse clients?"
    return f"{type(exc).__name__}: {exc}"


def lost(place: str, why: str) -> StoreUnavailable:
    """Calls were on their way."""
    text = f"{place}: {why}; whether the call was done is unknown. Repeat the same call to find out"
    return StoreUnavailable(text, outcome="unknown", server=place)


def closed(place: str) -> StoreUnavailable:
    return StoreUnavailable(f"the connection to {place} was closed: call connect()", outcome="refused", server=place)

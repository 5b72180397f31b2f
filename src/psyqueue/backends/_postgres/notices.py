"""What a message looks like as notices: texts below 8,000 bytes, each of them different from all others.

<sender>.<number of the message>:<part>/<parts>:<length of the topic>:<topic><base64 of the part>
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator, Sequence
from typing import Final

PART_BYTES: Final = 4_800
"""6,400 characters; a topic of 200 characters has 800 bytes at most."""
_OPEN_MAX: Final = 100
"""Messages of which parts are missing: the rest of them will not come."""


class Sender:
    def __init__(self, client_id: str) -> None:
        self._client_id = client_id
        self._numbers = itertools.count(1)

    def notices(self, topic: str, bodies: Sequence[bytes]) -> list[str]:
        return [notice for body in bodies for notice in self._of(topic, body)]

    def _of(self, topic: str, body: bytes) -> Iterator[str]:
        number = next(self._numbers)
        parts = [body[start : start + PART_BYTES] for start in range(0, len(body), PART_BYTES)] or [b""]
        for place, part in enumerate(parts, 1):
            text = base64.b64encode(part).decode()
            yield f"{self._client_id}.{number}:{place}/{len(parts)}:{len(topic)}:{topic}{text}"


class Receiver:
    """Notices come in the order in which they were sent; those of a message come together."""

    def __init__(self) -> None:
        self._open: dict[str, list[bytes]] = {}

    def received(self, notice: str) -> tuple[str, bytes] | None:
        """(topic, body) with the last part of a message."""
        number, place, length, rest = notice.split(":", 3)
        topic, text = rest[: int(length)], rest[int(length) :]
        part, _, parts = place.partition("/")
        if parts == "1":
            return topic, base64.b64decode(text)
        found = self._open.setdefault(number, [])
        found.append(base64.b64decode(text))
        if part != parts:
            while len(self._open) > _OPEN_MAX:
                del self._open[next(iter(self._open))]
            return None
        del self._open[number]
        return (topic, b"".join(found)) if len(found) == int(parts) else None

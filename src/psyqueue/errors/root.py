"""What all errors have: a code for machines, a message for people, the values, a way through pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class PsyQueueError(Exception):
    """Root of everything that psyqueue raises: `code` for machines, `message` for people, `context` with the values."""

    def __init__(self, code: str, message: str, context: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"[{code}] {message}")
        self.code = code
        self.message = message
        self.context: dict[str, Any] = dict(context or {})
        self.enqueued: Sequence[Any] = ()
        """Of an error of `enqueue_bulk`: the handles of the chunks that were written before it."""

    def __reduce__(self) -> tuple[Any, ...]:
        """For `copy` and `pickle`, which would call the class with the text alone. Handles stay in their process."""
        own = {"context": dict(self.context), "enqueued": ()}
        return _remade, (type(self), self.args, {**self.__dict__, **own})


def _remade(kind: type[PsyQueueError], args: tuple[Any, ...], fields: dict[str, Any]) -> PsyQueueError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class Coded(PsyQueueError):
    """A class with a code of its own; keyword arguments become the context."""

    CODE: ClassVar[str] = "PSYQUEUE_ERROR"

    def __init__(self, message: str, **context: Any) -> None:
        super().__init__(self.CODE, message, context)

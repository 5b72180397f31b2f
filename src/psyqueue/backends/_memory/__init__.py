"""The in-memory store: the executable specification of the seam."""

from psyqueue.backends._memory.backend import MemoryBackend

__all__ = ["MemoryBackend"]

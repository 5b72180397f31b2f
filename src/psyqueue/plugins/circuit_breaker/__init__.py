"""Runs of handlers, or parts of them, that wait while what they depend on is down, on all machines at once."""

from __future__ import annotations

from psyqueue.plugins.circuit_breaker.circuit import CircuitView
from psyqueue.plugins.circuit_breaker.plugin import CircuitBreaker, SyncCircuitBreaker
from psyqueue.plugins.circuit_breaker.turnstile import CircuitOpen

__all__ = ["CircuitBreaker", "CircuitOpen", "CircuitView", "SyncCircuitBreaker"]

"""Spans of OpenTelemetry for enqueues and runs, and one trace from the one to the other."""

from __future__ import annotations

from psyqueue.plugins.tracing.plugin import Tracing, continue_trace

__all__ = ["Tracing", "continue_trace"]

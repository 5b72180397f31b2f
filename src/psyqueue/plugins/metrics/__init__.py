"""Figures for Prometheus: what this process does with jobs, and what is in the store."""

from __future__ import annotations

from psyqueue.plugins.metrics.plugin import Metrics, SyncMetrics

__all__ = ["Metrics", "SyncMetrics"]

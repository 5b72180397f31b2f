"""Work in several steps: which waits for which, what is done when one fails, and what became of the whole."""

from __future__ import annotations

from psyqueue.plugins.workflows.flow import Flow, results_of
from psyqueue.plugins.workflows.plugin import SyncWorkflows, Workflows
from psyqueue.plugins.workflows.run import WorkflowRun, WorkflowView

__all__ = ["Flow", "SyncWorkflows", "WorkflowRun", "WorkflowView", "Workflows", "results_of"]

"""Histories of a queue under fire, and a checker that tells a justified repeat from a defect.

Each process appends what it does to a file of its own: a line before each call (`invoke`), one after it (`ok`, `fail`
or `unknown`), one when a handler starts and one when it ends. Lines survive a kill -9 of the process that wrote them.
`check_history` reads all files of a run, and what the store holds in the end, and says which promises were broken.

    recorder = Recorder(folder / "worker-1.jsonl", "worker-1")
    backend = RecordedBackend(SqliteBackend(options), recorder)    # enqueue, settle and reap are written down
    ...
    report = check_history(folder.glob("*.jsonl"), {"job-1": "completed", "job-2": "dead"})
    assert report.is_clean, report

The method is Jepsen's, cut to what a queue needs: every job is a register of its own, so a sort replaces the search.
"""

from psyqueue.testing.history.checking import Problem, Report, check_history
from psyqueue.testing.history.events import Event, read_events
from psyqueue.testing.history.recording import RecordedBackend, Recorder

__all__ = ["Event", "Problem", "RecordedBackend", "Recorder", "Report", "check_history", "read_events"]

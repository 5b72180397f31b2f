"""Moving house: all jobs of one store into another of any kind, so that a crash at any point costs nothing.

Offline, with a pause as long as the copy:

    mover = Mover(House(source, "sqlite:/srv/jobs.db"), House(target, "redis://cache:6379/0"))
    report = await mover.run()

What makes it safe (docs/adr/0014): both namespaces are frozen while jobs are copied, so no job can start anywhere; one
step, the source's mode `moved`, decides; only then is the destination opened. Until that step everything can be rolled
back, and a run that was killed is simply done again.

Without a pause: the application uses `moving(old, new)`, and `LiveMove` takes it through the steps (docs/adr/0020).
"""

from psyqueue.moving.house import House
from psyqueue.moving.live import LiveMove, Status
from psyqueue.moving.mover import Mover, reopen
from psyqueue.moving.plan import Plan, Row, make_plan
from psyqueue.moving.plugin import Moving, moving
from psyqueue.moving.quiet import Progress
from psyqueue.moving.selection import Selection
from psyqueue.moving.verify import Verified

__all__ = [
    "House",
    "LiveMove",
    "Mover",
    "Moving",
    "Plan",
    "Progress",
    "Row",
    "Selection",
    "Status",
    "Verified",
    "make_plan",
    "moving",
    "reopen",
]

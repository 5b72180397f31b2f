"""Moving house: all jobs of one store into another of any kind, offline, so that a crash at any point costs nothing.

    mover = Mover(House(source, "sqlite:/srv/jobs.db"), House(target, "redis://cache:6379/0"))
    report = await mover.run()

What makes it safe (docs/adr/0014): both namespaces are frozen while jobs are copied, so no job can start anywhere; one
step, the source's mode `moved`, decides; only then is the destination opened. Until that step everything can be rolled
back, and a run that was killed is simply done again.
"""

from psyqueue.moving.house import House
from psyqueue.moving.mover import Mover, Progress, reopen
from psyqueue.moving.plan import Plan, Row, make_plan
from psyqueue.moving.selection import Selection
from psyqueue.moving.verify import Verified

__all__ = ["House", "Mover", "Plan", "Progress", "Row", "Selection", "Verified", "make_plan", "reopen"]

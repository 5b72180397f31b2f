"""A script: it enqueues what is not enqueued yet, waits for all of it, and says by its exit code how it went."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from psyqueue import JobDead, PsyQueue, ResultTimeout
from psyqueue.backends import sqlite

q = PsyQueue()


@q.handle("page.fetch", queue="pages", max_retries=0)
def fetch(page: int) -> int:
    if page == 3:
        raise LookupError(f"there is no page {page}")
    return page * 100


def main(day: str) -> int:
    """Started twice, by hand or by cron, it enqueues nothing twice: the ids are those of the day."""
    calls = [fetch.options(id=f"page-{day}-{page}").build(page) for page in (1, 2, 3)]
    jobs = q.sync.enqueue_bulk(calls)
    print(f"{sum(job.created for job in jobs)} of {len(jobs)} jobs are new")
    failed = 0
    for job in jobs:
        try:
            print(job.id, job.result(timeout="1m"))
        except JobDead as exc:
            failed += 1
            print(job.id, exc.error["message"] if exc.error else exc.reason, file=sys.stdout)
        except ResultTimeout:
            failed += 1
            print(job.id, "is not done; it goes on without us")
    return 1 if failed else 0


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        q.use(sqlite(path=Path(folder) / "jobs.db"))
        with q.sync:
            q.sync.start_worker("pages")  # here for once; usually workers run somewhere else
            print("exit code", main("2027-01-01"))
            print("exit code", main("2027-01-01"))

# prints:
# | 3 of 3 jobs are new
# | page-2027-01-01-1 100
# | page-2027-01-01-2 200
# | page-2027-01-01-3 there is no page 3
# | exit code 1
# | 0 of 3 jobs are new
# | page-2027-01-01-1 100
# | page-2027-01-01-2 200
# | page-2027-01-01-3 there is no page 3
# | exit code 1

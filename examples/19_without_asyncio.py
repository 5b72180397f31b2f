"""A program without asyncio: threads of a web server enqueue, look at results, and end; nothing has to be stopped."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from psyqueue import JobDead, PsyQueue
from psyqueue.backends import sqlite


def main(folder: str) -> None:
    q = PsyQueue().use(sqlite(path=str(Path(folder) / "jobs.db")))

    @q.handle("invoice", queue="invoices", max_retries=0)
    def invoice(customer: str, amount: int = 10) -> str:
        if amount < 0:
            raise ValueError("we do not pay customers")
        return f"{customer} pays {amount}"

    def request(customer: str) -> str:
        """What a Flask or Django view would do."""
        return invoice.sync.enqueue(customer).id

    with q.sync as sync:
        with ThreadPoolExecutor(4) as server:
            ids = list(server.map(request, ["ada", "bob", "cyd"]))
        print(f"{len(ids)} jobs are in the file, {len(sync.jobs(status='pending'))} are pending")

        sync.start_worker("invoices")  # usually a process of its own: psyqueue worker shop:q
        for job_id in ids:
            print(sync.handle_of(job_id).result(timeout="10s"))

        refused = invoice.options(priority=9).sync.enqueue("dan", amount=-1)
        try:
            refused.result(timeout="10s")
        except JobDead as exc:
            print(f"dead: {exc.error['message'] if exc.error else exc.reason}")
        print(f"{sync.dead_letter.purge(queue='invoices')} dead letter deleted")


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        main(made)

# prints:
# | 3 jobs are in the file, 3 are pending
# | ada pays 10
# | bob pays 10
# | cyd pays 10
# | dead: we do not pay customers
# | 1 dead letter deleted

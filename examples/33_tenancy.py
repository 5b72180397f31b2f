"""Tenants: three tiers share one queue by weight; a tenant that enqueues too much is told, and then buys more."""

import asyncio
from collections import Counter
from tempfile import TemporaryDirectory

from psyqueue import PsyQueue, RateLimitError
from psyqueue.backends import sqlite
from psyqueue.plugins import Tenancy, Tier

TIERS = {
    "free": Tier(weight=1, active_max=1, enqueues_per_minute=20),
    "pro": Tier(weight=3, active_max=10, enqueues_per_minute=600),
    "enterprise": Tier(weight=6, active_max=100),
}


class Process:
    """What every process of the application has."""

    def __init__(self, folder: str) -> None:
        self.ran: Counter[str] = Counter()
        self.tenancy = Tenancy(TIERS, default="free")
        self.q = PsyQueue().use(sqlite(path=f"{folder}/jobs.db")).use(self.tenancy)

        @self.q.handle("export", queue="exports")
        async def export(tenant: str) -> None:
            self.ran[tenant] += 1

        self.export = export

    async def enqueue(self, tenant: str, count: int) -> None:
        await self.q.enqueue_bulk([self.export.build(tenant) for _ in range(count)], tenant=tenant)


async def main(folder: str) -> None:
    web, worker = Process(folder), Process(folder)
    async with web.q, worker.q:
        await web.tenancy.assign("globex", "pro")
        await web.tenancy.assign("initech", "enterprise")

        for tenant in ("acme", "globex", "initech"):
            await web.enqueue(tenant, 20)
        for _ in range(20):
            await worker.q.process_next("exports")
        print("of 20 starts:", dict(sorted(worker.ran.items())))

        try:
            await web.enqueue("acme", 15)
        except RateLimitError as error:
            print("acme is told to wait:", error.retry_after > 0)
        print("its jobs:", len(await web.q.jobs(tenant="acme", status="pending")))

        await worker.tenancy.assign("acme", "pro")  # from any process, or a shell
        limits = await web.q.limits("exports", "acme")
        print("acme is pro now:", limits.weight, limits.active_max)
        print("assigned:", [(view.id, view.tier) for view in (await web.tenancy.list()).items])


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(folder))

# prints:
# | of 20 starts: {'acme': 2, 'globex': 6, 'initech': 12}
# | acme is told to wait: True
# | its jobs: 18
# | acme is pro now: 3 10
# | assigned: [('acme', 'pro'), ('globex', 'pro'), ('initech', 'enterprise')]

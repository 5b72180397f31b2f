"""Work that repeats: schedules declared in code and put at run time; of three processes one makes each job."""

import asyncio
from tempfile import TemporaryDirectory

from psyqueue import Context, PsyQueue
from psyqueue.backends import sqlite
from psyqueue.plugins import Schedules


class Process:
    """What every process of the application has."""

    def __init__(self, folder: str) -> None:
        self.schedules = Schedules()
        self.q = PsyQueue().use(sqlite(path=f"{folder}/jobs.db")).use(self.schedules)
        self.ran: asyncio.Queue[str] = asyncio.Queue()

        @self.q.handle("ping", queue="pings")
        async def ping(ctx: Context, host: str) -> None:
            self.ran.put_nowait(f"{ctx.job.schedule_id}: {host}")

        self.ping = ping
        self.schedules.add("every second", ping.build("example.org"), every="1s")
        self.schedules.add("in the morning", ping.build("example.com"), cron="30 7 * * mon-fri", tz="Europe/Rome")


async def main(folder: str) -> None:
    one, two, three = (Process(folder) for _ in range(3))
    async with one.q, two.q, three.q:
        one.q.start_worker("pings")
        print(await one.ran.get())
        print(await one.ran.get())

        await two.schedules.put("of a customer", two.ping.build("example.net"), every="1s")
        while not (text := await one.ran.get()).startswith("of"):
            pass
        print(text)

        await three.schedules.pause("every second")
        print([(each.id, each.is_paused) for each in await three.schedules.list()])

        jobs = {job.id: job for job in await one.q.jobs(queue="pings")}
        instants = [(job.schedule_id, job.nominal_at) for job in jobs.values()]
        print("one job for each instant:", len(instants) == len(set(instants)))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(folder))

# prints:
# | every second: example.org
# | every second: example.org
# | of a customer: example.net
# | [('every second', True), ('in the morning', False), ('of a customer', False)]
# | one job for each instant: True

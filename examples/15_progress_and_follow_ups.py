"""Inside a run: say how far it is, and enqueue follow-up jobs that exist if and only if the run succeeds."""

import asyncio
from tempfile import TemporaryDirectory

from psyqueue import Context, PsyQueue
from psyqueue.backends import sqlite

q = PsyQueue()


@q.handle("page.fetch", queue="crawl")
async def fetch_page(url: str) -> int:
    return len(url)


@q.handle("site.crawl", queue="crawl", backoff="fixed", backoff_base="10ms")
async def crawl_site(ctx: Context, site: str, pages: int) -> list[str]:
    found = []
    for number in range(pages):
        # Both are plain calls, also from the thread of a `def` handler. The last progress is kept beside the job.
        ctx.progress({"done": number + 1, "of": pages})
        page = ctx.enqueue(fetch_page.build(f"{site}/{number}"), priority=5)
        found.append(str(page))
        if ctx.attempt == 1 and number == 1:
            raise ConnectionError("the site is away")  # the two pages so far will never be jobs
    return found


async def main(folder: str) -> None:
    q.use(sqlite(path=f"{folder}/jobs.db"))
    async with q:
        q.start_worker()
        crawl = await crawl_site.enqueue("example.org", pages=3)
        pages = await crawl.result(timeout="10s")
        view = await crawl.refresh()
        print("attempts:", view.attempt, "- progress:", view.progress)

        # The pages were enqueued in the same step as the success was written.
        for page_id in pages:
            page = q.handle_of(page_id)
            size = await page.result(timeout="10s")
            view = await page.refresh()
            print(f"{view.payload['url']}: {size}, a follow-up of the crawl: {view.parent_id == crawl.id}")
        print("page jobs in all:", len(await q.jobs(name="page.fetch")))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(folder))

# prints:
# | attempts: 2 - progress: {'done': 3, 'of': 3}
# | example.org/0: 13, a follow-up of the crawl: True
# | example.org/1: 13, a follow-up of the crawl: True
# | example.org/2: 13, a follow-up of the crawl: True
# | page jobs in all: 3

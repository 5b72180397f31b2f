"""Jobs of one order key run one after the other, in order of enqueue, even through retries; other keys go on."""

import asyncio
from collections import defaultdict
from tempfile import TemporaryDirectory

from psyqueue import Context, PsyQueue
from psyqueue.backends import sqlite

q = PsyQueue()
history: defaultdict[str, list[str]] = defaultdict(list)
busy: set[str] = set()


@q.handle("account.book", queue="accounts", order_key="account", backoff="fixed", backoff_base="30ms")
async def book(ctx: Context, account: str, entry: str) -> None:
    assert account not in busy, "two jobs of one key at once"
    busy.add(account)
    try:
        if entry == "deposit" and account == "ada" and ctx.attempt == 1:
            history[account].append("deposit failed")
            raise ConnectionError("the ledger is away")
        history[account].append(entry)
    finally:
        busy.discard(account)


async def main(folder: str) -> None:
    q.use(sqlite(path=f"{folder}/jobs.db"))
    async with q:
        q.start_worker(concurrency=10)
        entries = [(account, entry) for entry in ("open", "deposit", "close") for account in ("ada", "bob")]
        jobs = await q.enqueue_bulk([book.build(account, entry) for account, entry in entries])
        # The same, for a handler without an order key: book.options(order_key="ada")
        for job in jobs:
            await job.result(timeout="10s")
        for account in ("ada", "bob"):
            print(f"{account}: {', '.join(history[account])}")


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(folder))

# prints:
# | ada: open, deposit failed, deposit, close
# | bob: open, deposit, close

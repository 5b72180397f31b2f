"""Jobs move to another store while the application works: two processes of it, and the mover, in one program here."""

import asyncio
import tempfile
from pathlib import Path

from psyqueue import PsyQueue
from psyqueue.backends import sqlite
from psyqueue.moving import House, LiveMove, moving


def application(folder: Path) -> PsyQueue:
    q = PsyQueue()
    q.use(moving(sqlite(folder / "old.db"), sqlite(folder / "new.db")))

    @q.handle("greet")
    async def greet(name: str) -> None:
        print("hello", name)

    return q


async def main(folder: Path) -> None:
    async with application(folder) as producer, application(folder) as worker:
        await producer.enqueue("greet", {"name": "Ada"})
        await producer.enqueue("greet", {"name": "Alan"}, unique_key="alan")

        # As `psyqueue migrate run` and `finish` do it, from another process.
        old, new = sqlite(folder / "old.db").adapter, sqlite(folder / "new.db").adapter
        await old.connect()
        await new.connect()
        move = LiveMove(House(old, "old.db"), House(new, "new.db"))
        await move.begin()
        again = await producer.enqueue("greet", {"name": "Alan"}, unique_key="alan")
        print("made again:", again.created)
        await producer.enqueue("greet", {"name": "Grace"})
        print(await worker.process_next("greet"), "from the old store")
        await move.finish()
        while await worker.process_next("greet"):
            print("from the new store")
        print((await move.status()).step)
        await old.disconnect()
        await new.disconnect()


with tempfile.TemporaryDirectory() as name:
    asyncio.run(main(Path(name)))

# prints:
# | made again: False
# | hello Ada
# | True from the old store
# | hello Alan
# | from the new store
# | hello Grace
# | from the new store
# | over

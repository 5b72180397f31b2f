"""A service that is down: after some failures all processes let its jobs wait, until one run finds that it is back."""

import asyncio
from tempfile import TemporaryDirectory

from psyqueue import Event, PsyQueue
from psyqueue.backends import sqlite
from psyqueue.plugins import CircuitBreaker, CircuitOpen


class Service:
    """What both processes call."""

    is_down = True
    calls = 0

    def pay(self, order: int) -> str:
        self.calls += 1
        if self.is_down:
            raise ConnectionError("no answer")
        return f"order {order} is paid"


class Process:
    """What every process of the application has."""

    def __init__(self, folder: str, service: Service) -> None:
        self.payments = CircuitBreaker("payments", failures=4, reset="4s", handlers=["charge"])
        self.q = PsyQueue().use(sqlite(path=f"{folder}/jobs.db")).use(self.payments)

        @self.q.handle("charge", queue="orders")
        async def charge(order: int) -> str:
            return service.pay(order)

        self.charge = charge


async def main(folder: str) -> None:
    service = Service()
    one, two = Process(folder, service), Process(folder, service)

    def tell(event: Event) -> None:
        print(event.type)
        service.is_down = False  # it is back, and nobody knows it yet

    async with one.q, two.q:
        one.q.events.on("circuit:*", tell)
        orders = await one.q.enqueue_bulk([one.charge.build(number) for number in range(1, 101)])
        while await one.q.process_next("orders"):
            pass
        print("calls with 100 jobs:", service.calls)

        print("the other process knows:", (await two.payments.state()).state)
        try:
            async with two.payments.call():
                print("not reached")
        except CircuitOpen as error:
            print("it is told when to come back:", error.retry_after > 0)

        one.q.start_worker("orders")
        print([await order.result() for order in orders][-1])
        print("calls in all:", service.calls)


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(folder))

# prints:
# | circuit:opened
# | calls with 100 jobs: 4
# | the other process knows: open
# | it is told when to come back: True
# | circuit:half-opened
# | circuit:closed
# | order 100 is paid
# | calls in all: 104

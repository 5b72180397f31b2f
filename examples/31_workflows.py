"""Workflows: steps that wait for each other and use each other's results; what was done is undone when one fails."""

import asyncio
from tempfile import TemporaryDirectory

from psyqueue import Context, DeadLetter, PsyQueue, WorkflowFailed
from psyqueue.backends import sqlite
from psyqueue.plugins import Flow, Workflows, results_of

workflows = Workflows()
q = PsyQueue().use(workflows)


@q.handle("flight.book", queue="travel")
async def book_flight(city: str) -> str:
    return f"flight to {city}"


@q.handle("hotel.book", queue="travel")
async def book_hotel(city: str) -> str:
    if city == "Atlantis":
        raise DeadLetter("there is no hotel")
    return f"hotel in {city}"


@q.handle("ticket.send", queue="travel")
async def send_ticket(ctx: Context, to: str) -> str:
    return f"to {to}: {', '.join(results_of(ctx).values())}"


@q.handle("booking.cancel", queue="travel")
async def cancel_booking(ctx: Context) -> None:
    print("cancelled:", *results_of(ctx).values())


def trip(city: str, to: str) -> Flow:
    flow = Flow("trip")
    flow.add("flight", book_flight.build(city), compensate=cancel_booking)
    flow.add("hotel", book_hotel.build(city), compensate=cancel_booking)
    return flow.add("ticket", send_ticket.build(to), after=["flight", "hotel"])


async def main(folder: str) -> None:
    q.use(sqlite(path=f"{folder}/jobs.db"))
    async with q:
        q.start_worker()
        run = await workflows.enqueue(trip("Rome", "ada"))
        print((await run.result("10s"))["ticket"])

        run = await workflows.enqueue(trip("Atlantis", "bob"), id="trip-of-bob")
        try:
            await run.result("10s")
        except WorkflowFailed:
            view = await run.wait("10s", undone=True)
        print(f"{view.status}, because {view.reason}")
        print({name: job and job.status for name, job in view.steps.items()})


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        asyncio.run(main(made))

# prints:
# | to ada: flight to Rome, hotel in Rome
# | cancelled: flight to Atlantis
# | compensated, because step hotel is dead: there is no hotel
# | {'flight': 'completed', 'hotel': 'dead', 'ticket': 'cancelled'}

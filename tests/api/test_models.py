"""Arguments and results by their annotations: dataclasses, structs of msgspec, models of pydantic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pydantic
import pytest

from psyqueue import PayloadError, PsyQueue
from psyqueue.backends import memory


class Kind(Enum):
    BIG = "big"


@dataclass
class Point:
    x: int
    y: int = 0


class Order(msgspec.Struct):
    number: int
    due: date


class Line(pydantic.BaseModel):
    price: Decimal
    tags: set[str] = set()


class Invoice(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    customer: str = pydantic.Field(alias="customerName", min_length=2)
    at: datetime
    lines: list[Line]
    kind: Kind = Kind.BIG
    ref: UUID | None = None

    @pydantic.computed_field
    def total(self) -> Decimal:
        return sum((line.price for line in self.lines), Decimal(0))


class Reading(pydantic.BaseModel):
    value: float


class Box(msgspec.Struct):
    """One of msgspec's with one of pydantic's inside."""

    inner: Reading
    more: list[Reading] = []


INVOICE = Invoice(
    customerName="ada",
    at=datetime(2026, 12, 24, tzinfo=UTC),
    lines=[Line(price=Decimal("1.10"), tags={"a", "b"}), Line(price=Decimal(2))],
    ref=UUID(int=7),
)


@pytest.fixture
def q() -> PsyQueue:
    return PsyQueue().use(memory())


async def run(q: PsyQueue, job: Any) -> Any:
    assert await q.process_next("work")
    return await job.refresh()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Point, Point(1)),
        (Order, Order(1, date(2026, 12, 24))),
        (Invoice, INVOICE),
        (Invoice | None, INVOICE),
        (Invoice | None, None),
        (dict[str, list[Line]], {"a": INVOICE.lines}),
        (Box, Box(Reading(value=1.5), [Reading(value=2)])),
        (Annotated[Reading, "a sensor's"], Reading(value=3)),
    ],
)
@pytest.mark.parametrize("mode", ["async", "thread"])
async def test_a_value_comes_to_the_handler_and_back_to_the_caller_as_it_was(q, kind, value, mode):
    seen = []

    async def on_loop(it):
        seen.append(it)
        return it

    def in_thread(it):
        seen.append(it)
        return it

    fn: Any = on_loop if mode == "async" else in_thread
    fn.__annotations__ = {"it": kind, "return": kind}
    handler = q.handle("h", fn, queue="work")
    async with q:
        job = await handler.enqueue(value)
        view = await run(q, job)
        assert view.status == "completed", view.errors
        assert seen == [value]
        assert type(seen[0]) is type(value)
        result = await job.result()
        assert (result, type(result)) == (value, type(value))


async def test_a_model_is_plain_json_on_the_wire(q):
    async with q:
        job = await q.enqueue("h", {"invoice": INVOICE, "kind": Kind.BIG}, meta={"from": INVOICE.lines[1]})
        view = await job.refresh()
        assert view.payload == {
            "invoice": {
                "customerName": "ada",
                "at": "2026-12-24T00:00:00Z",
                "lines": [
                    {"price": "1.10", "tags": view.payload["invoice"]["lines"][0]["tags"]},
                    {"price": "2", "tags": []},
                ],
                "kind": "big",
                "ref": "00000000-0000-0000-0000-000000000007",
            },
            "kind": "big",
        }
        assert view.meta == {"from": {"price": "2", "tags": []}}


async def test_a_model_is_a_payload_by_its_fields(q):
    @q.handle("h", queue="work")
    async def handler(value: float) -> float:
        return value * 2

    async with q:
        assert (await run(q, await q.enqueue("h", Reading(value=1.5)))).result == 3


async def test_models_make_unique_keys_by_what_they_hold(q):
    @q.handle("h", unique=True)
    async def handler(it: Reading) -> None: ...

    async with q:
        first = await handler.enqueue(Reading(value=1))
        again = await handler.enqueue(Reading(value=1))
        other = await handler.enqueue(Reading(value=2))
        assert (again.created, again.id == first.id, other.created) == (False, True, True)


async def test_a_value_that_does_not_fit_is_dead_at_once_and_says_where(q):
    @q.handle("h", queue="work")
    async def handler(invoice: Invoice) -> None: ...

    async with q:
        view = await run(q, await q.enqueue("h", {"invoice": {"customerName": "a", "at": "soon", "lines": []}}))
    assert (view.status, view.reason, view.attempt) == ("dead", "payload", 1)
    text = view.errors[-1]["message"]
    assert (
        "$.invoice: customerName: String should have at least 2 characters; at: Input should be a valid datetime"
        in text
    )
    assert "\n" not in text


async def test_not_a_number_in_a_model_is_refused_at_enqueue_with_its_place(q):
    async with q:
        with pytest.raises(PayloadError, match=r"\$\.box\.more\[0\]\.value: nan is not a JSON number"):
            await q.enqueue("h", {"box": Box(Reading(value=1), [Reading(value=math.nan)])})


async def test_a_result_of_another_shape_than_annotated_is_told_to_who_asks_for_it(q):
    @q.handle("h", queue="work")
    async def handler() -> Point:
        return {"x": "no number"}  # type: ignore[return-value]

    async with q:
        job = await handler.enqueue()
        view = await run(q, job)
        assert (view.status, view.result) == ("completed", {"x": "no number"})
        with pytest.raises(PayloadError, match=r"result at \$\.x: Expected `int`, got `str`; handler 'h' is annotated"):
            await job.result()


async def test_a_class_that_nobody_knows_is_refused_at_enqueue(q):
    class Strange: ...

    async with q:
        with pytest.raises(PayloadError, match=r"\$\.it: .*Strange is not a JSON value"):
            await q.enqueue("h", {"it": Strange()})

"""A dashboard as a browser meets it: real requests through the ASGI application, cookies kept, forms sent back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient, Response

from psyqueue import Plugin, PsyQueue
from psyqueue.backends import memory
from psyqueue.dashboard import Access, Dashboard, Role, everyone
from psyqueue.kernel.worker import Worker
from psyqueue.plugins import CircuitBreaker, Schedules, Workflows


class Parsed(HTMLParser):
    """What a browser makes of a page: its elements with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, tag: str, attribute: str) -> list[str]:
        """Of all elements of that kind that have it."""
        return [value for name, attrs in self.elements if name == tag and (value := attrs.get(attribute)) is not None]


class Browser:
    """Somebody who looks at the pages of a dashboard."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client

    async def get(self, path: str, /, **parameters: str) -> Response:
        return await self.client.get(path, params=parameters or None)

    async def see(self, path: str, /, **parameters: str) -> Parsed:
        """A page that is there."""
        answer = await self.get(path, **parameters)
        assert answer.status_code == 200, answer.text
        return Parsed(answer.text)

    async def send(self, path: str, /, back: str = "/", **fields: Any) -> Response:
        """A form that one of the pages showed; the answer before the browser goes on."""
        return await self.client.post(path, data={"form_token": await self.token(), "back": back, **fields})

    async def do(self, path: str, /, back: str = "/", **fields: Any) -> str:
        """As `send`, of what is done: what the next page tells of it."""
        answer = await self.send(path, back, **fields)
        assert answer.status_code == 303, answer.text
        page = await self.client.get(answer.headers["location"])
        before, _, told = page.text.partition('<p class="note" role="status">')
        assert told, before
        return Parsed(told.partition("</p>")[0]).text

    async def token(self) -> str:
        page = await self.client.get("/schedules")
        found = self.client.cookies.get("psyqueue_form")
        assert found, page.text
        return found


class Shop:
    """A queue with all that a dashboard can show. `broken`: users whose mail fails, with what the error says."""

    def __init__(self, store: Plugin) -> None:
        self.schedules, self.workflows = Schedules(), Workflows(queue="flows")
        self.breaker = CircuitBreaker("smtp")
        self.q = PsyQueue(name="shop").use(store)
        for plugin in (self.schedules, self.workflows, self.breaker):
            self.q.use(plugin)
        self.broken: dict[str, str] = {}

        @self.q.handle("mail", queue="mail", max_retries=0)
        async def mail(user: str) -> str:
            if user in self.broken:
                raise ValueError(self.broken[user])
            return f"sent to {user}"

        self.mail = mail

    async def work(self, *queues: str) -> None:
        """Until nothing more is to be done."""
        for queue in queues or ("mail", "flows"):
            while await self.q.process_next(queue):
                pass

    async def dead(self, user: str = "ada", error: str = "no such user") -> str:
        """The id of a mail that is dead."""
        self.broken[user] = error
        job = await self.mail.enqueue(user)
        await self.work("mail")
        del self.broken[user]
        return job.id

    async def worker(self, concurrency: int = 10) -> Worker:
        """One that runs: it has done something."""
        worker = self.q.start_worker("mail", concurrency=concurrency, name="w1")
        await (await self.mail.enqueue("eve")).result("10s")
        return worker

    async def status(self, job_id: str) -> str | None:
        view = await self.q.get(job_id)
        return None if view is None else view.status


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    made = Shop(memory())
    async with made.q:
        yield made


@pytest.fixture
async def browse() -> AsyncIterator[Callable[..., Browser]]:
    """`browse(q, access or role, **options)`."""
    clients: list[AsyncClient] = []

    def open_(queue: PsyQueue, access: Access | Role = "admin", **options: Any) -> Browser:
        site = Dashboard(queue, access=everyone(access) if isinstance(access, str) else access, **options)
        # Errors of the application are answers here, as they are behind a server.
        transport = ASGITransport(site, raise_app_exceptions=False)
        clients.append(AsyncClient(transport=transport, base_url="http://shop.test"))
        return Browser(clients[-1])

    yield open_
    for client in clients:
        await client.aclose()


@pytest.fixture
def admin(shop: Shop, browse: Callable[..., Browser]) -> Browser:
    return browse(shop.q)

"""All pages, and a change, on each store with a server, and on a file."""

from __future__ import annotations

import pytest

from dashboard.conftest import Shop
from psyqueue.plugins import Flow
from support.store_at import place_on, store_at


@pytest.mark.parametrize("store", ["sqlite", "redis", "postgres"])
async def test_all_pages_are_there_and_a_dead_job_runs_again(store, tmp_path, request, namespace, browse):
    server = None if store == "sqlite" else request.getfixturevalue(f"{store}_server")
    shop = Shop(store_at(tmp_path / "jobs.db" if server is None else place_on(server.url, namespace)))
    async with shop.q:
        admin = browse(shop.q)
        dead = await shop.dead("ada", "mailbox 7 is full")
        await shop.schedules.put("nightly", shop.mail.build("eve"), cron="0 3 * * *")
        run = await shop.workflows.enqueue(Flow("order").add("charge", shop.mail.build("eve")))
        await shop.breaker.open("1m")
        worker = await shop.worker()
        seen = {
            "/": "mail",
            "/queue?name=mail": "w1 open",
            "/jobs?status=dead": "mailbox 7 is full",
            f"/job?id={dead}": "its retries are used up",
            "/failures": "ValueError: mailbox * is full",
            "/workers": "w1 open",
            "/schedules": "nightly",
            "/workflows": run.id,
            f"/workflow?id={run.id}": "charge",
            "/circuits": "smtp open",
        }
        for path, text in seen.items():
            assert text in (await admin.see(path)).text, path
        assert await admin.do("/jobs/retry", where="status:dead", typed="1") == "1 job was run again."
        await worker.stop()
        await shop.work("mail")
        assert await shop.status(dead) == "completed"

"""What the dashboard keeps out: people without a role, forms of other sites, scripts in what jobs hold."""

from __future__ import annotations

import base64
import sys
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient
from starlette.responses import PlainTextResponse

from dashboard.conftest import Browser, Parsed
from psyqueue.dashboard import ROLES, Dashboard, Passwords, Visitor, everyone
from psyqueue.dashboard.guard import FIELDS_MAX, FORM_BYTES_MAX, WRONG_MAX, Guard
from psyqueue.dashboard.site import ACTS, LOOKS
from psyqueue.errors import ConfigError, MissingExtra
from psyqueue.plugins import Flow
from support.kernel import FakeClock

SECRET = {role: f"the secret of {role}" for role in ROLES}
PATHS = [each.path for each in LOOKS]
STATIC = ["/static/dashboard.css", "/static/dashboard.js", "/static/icon.svg"]


def basic(password: str, name: str = "ada") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


@pytest.fixture
def guarded(shop, browse) -> Browser:
    """With a password for each role."""
    made: Browser = browse(shop.q, Passwords(**SECRET))
    return made


# ── who comes in ──────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("path", [*PATHS, *STATIC, *(each.path for each in ACTS), "/nothing", "/%2e%2e/x"])
async def test_nothing_is_answered_without_a_password(guarded, path):
    for method in ("GET", "POST", "HEAD", "PUT"):
        answer = await guarded.client.request(method, path)
        assert answer.status_code == 401, method
        assert answer.headers["www-authenticate"] == 'Basic realm="psyqueue", charset="UTF-8"'
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")


@pytest.mark.parametrize("role", ROLES)
async def test_each_role_sees_and_does_what_is_its_own(guarded, role):
    """As the tables of the site say it; 403 before anything else is looked at."""
    guarded.client.headers.update(basic(SECRET[role]))
    for look in LOOKS:
        answer = await guarded.get(look.path)
        assert (answer.status_code == 403) == (ROLES.index(look.role) > ROLES.index(role)), look.path
    for act in ACTS:
        answer = await guarded.send(act.path)
        assert (answer.status_code == 403) == (ROLES.index(act.role) > ROLES.index(role)), act.path


def test_what_cannot_be_undone_takes_the_highest_role():
    admin = {act.path for act in ACTS if act.role == "admin"}
    assert admin == {"/queue/limits", "/jobs/delete", "/workers/stop"}
    assert "viewer" not in {act.role for act in ACTS}


async def test_a_page_offers_only_what_its_visitor_may_do(shop, browse):
    job_id = await shop.dead()
    offered = {}
    for role in ROLES:
        browser = browse(shop.q, role)
        pages = [await browser.see(path, **asked) for path, asked in pages_with(job_id)]
        links = [link for page in pages for tag in ("form", "button", "a") for link in _links(page, tag)]
        offered[role] = {link for link in links if link in {act.path for act in ACTS}}
    assert offered["viewer"] == set()
    assert "/jobs/retry" in offered["operator"]
    assert "/workers/stop" not in offered["operator"]
    assert "/jobs/delete" not in offered["operator"]
    assert {"/jobs/delete", "/queue/limits"} <= offered["admin"]


def _links(page: Parsed, tag: str) -> list[str]:
    is_sent = {"form": ("action",), "button": ("formaction",), "a": ("href",)}[tag]
    found = []
    for name, attrs in page.elements:
        if name == tag and (tag != "form" or attrs.get("method") == "post"):
            found += [attrs[each] for each in is_sent if each in attrs]
    return [link or "" for link in found]


def pages_with(job_id: str) -> list[tuple[str, dict[str, str]]]:
    return [
        ("/", {}),
        ("/queue", {"name": "mail"}),
        ("/jobs", {}),
        ("/job", {"id": job_id}),
        ("/failures", {}),
        ("/workers", {}),
        ("/schedules", {}),
        ("/workflows", {}),
        ("/circuits", {}),
    ]


@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic !!!",
        "Basic " + base64.b64encode(b"\xff\xfe:x").decode(),
        "Bearer the secret of admin",
        "Basic " + base64.b64encode(b"the secret of admin").decode(),
        "Basic " + base64.b64encode(b"ada:the secret of admi").decode(),
        "Basic " + base64.b64encode(b"ada:the secret of admin ").decode(),
        "Basic " + base64.b64encode(b"ada:").decode(),
        "Basic \xe9",
    ],
)
def test_what_is_no_password_is_none(header):
    class Request:
        headers = {"authorization": header}

    assert Passwords(admin=SECRET["admin"])(Request()) is None  # type: ignore[arg-type]


async def welcome(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("welcome")(scope, receive, send)


async def test_while_many_guess_only_those_come_in_who_did_before():
    clock = FakeClock()
    guard = Guard(welcome, Passwords(admin=SECRET["admin"], viewer=SECRET["viewer"]))
    guard._clock = clock  # type: ignore[assignment]
    async with AsyncClient(transport=ASGITransport(guard), base_url="http://shop.test") as client:

        async def status(password: str) -> int:
            return (await client.get("/", headers=basic(password))).status_code

        assert (await status("wrong"), await status("wrong")) == (401, 401)
        assert clock.slept == [1_000, 1_000]
        assert (await client.get("/")).status_code == 401
        assert clock.slept == [1_000, 1_000], "who asks without any is only asked for one"
        assert await status(SECRET["admin"]) == 200
        guard._wrong = WRONG_MAX
        assert await status("wrong") == 429
        assert await status(SECRET["viewer"]) == 429, "it is not even looked at"
        assert await status(SECRET["admin"]) == 200
        guard._wrong = 3
        assert await status("wrong") == 401
        assert clock.slept[-1] == 4_000, "the more guess, the longer"
        assert guard._wrong == 3


async def test_a_page_that_looks_again_does_not_ask_for_a_password(guarded):
    answer = await guarded.client.get("/", headers={"X-Again": "1"})
    assert (answer.status_code, "www-authenticate" in answer.headers) == (401, False)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_other_sites_lead_here_and_ask_for_nothing(admin, site):
    for mode, code in (("no-cors", 403), ("cors", 403), ("navigate", 200)):
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
        assert (await admin.client.get("/jobs", headers=headers)).status_code == code


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "needs at least one"),
        ({"admin": "short"}, "the password of admin is no text of 12 characters or more"),
        ({"admin": b"bytes are no text"}, "no text"),
        ({"admin": "the very same one", "viewer": "the very same one"}, "the same password"),
    ],
)
def test_passwords_that_make_no_sense_are_refused_and_never_shown(given, told):
    with pytest.raises(ConfigError, match=told) as caught:
        Passwords(**given)
    assert not any(str(password) in str(caught.value) for password in given.values())


async def test_a_function_of_the_application_says_who_it_is(shop, browse, caplog):
    async def who(request: Any) -> Visitor | None:
        name = request.headers.get("x-user")
        return None if name is None else Visitor("operator", name)

    browser = browse(shop.q, who)
    assert ((await browser.get("/")).status_code, (await browser.get("/static/dashboard.css")).status_code) == (
        403,
        403,
    )
    browser.client.headers["x-user"] = "eve"
    assert "eve · operator" in (await browser.see("/")).text
    with caplog.at_level("INFO", "psyqueue.dashboard"):
        await browser.do("/queue/pause", name="mail")
    (record,) = [each for each in caplog.records if each.name == "psyqueue.dashboard"]
    assert record.to == "{'name': 'mail'}"
    assert record.done == "Queue mail is paused: what runs goes on."
    assert (record.act, record.visitor, record.role) == ("/queue/pause", "eve", "operator")


def broken(_: Any) -> None:
    raise LookupError("no session store")


@pytest.mark.parametrize("access", [lambda _: True, lambda _: "admin", lambda _: Visitor("boss"), broken])  # type: ignore[arg-type]
async def test_a_function_that_does_not_do_as_it_should_lets_nobody_in(shop, browse, access):
    answer = await browse(shop.q, access).get("/")
    assert (answer.status_code, "log of the server" in answer.text) == (500, True)
    assert answer.headers["x-frame-options"] == "DENY"


# ── what a browser may do with the answer ─────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("path", [*PATHS, *STATIC, "/nothing"])
async def test_every_answer_tells_the_browser_what_it_may_do(admin, path):
    headers = (await admin.get(path)).headers
    assert "script-src 'self'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == ("private, max-age=86400" if path in STATIC else "no-store")
    assert headers["referrer-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
    assert "form-action 'self'" in headers["content-security-policy"]
    assert "connect-src 'self'" in headers["content-security-policy"]
    assert "access-control-allow-origin" not in headers


async def test_cookies_are_for_this_dashboard_alone(admin):
    note = (await admin.send("/queue/pause", name="mail")).headers["set-cookie"].lower()
    assert ("httponly" in note, "samesite=strict" in note) == (True, True)
    admin.client.cookies.clear()
    cookie = (await admin.get("/")).headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie, "who comes by a link keeps the one that the forms of other tabs have"
    assert "secure" not in cookie, "it came over plain http"
    async with AsyncClient(transport=admin.client._transport, base_url="https://shop.test") as client:
        assert "secure" in (await client.get("/")).headers["set-cookie"].lower()


# ── where a form comes from ───────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.path)
async def test_a_form_of_another_site_does_nothing(shop, admin, act):
    token = await admin.token()
    form = {"form_token": token, "name": "mail"}
    attempts: list[dict[str, Any]] = [
        {"data": {"name": "mail"}},
        {"data": {**form, "form_token": ""}},
        {"data": {**form, "form_token": "é"}},
        {"data": {**form, "form_token": token[:-1] + "x"}},
        {"data": form, "headers": {"Origin": "https://evil.example"}},
        {"data": form, "headers": {"Origin": "null"}},
        {"data": form, "headers": {"Origin": "http://shop.test.evil.example"}},
        {"data": form, "headers": {"Sec-Fetch-Site": "cross-site"}},
        {"data": form, "headers": {"Sec-Fetch-Site": "same-site"}},
        {"data": form, "headers": {"Cookie": "psyqueue_form="}},
        {"data": {"name": "mail"}, "headers": {"Cookie": "psyqueue_form="}},
        {"json": form},
        {"content": f"form_token={token}&name=mail", "headers": {"Content-Type": "text/plain"}},
        {"data": {**form, "long": "x" * FORM_BYTES_MAX}},
        {"data": {**form, **{f"x{number}": "" for number in range(FIELDS_MAX)}}},
        {"content": b"\xff=\xff", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
    ]
    for attempt in attempts:
        async with AsyncClient(transport=admin.client._transport, base_url="http://shop.test") as client:
            client.cookies.set("psyqueue_form", token, domain="shop.test")
            answer = await client.post(act.path, **attempt)
        assert answer.status_code == 403, attempt
    assert (await shop.q.limits("mail")).paused_until_ms is None


async def test_a_form_of_our_own_does_it(shop, admin):
    """The other half of the test above: the same form is taken where nothing is wrong with it."""
    token = await admin.token()
    for headers in ({}, {"Origin": "http://shop.test"}, {"Sec-Fetch-Site": "same-origin", "Origin": "http://proxy"}):
        form = {"form_token": token, "name": "mail"}
        assert (await admin.client.post("/queue/pause", data=form, headers=headers)).status_code == 303
    assert (await shop.q.limits("mail")).paused_until_ms is not None


async def test_nothing_is_changed_by_looking(shop, admin):
    for act in ACTS:
        answer = await admin.get(act.path, name="mail")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST"), act.path
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert (await admin.client.request(method, "/jobs")).status_code == 405, method


@pytest.mark.parametrize(
    "back",
    ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/a\r\nX-Bad: 1", "", "\\"],
)
async def test_a_form_leads_back_to_no_other_site(admin, back):
    answer = await admin.send("/queue/pause", back, name="mail")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "x-bad" not in answer.headers


# ── what jobs hold ────────────────────────────────────────────────────────────────────────────────────────────────────
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</textarea></script><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "--><!--<iframe>",
    "\u202e\u2028<b>",
]


@pytest.mark.parametrize("text", HOSTILE)
async def test_what_jobs_hold_is_text_on_every_page(shop, browse, text):
    """Names, payloads, errors, ids of somebody else: a page shows them as they are, and makes no element of them."""

    async def fails(value: str) -> None:
        raise ValueError(text)

    shop.q.handle(text, fails, queue=text, max_retries=0)
    job = await shop.q.enqueue(text, {"value": text}, id=text, meta={text: text}, tenant=text, lane=text)
    await shop.q.limits(text, text, weight=2)
    await shop.work(text)
    await shop.schedules.put(text, text, {"value": text}, every="1h")
    run = await shop.workflows.enqueue(Flow(text).add(text, text, {"value": text}))
    admin = browse(shop.q, lambda _: Visitor("admin", text))
    told = await admin.do("/queue/pause", name=text)
    assert text.replace("\u2028", " ") in told.replace("\u2028", " ")
    pages = [
        *pages_with(job.id),
        ("/queue", {"name": text}),
        ("/jobs", {"where": f"text:{_quoted(text)}"}),
        ("/jobs/sure", {"where": f"name:{_quoted(text)}", "deed": "cancel"}),
        ("/failures", {"where": f"name:{_quoted(text)}"}),
        ("/workflow", {"id": run.id}),
        ("/", {"find": text}),
    ]
    for path, asked in pages:
        page = await admin.see(path, **asked)
        assert_harmless(page, path)
    seen = " ".join((await admin.see("/job", id=job.id)).words)
    assert text in seen
    for path, asked in (("/jobs", {"where": text + ":"}), ("/job", {"id": text + "x"}), ("/jobs", {"status": text})):
        assert_harmless(Parsed((await admin.get(path, **asked)).text), path)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def assert_harmless(page: Parsed, path: str) -> None:
    scripts = [attrs for tag, attrs in page.elements if tag == "script"]
    assert len(scripts) == 1, path
    assert str(scripts[0]["src"]).startswith("/static/dashboard.js"), path
    for tag, attrs in page.elements:
        assert tag not in ("iframe", "object", "embed", "base", "b onload"), (path, tag)
        for name, value in attrs.items():
            assert not name.startswith("on"), (path, tag, name)
            assert name != "style", (path, tag)
            if name in ("href", "src", "action", "formaction"):
                assert (value or "").startswith("/"), (path, tag, value)
    assert len([tag for tag, _ in page.elements if tag == "img"]) == 1, path


# ── who may not see what handlers were given and said ─────────────────────────────────────────────────────────────────
async def test_payloads_are_for_the_role_that_may_see_them(shop, browse):
    secret = "4111-1111"
    job_id = await shop.dead("ada", secret)
    live = await shop.mail.options(delay="1h", meta={"card": secret}).enqueue(secret)
    await shop.workflows.enqueue(Flow("order").add("pay", shop.mail.build(secret)))
    viewer = browse(shop.q, "viewer", payloads="operator")
    for path, asked in [*pages_with(job_id), ("/job", {"id": live.id}), ("/jobs", {"status": "dead"})]:
        answer = await viewer.get(path, **asked)
        assert secret not in answer.text, path
        assert answer.status_code == (403 if path == "/failures" else 200), path
    keyed = await shop.mail.options(unique_key=secret, delay="1h").enqueue("a")
    for key in ("first", "second"):
        await shop.mail.options(order_key=secret, delay="1h", id=key).enqueue("a")
    for job in (keyed.id, "first", "second"):
        assert secret not in (await viewer.get("/job", id=job)).text
    assert "another job of its order key goes first" in (await viewer.see("/job", id="second")).text
    assert "/failures" not in (await viewer.see("/")).values("a", "href")
    hidden = ("text", "error", "meta.card", "unique", "order", "reason")
    for where in (secret, *(f"{field}:{secret}" for field in hidden)):
        answer = await viewer.get("/jobs", where=where)
        assert (answer.status_code, "what your role does not see" in answer.text) == (400, True), where
        assert (await viewer.get("/jobs/sure", where=where, deed="retry")).status_code == 403
    blind = browse(shop.q, "operator", payloads="admin")
    for path in ("/jobs/sure", "/jobs/retry"):
        asked = {"where": f"text:{secret}", "deed": "retry", "typed": "1"}
        answer = await (blind.get(path, **asked) if path == "/jobs/sure" else blind.send(path, **asked))
        assert (answer.status_code, "what your role does not see" in answer.text) == (400, True), path
    assert "your role does not see why" in (await viewer.see("/job", id=job_id)).text
    operator = browse(shop.q, "operator", payloads="operator")
    assert secret in (await operator.get("/job", id=job_id)).text
    assert secret in (await operator.get("/jobs", where=f"error:{secret}")).text


def test_the_site_needs_its_extra_and_says_so(shop, monkeypatch):
    monkeypatch.delitem(sys.modules, "psyqueue.dashboard.site")
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(MissingExtra, match=r"pip install 'psyqueue\[dashboard\]'"):
        Dashboard(shop.q, access=everyone("admin"))

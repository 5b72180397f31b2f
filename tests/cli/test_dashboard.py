"""`psyqueue dashboard`: a process that serves, what it refuses to do, and how it ends."""

from __future__ import annotations

import base64
import signal
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from support.certificates import make_certificate

PASSWORD = "a password of the test"


def read(url: str, password: str | None = None, *, host: str = "", context: ssl.SSLContext | None = None) -> str:
    headers = {"Host": host} if host else {}
    if password is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(f"ada:{password}".encode()).decode()
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10, context=context) as answer:
        return str(answer.read().decode())


def status(url: str, password: str | None = None, *, host: str = "") -> int:
    try:
        read(url, password, host=host)
    except urllib.error.HTTPError as exc:
        return exc.code
    return 200


def test_it_makes_a_password_and_shows_the_store(shop):
    shop.enqueue("note", {"text": "a"}, id="one")
    running = shop.start("--backend", shop.url, "dashboard", "--port", "0")
    url = running.line(r"psyqueue dashboard ready: (http://127\.0\.0\.1:\d+/)")[1]
    password = running.line(r"^password: (\S+) ")[1]
    assert (status(url), status(url, "another password")) == (401, 401)
    assert "note" in read(url, password)
    assert "one" in read(f"{url}job?id=one", password)
    running.send(signal.SIGTERM)
    assert running.end() == 0
    again = shop.start("--backend", shop.url, "dashboard", "--port", "0")
    assert again.line(r"^password: (\S+) ")[1] != password
    again.send(signal.SIGTERM)
    assert again.end() == 0


def test_payloads_are_kept_from_lesser_roles(shop):
    shop.enqueue("note", {"text": "a secret"}, id="one")
    options = ("--port", "0", "--everyone", "viewer", "--payloads", "operator")
    running = shop.start("--backend", shop.url, "dashboard", *options)
    page = read(running.line(r"ready: (\S+)")[1] + "job?id=one")
    assert ("a secret" in page, "Your role does not see" in page) == (False, True)
    running.send(signal.SIGTERM)
    assert running.end() == 0


def test_passwords_stand_in_a_file_a_role_each(shop):
    shop.enqueue("note", {"text": "a"})
    file = shop.folder / "passwords"
    file.write_text(f"# of the shop\n\nadmin {PASSWORD} one\nviewer   {PASSWORD} two  \n")
    running = shop.start("--backend", shop.url, "dashboard", "--port", "0", "--password-file", str(file))
    url = running.line(r"ready: (\S+)")[1]
    assert "admin" in read(url, f"{PASSWORD} one")
    assert "viewer" in read(url, f"{PASSWORD} two")
    assert status(url, PASSWORD) == 401
    assert PASSWORD not in running.text
    running.send(signal.SIGINT)
    assert running.end() == 0


def test_without_a_password_another_name_of_this_machine_is_refused(shop):
    """A page of another site may give its own name to 127.0.0.1, and then ask as if it were ours."""
    shop.enqueue("note", {"text": "a"})
    running = shop.start("--backend", shop.url, "dashboard", "--port", "0", "--everyone", "viewer")
    url = running.line(r"ready: (\S+)")[1]
    assert "password" not in running.text
    assert [status(url), status(url, host="localhost:8420"), status(url, host="[::1]:8420")] == [200] * 3
    for host in ("evil.example", "127.0.0.1.evil.example", "10.0.0.1", "[", "127.0.0.1@evil.example", "127.0.0.1#"):
        assert status(url, host=host) == 403, host
    running.send(signal.SIGTERM)
    assert running.end() == 0


def test_it_speaks_tls_and_writes_the_path_that_a_proxy_takes_off(shop, tmp_path):
    shop.enqueue("note", {"text": "a"})
    certificate, key = make_certificate(tmp_path)
    running = shop.start(
        *("--backend", shop.url, "dashboard", "--port", "0", "--everyone", "viewer", "--root-path", "/ops/"),
        *("--certfile", str(certificate), "--keyfile", str(key)),
    )
    port = running.line(r"ready: https://127\.0\.0\.1:(\d+)/$")[1]
    trusting = ssl.create_default_context(cafile=str(certificate))
    assert 'href="/ops/jobs"' in read(f"https://localhost:{port}/", context=trusting)
    with pytest.raises(urllib.error.URLError):
        read(f"https://localhost:{port}/")
    running.send(signal.SIGTERM)
    assert running.end() == 0


def test_an_application_is_shown_with_its_own_name_and_makes_jobs_by_its_rules(shop):
    shop.enqueue("note", {"text": "a"})
    running = shop.start("dashboard", "--app", "shop:q", "--port", "0", "--everyone", "admin")
    assert "· shop</title>" in read(running.line(r"ready: (\S+)")[1])
    running.send(signal.SIGTERM)
    assert running.end() == 0


def test_json_tells_where_it_is(shop):
    shop.enqueue("note", {"text": "a"})
    running = shop.start("--backend", shop.url, "--json", "dashboard", "--port", "0", "--everyone", "viewer")
    assert status(running.line(r'"url": "(\S+)"')[1]) == 200
    running.line(r'"password": null')
    running.send(signal.SIGTERM)
    assert running.end() == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--host", "0.0.0.0"], "which could listen to passwords: give --certfile, or --behind-proxy"),
        (["--host", "0.0.0.0", "--everyone", "viewer"], "lets all who reach 0.0.0.0 do as they like"),
        (["--host", "::", "--everyone", "admin", "--certfile", "x.pem"], "lets all who reach :: do as they like"),
        (["--host", "shop.example"], "shop.example is open to other machines"),
        (["--everyone", "viewer", "--password-file", "x"], "give one of them"),
        (["--keyfile", "x.pem"], "--keyfile goes with --certfile"),
        (["--certfile", "x.pem"], "--certfile x.pem and its key cannot be used"),
        (["--root-path", "shop"], "does not begin with a slash"),
        (["--password-file", "missing"], "--password-file missing cannot be read"),
        (["--everyone", "boss"], "'boss' is not one of 'viewer', 'operator', 'admin'"),
    ],
)
def test_what_is_not_safe_or_makes_no_sense_is_refused(cli, options, told):
    cli.enqueue("note")
    answer = cli.call("dashboard", "--port", "0", *options)
    assert (answer.code, answer.out) == (2, "")
    assert told in answer.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "needs at least one"),
        ("boss secret-secret-secret\n", "line 1 of"),
        ("admin secret-secret-secret\nadmin other-secret-other\n", "names a role twice"),
        ("admin short\n", "the password of admin is no text of 12 characters or more"),
        ("admin\n", "the password of admin"),
    ],
)
def test_a_file_of_passwords_that_makes_no_sense_is_told_without_them(cli, tmp_path, text, told):
    cli.enqueue("note")
    file = tmp_path / "passwords"
    file.write_text(text)
    answer = cli.call("dashboard", "--port", "0", "--password-file", str(file))
    assert answer.code == 2
    assert told in answer.err
    assert "-secret" not in answer.err
    assert "short" not in answer.err


def test_no_store_and_a_port_that_is_taken_are_told(cli, shop, tmp_path):
    missing = cli.call("--backend", f"sqlite:{tmp_path / 'none.db'}", "dashboard", "--port", "0")
    assert (missing.code, "there is no such file" in missing.err) == (2, True)
    assert not Path(tmp_path / "none.db").exists()
    shop.enqueue("note", {"text": "a"})
    first = shop.start("--backend", shop.url, "dashboard", "--port", "0", "--everyone", "viewer")
    port = first.line(r"ready: http://127\.0\.0\.1:(\d+)/")[1]
    second = shop.start("--backend", shop.url, "dashboard", "--port", port, "--everyone", "viewer")
    assert second.end() == 2
    assert f"port {port} on 127.0.0.1 cannot be opened" in second.text
    assert "Choose another --port" in second.text
    first.send(signal.SIGTERM)
    assert first.end() == 0


def test_looking_writes_nothing(shop):
    shop.enqueue("note", {"text": "a"}, id="one")
    before = (shop.folder / "jobs.db").read_bytes()
    running = shop.start("--backend", shop.url, "dashboard", "--port", "0", "--everyone", "viewer")
    url = running.line(r"ready: (\S+)")[1]
    for page in (
        "",
        "jobs",
        "job?id=one",
        "queue?name=note",
        "failures",
        "workers",
        "schedules",
        "workflows",
        "circuits",
    ):
        assert status(f"{url}{page}") == 200
    running.send(signal.SIGTERM)
    assert running.end() == 0
    assert (shop.folder / "jobs.db").read_bytes() == before

"""The connections to the server: replies meet their calls, whatever happens to callers, connections and servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading

import pytest

from backends.redis.wires import (
    LIMIT_S,
    address_of,
    linked,
    outcomes,
    tls_in_front_of,
    until,
    until_reply,
)
from psyqueue.backends._redis.address import Address, Tls
from psyqueue.backends._redis.blocking import BlockingLink
from psyqueue.backends._redis.faults import ReplyError
from psyqueue.backends._redis.link import Link
from psyqueue.errors import ForkedProcess, StoreUnavailable, StoreUnusable
from support.certificates import make_certificate
from support.servers import free_port
from support.waiting import wait_until

BIG = b"x" * (4 << 20)


# ── calls ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_replies_are_bytes_numbers_lists_and_none(redis_server, namespace):
    async with linked(redis_server) as link:
        assert await link.call("SET", namespace, "größe") == b"OK"
        assert await link.call("GET", namespace) == "größe".encode()
        assert await link.call("APPEND", namespace, b"\x00\xff") == 9
        assert await link.call("GET", f"{namespace}-none") is None
        assert await link.call("MGET", namespace, f"{namespace}-none") == ["größe".encode() + b"\x00\xff", None]
        assert await link.call("ECHO", 7) == b"7"
        assert await link.call("ECHO", "") == b""


async def test_an_error_of_the_server_is_raised_and_spoils_no_other_call(redis_server):
    async with linked(redis_server) as link:
        bad, good = await outcomes(link.call("NOSUCH"), link.call("ECHO", "x"))
        assert isinstance(bad, ReplyError)
        assert bad.code == "ERR"
        assert good == b"x"


async def test_a_thousand_callers_get_their_own_replies(redis_server):
    async with linked(redis_server) as link:
        replies = await asyncio.gather(*(link.call("ECHO", number) for number in range(1_000)))
    assert replies == [b"%d" % number for number in range(1_000)]


async def test_several_commands_of_one_call_stay_together_and_in_order(redis_server, namespace):
    async with linked(redis_server) as link:
        many = [link.call_all([("RPUSH", namespace, caller), ("RPUSH", namespace, caller)]) for caller in range(50)]
        await asyncio.gather(*many)
        pushed = await link.call("LRANGE", namespace, 0, -1)
        assert pushed[::2] == pushed[1::2]
        with pytest.raises(ReplyError):
            await link.call_all([("PING",), ("NOSUCH",)])


async def test_large_calls_and_replies_go_through_side_by_side(redis_server):
    async with linked(redis_server) as link:
        replies = await asyncio.gather(*(link.call("ECHO", BIG + b"%d" % number) for number in range(6)))
    assert [reply[len(BIG) :] for reply in replies] == [b"%d" % number for number in range(6)]


async def test_a_caller_waits_while_the_server_takes_nothing(own_servers):
    """A stalled server must not fill our memory with calls."""
    server = own_servers.redis()
    async with linked(server) as link:
        await link.call("PING")
        os.kill(server.pid, signal.SIGSTOP)
        calls = [asyncio.create_task(link.call("ECHO", BIG)) for _ in range(5)]
        try:
            await until(lambda: link._wire is not None and link._wire.is_paused)
            late = asyncio.create_task(link.call("ECHO", "late"))
            for _ in range(10):
                await asyncio.sleep(0)
            assert link._wire is not None
            assert len(link._wire._in_flight) < 6
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert await asyncio.gather(*calls, late) == [BIG] * 5 + [b"late"]


async def test_a_cancelled_caller_leaves_the_order_of_replies(redis_server, namespace):
    async with linked(redis_server) as link:
        await link.call("PING")
        calls = [asyncio.create_task(link.call("ECHO", number)) for number in range(20)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        await asyncio.wait(calls)
        assert [call.result() for call in calls[1::2]] == [b"%d" % number for number in range(1, 20, 2)]
        assert await link.call("ECHO", "after") == b"after"


# ── connecting ────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_callers_share_one_attempt_and_one_connection(redis_server):
    async with linked(redis_server) as link:
        states = [link.is_connected]
        ids = await asyncio.gather(*(link.call("CLIENT", "ID") for _ in range(10)))
        assert len(set(ids)) == 1
        assert [*states, link.is_connected] == [False, True]
        assert await link.call("CLIENT", "GETNAME") == b"psyqueue"


async def test_a_caller_cancelled_while_connecting_takes_nobody_with_it(redis_server):
    async with linked(redis_server) as link:
        first, second = (asyncio.create_task(link.call("ECHO", name)) for name in "ab")
        await asyncio.sleep(0)
        first.cancel()
        assert await second == b"b"


async def test_nobody_listening_is_a_refusal_that_names_the_place():
    port = free_port()
    link = Link(Address(host="127.0.0.1", port=port))
    failed = await outcomes(*(link.call("PING") for _ in range(3)))
    assert len({id(error) for error in failed}) == 3, "each caller has an error of its own"
    for error in failed:
        assert isinstance(error, StoreUnavailable)
        assert error.outcome == "refused"
        assert f"127.0.0.1:{port}" in error.message


async def test_a_server_that_says_nothing_is_given_up_in_time():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = Address(host="127.0.0.1", port=silent.getsockname()[1], connect_timeout_ms=50)
        for call in (Link(address).call("PING"), asyncio.to_thread(BlockingLink(address).call, "PING")):
            with pytest.raises(StoreUnavailable, match="connect_timeout") as refused:
                await call
            assert refused.value.outcome == "refused"


async def test_a_server_of_another_kind_is_a_refusal():
    async def greet(reader, writer):
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as other:
        address = Address(host="127.0.0.1", port=other.sockets[0].getsockname()[1])
        for call in (Link(address).call("PING"), asyncio.to_thread(BlockingLink(address).call, "PING")):
            with pytest.raises(StoreUnavailable) as refused:
                await call
            assert refused.value.outcome == "refused"


async def test_a_wrong_or_missing_password_says_so_and_is_never_shown(own_servers):
    server = own_servers.redis()
    async with linked(server) as link:
        await link.call("CONFIG", "SET", "requirepass", "right")
    for changes in ({}, {"password": "wr0ng"}, {"username": "nobody", "password": "wr0ng"}, {"db": 1}):
        address = address_of(server, **changes)
        for call in (Link(address).call("PING"), asyncio.to_thread(BlockingLink(address).call, "PING")):
            with pytest.raises(StoreUnusable, match="password=") as refused:
                await call
            assert "wr0ng" not in str(refused.value)
    async with linked(server, password="right") as link:
        assert await link.call("PING") == b"PONG"


async def test_a_database_is_selected_and_a_missing_one_is_refused(redis_server, namespace):
    async with linked(redis_server, db=1) as one, linked(redis_server) as zero, linked(redis_server, db=99_999) as none:
        await one.call("SET", namespace, "1")
        assert await zero.call("GET", namespace) is None
        assert await one.call("DEL", namespace) == 1
        with pytest.raises(StoreUnusable, match="db="):
            await none.call("PING")


async def test_a_source_of_credentials_is_asked_at_each_connecting(own_servers):
    server = own_servers.redis()
    async with linked(server) as link:
        await link.call("CONFIG", "SET", "requirepass", "first")

    class Source:
        def __init__(self):
            self.passwords = ["first", "second", "third"]

        def get_credentials(self):
            return (self.passwords.pop(0),)

        async def get_credentials_async(self):
            return self.get_credentials()

    async with linked(server, credential_source=Source()) as link:
        await link.call("CONFIG", "SET", "requirepass", "second")
        await link.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")
        with pytest.raises(StoreUnavailable):
            await link.call("PING")
        await link.call("CONFIG", "SET", "requirepass", "third")
        blocking = BlockingLink(address_of(server, credential_source=link._address.credential_source))
        assert await asyncio.to_thread(blocking.call, "PING") == b"PONG"
        blocking.close()


async def test_a_unix_socket_is_as_good(own_servers, tmp_path):
    server = own_servers.redis()
    path = str(server.folder / "s")
    server.launch.argv.extend(["--unixsocket", path])
    server.restart()
    address = Address(unix_socket=path)
    link, blocking = Link(address), BlockingLink(address)
    assert await link.call("PING") == b"PONG"
    assert await asyncio.to_thread(blocking.call, "PING") == b"PONG"
    await link.close()
    blocking.close()
    with pytest.raises(StoreUnavailable, match="no such socket"):
        await Link(Address(unix_socket=str(tmp_path / "none"))).call("PING")


# ── TLS ───────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_certificate_is_verified_unless_told_otherwise(redis_server, tmp_path):
    cert, key = make_certificate(tmp_path)
    async with tls_in_front_of(redis_server, cert, key) as port:
        for trusted in (Tls(ca_file=str(cert)), Tls(is_verified=False)):
            address = Address(host="localhost", port=port, tls=trusted)
            link, blocking = Link(address), BlockingLink(address)
            assert await link.call("ECHO", BIG) == BIG
            assert await asyncio.to_thread(blocking.call, "ECHO", BIG) == BIG
            await link.close()
            await asyncio.to_thread(blocking.close)
        foreign = Address(host="localhost", port=port, tls=Tls())
        misnamed = Address(host="127.0.0.1", port=port, tls=Tls(ca_file=str(cert)))
        for address in (foreign, misnamed):
            for call in (Link(address).call("PING"), asyncio.to_thread(BlockingLink(address).call, "PING")):
                with pytest.raises(StoreUnavailable, match="certificate is not trusted") as refused:
                    await call
                assert refused.value.outcome == "refused"


async def test_tls_towards_a_server_without_it_is_a_refusal(redis_server):
    address = address_of(redis_server, tls=Tls(is_verified=False), connect_timeout_ms=200)
    for call in (Link(address).call("PING"), asyncio.to_thread(BlockingLink(address).call, "PING")):
        with pytest.raises(StoreUnavailable) as refused:
            await call
        assert refused.value.outcome == "refused"


# ── losses ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_connection_lost_under_a_call_leaves_it_in_doubt_and_the_next_one_works(redis_server, namespace):
    async with linked(redis_server) as link, linked(redis_server) as other:
        client = await link.call("CLIENT", "ID")
        blocked = asyncio.create_task(link.call("BLPOP", namespace, 0))
        behind = asyncio.create_task(link.call("PING"))
        await until_reply(other, lambda text: b"cmd=blpop" in text, "CLIENT", "LIST", "ID", client)
        await other.call("CLIENT", "KILL", "ID", client)
        for call in (blocked, behind):
            with pytest.raises(StoreUnavailable) as lost:
                await call
            assert lost.value.outcome == "unknown"
        assert await link.call("CLIENT", "ID") != client


async def test_a_reply_that_does_not_come_in_time_is_never_anothers(redis_server, namespace):
    async with linked(redis_server, timeout_ms=1_000) as link:
        late, behind = await outcomes(link.call("BLPOP", namespace, LIMIT_S), link.call("ECHO", "lost"))
        for error in (late, behind):
            assert isinstance(error, StoreUnavailable)
            assert error.outcome == "unknown"
            assert "1000 ms" in error.message
        assert await link.call("ECHO", "next") == b"next"


async def test_the_timer_is_for_calls_not_for_the_silence_between_them(redis_server):
    async with linked(redis_server, timeout_ms=1_000) as link:
        client = await link.call("CLIENT", "ID")
        wire = link._wire
        assert wire is not None
        assert await asyncio.to_thread(wait_until, lambda: wire._timer is None)
        assert await link.call("CLIENT", "ID") == client


async def test_a_loop_that_was_held_up_blames_no_server(redis_server):
    """The reply lies unread in the socket: the time was ours."""
    async with linked(redis_server, timeout_ms=1_000) as link:
        client = await link.call("CLIENT", "ID")
        call = asyncio.create_task(link.call("CLIENT", "ID"))
        asyncio.get_running_loop().call_soon(lambda: wait_until(lambda: False, limit_s=1.5))
        assert await call == client


async def test_a_killed_server_is_found_again_when_it_is_back(own_servers):
    server = own_servers.redis(durable=True)
    async with linked(server) as link:
        await link.call("SET", "k", "1")
        server.kill()
        outcomes = set()
        for _ in range(3):
            with pytest.raises(StoreUnavailable) as gone:
                await link.call("PING")
            outcomes.add(gone.value.outcome)
        assert "refused" in outcomes
        server.restart()
        assert await link.call("GET", "k") == b"1"


async def test_a_master_that_became_a_replica_is_left(own_servers):
    """A name may lead to the new master by now: the next call connects anew."""
    server = own_servers.redis()
    async with linked(server) as link, linked(server) as other:
        client = await link.call("CLIENT", "ID")
        await other.call("REPLICAOF", "127.0.0.1", "1")
        refused, behind = await outcomes(link.call("SET", "k", "1"), link.call("ECHO", "x"))
        assert isinstance(refused, ReplyError)
        assert refused.code == "READONLY"
        assert behind == b"x"
        assert await link.call("CLIENT", "ID") != client
        blocking = BlockingLink(address_of(server))
        first = blocking.call("CLIENT", "ID")
        with pytest.raises(ReplyError):
            blocking.call("SET", "k", "1")
        assert blocking.call("CLIENT", "ID") != first
        blocking.close()


# ── end ───────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_closing_leaves_calls_in_doubt_and_refuses_later_ones(redis_server, namespace):
    link = Link(address_of(redis_server))
    await link.call("PING")
    call = asyncio.create_task(link.call("BLPOP", namespace, 0))
    await asyncio.sleep(0)
    await link.close()
    await link.close()
    with pytest.raises(StoreUnavailable) as lost:
        await call
    assert lost.value.outcome == "unknown"
    with pytest.raises(StoreUnavailable, match="closed") as refused:
        await link.call("PING")
    assert refused.value.outcome == "refused"


async def test_closing_ends_an_attempt_to_connect():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        link = Link(Address(host="127.0.0.1", port=silent.getsockname()[1]))
        call = asyncio.create_task(link.call("PING"))
        await until(lambda: link._connecting is not None)
        await link.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await call


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_forked_child_is_kept_off_its_parents_connections(redis_server):
    async with linked(redis_server) as link:
        blocking = BlockingLink(address_of(redis_server))
        client = await link.call("CLIENT", "ID")
        blocking_client = blocking.call("CLIENT", "ID")
        pid = os.fork()
        if pid == 0:
            os._exit(_child(link, blocking))
        assert (await asyncio.to_thread(os.waitpid, pid, 0))[1] == 0
        assert await link.call("CLIENT", "ID") == client
        assert blocking.call("CLIENT", "ID") == blocking_client
        blocking.close()


def _child(link: Link, blocking: BlockingLink) -> int:
    """0: both refuse, and the parent's socket is not even open here."""
    assert blocking._socket is not None
    with contextlib.suppress(OSError):
        blocking._socket.send(b"x")
        return 1
    with contextlib.suppress(ForkedProcess):
        blocking.call("PING")
        return 2
    with contextlib.suppress(ForkedProcess):
        link.call("PING").send(None)
        return 3
    return 0


# ── the lease thread's ────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_blocking_link_answers_and_comes_back_after_a_loss(redis_server, namespace):
    blocking, other = BlockingLink(address_of(redis_server)), BlockingLink(address_of(redis_server))
    assert blocking.call("ECHO", BIG) == BIG
    with pytest.raises(ReplyError):
        blocking.call("NOSUCH")
    client = blocking.call("CLIENT", "ID")
    other.call("CLIENT", "KILL", "ID", client)
    with pytest.raises(StoreUnavailable) as lost:
        blocking.call("PING")
    assert lost.value.outcome == "unknown"
    assert blocking.call("CLIENT", "ID") != client
    blocking.close()
    other.close()


def test_a_blocking_call_without_a_reply_in_time_is_in_doubt(redis_server, namespace):
    blocking = BlockingLink(address_of(redis_server, timeout_ms=1_000))
    with pytest.raises(StoreUnavailable, match="1000 ms") as lost:
        blocking.call("BLPOP", namespace, LIMIT_S)
    assert lost.value.outcome == "unknown"
    assert blocking.call("ECHO", "next") == b"next"
    blocking.close()


def test_a_blocking_link_is_closed_from_another_thread_under_a_call(redis_server, namespace):
    blocking, other = BlockingLink(address_of(redis_server)), BlockingLink(address_of(redis_server))
    client = blocking.call("CLIENT", "ID")
    errors = []

    def call():
        try:
            blocking.call("BLPOP", namespace, 0)
        except StoreUnavailable as exc:
            errors.append(exc.outcome)

    thread = threading.Thread(target=call)
    thread.start()
    assert wait_until(lambda: b"cmd=blpop" in other.call("CLIENT", "LIST", "ID", client))
    blocking.close()
    thread.join(LIMIT_S)
    assert errors == ["unknown"]
    with pytest.raises(StoreUnavailable, match="closed"):
        blocking.call("PING")
    other.close()


def test_a_blocking_link_to_nobody_is_a_refusal():
    with pytest.raises(StoreUnavailable, match="nobody listens") as refused:
        BlockingLink(Address(host="127.0.0.1", port=free_port())).call("PING")
    assert refused.value.outcome == "refused"

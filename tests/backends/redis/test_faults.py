"""What went wrong, told in psyqueue's words: which kind, whether anything was written, and what to do."""

from __future__ import annotations

import socket
import ssl

import pytest
import redis

from psyqueue.backends._redis.decoding import unless_refused
from psyqueue.backends._redis.faults import ReplyError, translate
from psyqueue.errors import SessionLost, StoreBusy, StoreError, StoreFull, StoreUnavailable, StoreUnusable

PLACE = "db.example:6379"


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("LOADING Redis is loading the dataset in memory", StoreUnavailable, "loading"),
        ("MASTERDOWN Link with MASTER is down", StoreUnavailable, "lost its master"),
        ("CLUSTERDOWN The cluster is down", StoreUnavailable, "cluster"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", StoreUnavailable, "moving"),
        ("READONLY You can't write against a read only replica.", StoreUnavailable, "replica"),
        ("NOREPLICAS Not enough good replicas to write.", StoreUnavailable, "min-replicas"),
        ("MISCONF Errors writing to the AOF file: Permission denied", StoreUnavailable, "save"),
        ("ERR max number of clients reached", StoreUnavailable, "maxclients"),
        ("MISCONF Errors writing to the AOF file: No space left on device", StoreFull, "disk"),
        ("OOM command not allowed when used memory > 'maxmemory'.", StoreFull, "maxmemory"),
        ("BUSY Redis is busy running a script.", StoreBusy, "script"),
        ("NOAUTH Authentication required.", StoreUnusable, "password="),
        ("WRONGPASS invalid username-password pair or user is disabled.", StoreUnusable, "password="),
        ("ERR AUTH <password> called without any password configured", StoreUnusable, "password="),
        ("NOPERM this user has no permissions to run the 'eval' command", StoreUnusable, "ACL"),
        ("ERR invalid DB index", StoreUnusable, "db="),
        ("ERR DB index is out of range", StoreUnusable, "db="),
        ("ERR SELECT is not allowed in cluster mode", StoreUnusable, "db=0"),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", StoreUnusable, "key_prefix="),
        ("MOVED 3999 127.0.0.1:6381", StoreUnusable, "cluster"),
        ("CROSSSLOT Keys in request don't hash to the same slot", StoreUnusable, "report"),
        ("ERR unknown command 'EVALSHA', with args beginning with:", StoreUnusable, "rename"),
        ("ERR ACL failure in script: User u has no permissions to run the 'get' command", StoreUnusable, "'get'"),
        ("ERR Error running script: @user_script: 8: The user executing the script can't run", StoreUnusable, "ACL"),
        ("ERR Unknown Redis command called from script script: 7777", StoreUnusable, "rename"),
    ],
)
def test_each_refusal_of_the_server_has_its_meaning(text, kind, says):
    error = translate(ReplyError(text), PLACE)
    assert type(error) is kind
    assert says in error.message
    assert error.message.startswith(PLACE)
    assert not isinstance(error, StoreUnavailable) or error.outcome == "refused"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("ERR Error running script (call to f_1): @user_script: 1: -OOM command not allowed when x.", "OOM"),
        ("ERR Error running script (call to f_1): @user_script:1: WRONGTYPE Operation against a key", "WRONGTYPE"),
        ("ERR WRONGTYPE Operation against a key script: psyqueue_enqueue_d3e5, on @user_function:7.", "WRONGTYPE"),
        ("ERR user_script:1: boo script: 4c40, on @user_script:1.", "ERR"),
        ("ERR AUTH <password> called without any password configured for the default user.", "ERR"),
        ("NOSCRIPT No matching script. Please use EVAL.", "NOSCRIPT"),
    ],
)
def test_what_a_script_ran_into_is_found_in_the_words_of_old_servers(text, code):
    assert ReplyError(text).code == code


def test_an_unknown_refusal_leaves_the_outcome_unknown_and_quotes_it():
    error = translate(ReplyError("ERR user_script:1: boo"), PLACE)
    assert isinstance(error, StoreUnavailable)
    assert error.outcome == "unknown"
    assert "boo" in error.message


@pytest.mark.parametrize(
    ("exc", "says"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "nobody listens"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), …"), "nobody listens"),
        (socket.gaierror(-2, "Name or service not known"), "host="),
        (TimeoutError(), "connect_timeout"),
        (FileNotFoundError(2, "No such file"), "socket"),
        (PermissionError(13, "Permission denied"), "rights"),
        (EOFError(), "TLS"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"), "TLS"),
        (OSError(113, "No route to host"), "No route"),
    ],
)
def test_a_server_that_cannot_be_reached_did_nothing(exc, says):
    error = translate(exc, PLACE)
    assert isinstance(error, StoreUnavailable)
    assert error.outcome == "refused"
    assert says in error.message
    assert PLACE in error.message


def test_errors_of_our_own_pass():
    lost = SessionLost("s")
    assert translate(lost) is lost


def test_a_full_server_says_what_is_meant_by_full(own_servers):
    """The words come from a real server, in a script and outside of one."""
    client = redis.Redis.from_url(own_servers.redis().url)
    client.config_set("maxmemory", 1)
    for command in (("SET", "k", "1"), ("EVAL", "return redis.call('SET', KEYS[1], '1')", 1, "k")):
        with pytest.raises(redis.ResponseError) as refused:
            client.execute_command(*command)
        # redis-py takes the first word away.
        error: StoreError | Exception = translate(ReplyError(f"OOM {refused.value}"))
        assert isinstance(error, StoreFull)
    client.close()


@pytest.mark.parametrize("reply", [b"OK", 1, None, [], [0]])
def test_a_reply_that_no_script_gives_is_no_outcome(reply):
    """From a proxy that answers by itself; the same call, sent again, finds out."""
    with pytest.raises(StoreUnavailable, match="between") as told:
        unless_refused(reply)
    assert told.value.outcome == "unknown"

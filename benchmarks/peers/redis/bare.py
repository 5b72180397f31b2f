"""What Redis gives by itself, by a client of a few lines: no queue on this machine can be faster with these batches."""

from __future__ import annotations

from benchmarks.machine import Window
from benchmarks.redis_server import Client, pack
from benchmarks.spec import Facts, Spec

MOVE = """
local limit = tonumber(ARGV[1])
local keys = {}
for at = 2, #ARGV do keys[#keys + 1] = 'job:' .. ARGV[at] end
if #keys > 0 then
  redis.call('SREM', KEYS[2], unpack(ARGV, 2))
  redis.call('DEL', unpack(keys))
end
local ids = redis.call('LPOP', KEYS[1], limit)
if not ids then return {} end
redis.call('SADD', KEYS[2], unpack(ids))
for at = 1, #ids do keys[at] = 'job:' .. ids[at] end
return {ids, redis.call('MGET', unpack(keys, 1, #ids))}
"""


def echo(spec: Spec) -> Facts:
    """Round trips of one caller, one after the other."""
    client = Client.at(spec)
    with Window() as window:
        for _ in range(spec.n):
            client.ask("PING")
    return window.rate(spec.n)


def insert(spec: Spec) -> Facts:
    """A string and an entry of a list per job, `callers` of them in a pipeline."""
    client = Client.at(spec)
    with Window() as window:
        _insert(client, spec)
    return window.rate(spec.n)


def _insert(client: Client, spec: Spec) -> None:
    for start in range(0, spec.n, spec.callers):
        ids = [str(i) for i in range(start, min(spec.n, start + spec.callers))]
        bodies = (part for i in ids for part in (f"job:{i}", f'{{"i":{i}}}'))
        client.pipeline(pack("MSET", *bodies) + pack("RPUSH", "ready", *ids), 2)


def move(spec: Spec) -> Facts:
    """The least a queue does with a job: ready to active, and active to gone, `callers` in a call."""
    client, count = Client.at(spec), 0
    _insert(client, spec)
    digest: str = client.ask("SCRIPT", "LOAD", MOVE)
    ids: list[str] = []
    with Window() as window:
        while True:
            found = client.ask("EVALSHA", digest, "2", "ready", "active", str(spec.callers), *ids)
            if not found:
                break
            ids = found[0]
            count += len(ids)
    if count != spec.n:
        raise RuntimeError(f"{count} of {spec.n} were moved")
    return window.rate(spec.n)

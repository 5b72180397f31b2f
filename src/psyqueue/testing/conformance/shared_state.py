"""The shared memory of plugins: state keys, counters, buckets, records, locks."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from psyqueue.backend import Effects, Item, Record
from psyqueue.errors import RateLimitError, StateConflict
from psyqueue.testing.conformance.handle import DAY_MS, Store, add, delete, job, put, take


# ── put, delete ───────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_versions_start_at_1_and_grow_by_1(store: Store) -> None:
    assert [await store.write(put("k", b"%d" % number)) for number in range(3)] == [(1,), (2,), (3,)]
    assert await store.read("k") == Item("k", b"2", 3)
    assert await store.read("other") is None


async def test_put_is_compare_and_set_on_the_version(store: Store) -> None:
    with pytest.raises(StateConflict) as caught:
        await store.write(put("k", expected=1))
    assert caught.value.found == 0
    await store.write(put("k", b"1", expected=0))
    with pytest.raises(StateConflict):
        await store.write(put("k", b"2", expected=0))
    await store.write(put("k", b"3", expected=1))
    assert await store.read("k") == Item("k", b"3", 2)


async def test_delete_is_compare_and_set_if_asked_so(store: Store) -> None:
    await store.write(put("k"))
    with pytest.raises(StateConflict):
        await store.write(delete("k", expected=2))
    assert await store.write(delete("k", expected=1)) == (0,)
    assert await store.read("k") is None
    assert await store.write(delete("k")) == (0,)
    assert await store.write(put("k", expected=0)) == (1,)


async def test_writes_of_a_call_are_all_or_none_in_order(store: Store) -> None:
    assert await store.write(put("a"), put("a", b"2", expected=1), add("n", 4), add("n", -1), delete("a")) == (
        1,
        2,
        4,
        3,
        0,
    )
    with pytest.raises(StateConflict):
        await store.write(add("n", 100), put("x"), put("n", expected=99))
    with pytest.raises(RateLimitError):
        await store.write(add("n", 100), take("t", 1, capacity=1), take("t", 1, capacity=1))
    assert await store.write(add("n", 0)) == (3,)
    assert await store.read("x") is None
    assert await store.write(take("t", 1, capacity=1)) == (0,)


async def test_values_are_opaque(store: Store) -> None:
    for value in (b"", b"[]", b"{}", b'"\\u0000"', "🚚".encode(), b"9007199254740993", b"x" * 100_000):
        await store.write(put("k", value))
        item = await store.read("k")
        assert item is not None
        assert item.value == value


async def test_keys_are_never_interpreted(store: Store) -> None:
    keys = ("a", "A", "a:b", "a%", "a_", "*", "'", "🚚", "jobs", " ")
    await store.write(*(put(key, key.encode()) for key in keys))
    items = await store.backend.read_state(keys)
    assert [item.value.decode() for item in items if item] == list(keys)


async def test_reading_answers_in_the_order_asked(store: Store) -> None:
    await store.write(put("a"), put("b"))
    items = await store.backend.read_state(("b", "x", "a", "b"))
    assert [item.key if item else None for item in items] == ["b", None, "a", "b"]
    assert await store.backend.read_state(()) == ()


async def test_a_key_is_gone_after_its_time(store: Store) -> None:
    await store.write(put("k", ttl_ms=1_000), put("stays"))
    await store.advance(999)
    assert await store.read("k") is not None
    await store.advance(1)
    assert await store.read("k") is None
    items, _ = await store.backend.scan_state("", None, 10)
    assert [item.key for item in items] == ["stays"]
    assert await store.write(put("k", expected=0)) == (1,)


async def test_a_clock_that_goes_back_does_not_stretch_the_time_of_a_key(store: Store) -> None:
    await store.write(put("k", ttl_ms=1_000))
    await store.advance(-3_600_000)
    assert await store.read("k") is not None
    await store.advance(1_000)
    assert await store.read("k") is None


async def test_each_write_sets_the_time_anew(store: Store) -> None:
    await store.write(put("k", ttl_ms=1_000))
    await store.write(put("k"))
    await store.advance(10_000)
    assert await store.read("k") is not None


async def test_scan_is_in_key_order_by_prefix_and_in_pages(store: Store) -> None:
    keys = ["a", "ab", "abc", "b", "a%", "a_b", "A", "aé", "a\U0001f69a", "a\uffff"]
    await store.write(*(put(key) for key in keys))
    for prefix in ("", "a", "ab", "a%", "a_", "zz", "aé"):
        seen: list[str] = []
        cursor: str | None = None
        while True:
            items, cursor = await store.backend.scan_state(prefix, cursor, 2)
            assert len(items) <= 2
            seen += [item.key for item in items]
            if cursor is None:
                break
        assert seen == sorted(key for key in keys if key.startswith(prefix))


# ── counters and buckets ──────────────────────────────────────────────────────────────────────────────────────────────
async def test_counters_count_from_absent_and_show_as_json(store: Store) -> None:
    assert await store.write(add("n", 5)) == (5,)
    assert await store.write(add("n", -7)) == (-2,)
    assert await store.read("n") == Item("n", b"-2", 2)


async def test_a_counter_holds_64_bits(store: Store) -> None:
    await store.write(add("n", (1 << 62)))
    assert await store.write(add("n", (1 << 62) - 1)) == ((1 << 63) - 1,)


async def test_a_bucket_starts_full_and_refills_by_its_rate(store: Store) -> None:
    def tokens(number: int) -> tuple[int, ...]:
        return (number,)

    assert await store.write(take("t", 2, capacity=3, refill_per_minute=60)) == tokens(1)
    assert await store.write(take("t", 1, capacity=3, refill_per_minute=60)) == tokens(0)
    with pytest.raises(RateLimitError) as caught:
        await store.write(take("t", 1, capacity=3, refill_per_minute=60))
    assert (caught.value.key, caught.value.retry_after) == ("t", 1.0)
    await store.advance(400)
    with pytest.raises(RateLimitError) as caught:
        await store.write(take("t", 1, capacity=3, refill_per_minute=60))
    assert caught.value.retry_after == 0.6
    await store.advance(600)
    assert await store.write(take("t", 1, capacity=3, refill_per_minute=60)) == tokens(0)
    await store.advance(60_000)
    assert await store.write(take("t", 0, capacity=3, refill_per_minute=60)) == tokens(3)


async def test_a_bucket_that_rested_for_years_is_full(store: Store) -> None:
    """At a high rate what came in meanwhile is more than 64 bits hold."""
    await store.write(take("t", 2, capacity=3, refill_per_minute=10**9))
    for _ in range(2):
        await store.advance(3_000 * DAY_MS)
        assert await store.write(take("t", 3, capacity=3, refill_per_minute=10**9)) == (0,)


async def test_a_bucket_shows_whole_tokens(store: Store) -> None:
    await store.write(take("t", 1, capacity=5, refill_per_minute=60))
    item = await store.read("t")
    assert item is not None
    assert item.value == b"4"


async def test_a_clock_that_goes_back_fills_no_bucket(store: Store) -> None:
    await store.write(take("t", 1, capacity=1, refill_per_minute=60))
    await store.advance(-3_600_000)
    with pytest.raises(RateLimitError):
        await store.write(take("t", 1, capacity=1, refill_per_minute=60))
    await store.advance(1_000)
    await store.write(take("t", 1, capacity=1, refill_per_minute=60))


async def test_effects_of_a_write_put_in_jobs_too(store: Store) -> None:
    await store.backend.write_state(store.op(), Effects(jobs=(job("a"), job("a", digest=b"2")), writes=(put("k"),)))
    assert await store.run() == "a"


# ── records ───────────────────────────────────────────────────────────────────────────────────────────────────────────
async def append(store: Store, stream: str, *bodies: bytes) -> None:
    await store.backend.write_state(store.op(), Effects(records=tuple(Record(stream, body) for body in bodies)))


async def test_records_are_numbered_without_gaps_per_stream(store: Store) -> None:
    start_ms = await store.now_ms()
    await append(store, "r", b"1", b"2")
    await append(store, "other", b"x")
    await store.advance(10)
    await append(store, "r", b"3")
    stored = await store.backend.read_records("r", 0, 10)
    assert [(each.seq, each.body, each.at_ms - start_ms) for each in stored] == [
        (1, b"1", 0),
        (2, b"2", 0),
        (3, b"3", 10),
    ]
    assert [each.seq for each in await store.backend.read_records("other", 0, 10)] == [1]
    assert await store.backend.read_records("nothing", 0, 10) == ()


async def test_a_refused_step_uses_no_number(store: Store) -> None:
    await append(store, "r", b"1")
    with pytest.raises(StateConflict):
        await store.backend.write_state(
            store.op(), Effects(writes=(put("k", expected=9),), records=(Record("r", b"no"),))
        )
    await append(store, "r", b"2")
    assert [each.seq for each in await store.backend.read_records("r", 0, 10)] == [1, 2]


async def test_records_are_read_after_a_number_up_to_a_limit(store: Store) -> None:
    await append(store, "r", *(b"%d" % number for number in range(1, 11)))
    assert [each.seq for each in await store.backend.read_records("r", 3, 4)] == [4, 5, 6, 7]
    assert [each.seq for each in await store.backend.read_records("r", 8, 4)] == [9, 10]
    assert await store.backend.read_records("r", 10, 4) == ()


# ── locks ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_lock_is_held_by_one(store: Store) -> None:
    mine = await store.backend.lock(store.op(), "l", "me", 1_000)
    assert (mine.holder, mine.expires_in_ms, mine.fence is not None) == ("me", 1_000, True)
    await store.advance(400)
    yours = await store.backend.lock(store.op(), "l", "you", 9_000)
    assert (yours.fence, yours.holder, yours.expires_in_ms) == (None, "me", 600)
    assert (await store.backend.lock(store.op(), "other", "you", 1_000)).fence is not None


async def test_renewing_keeps_the_fence(store: Store) -> None:
    first = await store.backend.lock(store.op(), "l", "me", 1_000)
    for _ in range(3):
        await store.advance(900)
        assert await store.backend.lock(store.op(), "l", "me", 1_000) == replace(first, expires_in_ms=1_000)
    assert (await store.backend.lock(store.op(), "l", "you", 1_000)).fence is None


async def test_a_lapsed_lock_can_be_taken_with_a_greater_fence(store: Store) -> None:
    first = await store.backend.lock(store.op(), "l", "me", 1_000)
    await store.advance(1_000)
    second = await store.backend.lock(store.op(), "l", "you", 1_000)
    assert first.fence is not None
    assert second.fence is not None
    assert second.fence > first.fence
    assert (await store.backend.lock(store.op(), "l", "me", 1_000)).fence is None
    await store.advance(1_000)
    third = await store.backend.lock(store.op(), "l", "me", 1_000)
    assert third.fence is not None
    assert third.fence > second.fence


async def test_letting_go_frees_the_lock_and_the_fence_grows_all_the_same(store: Store) -> None:
    first = await store.backend.lock(store.op(), "l", "me", 1_000)
    assert (await store.backend.lock(store.op(), "l", "me", 0)).fence is None
    second = await store.backend.lock(store.op(), "l", "you", 1_000)
    assert second.holder == "you"
    assert (second.fence or 0) > (first.fence or 0)


async def test_only_the_holder_lets_go(store: Store) -> None:
    """The reference deletes by name: an expired holder removes the lock of the new one."""
    await store.backend.lock(store.op(), "l", "old", 1_000)
    await store.advance(1_000)
    mine = await store.backend.lock(store.op(), "l", "new", 1_000)
    await store.backend.lock(store.op(), "l", "old", 0)
    assert (await store.backend.lock(store.op(), "l", "old", 1_000)).holder == "new"
    assert (await store.backend.lock(store.op(), "l", "new", 1_000)).fence == mine.fence


async def test_letting_go_of_nothing_is_nothing(store: Store) -> None:
    assert (await store.backend.lock(store.op(), "l", "me", 0)).fence is None
    assert (await store.backend.lock(store.op(), "l", "you", 1_000)).holder == "you"


async def test_a_clock_that_goes_back_does_not_stretch_a_lock(store: Store) -> None:
    await store.backend.lock(store.op(), "l", "me", 1_000)
    await store.advance(-3_600_000)
    assert (await store.backend.lock(store.op(), "l", "you", 1_000)).fence is None
    await store.advance(1_000)
    assert (await store.backend.lock(store.op(), "l", "you", 1_000)).fence is not None

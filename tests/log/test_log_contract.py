"""What every implementation of the log keeps to. Nothing here knows which one it runs against."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from router.contract.errors import Unavailable
from router.contract.events import DEMAND, REQUESTS, SPECS
from router.runtime.log.base import Log, Message
from router.runtime.log.opening import open_log
from tests.support.log_reading import read, read_all
from tests.support.log_writing import Place, report, shipping, writing

Opener = Callable[[], Log]


@pytest.fixture(params=["embedded", "kafka"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """One fresh log per test; the one on Kafka has its topics on a real broker and its spool here."""
    if request.param == "embedded":
        return Place(f"embedded:{tmp_path / 'log'}")
    servers = request.getfixturevalue("kafka_broker").servers
    prefix = request.getfixturevalue("prefix")
    return Place(f"kafka://{servers}/{prefix}?partitions=3", tmp_path / "spool")


@pytest.fixture
async def opener(place: Place) -> AsyncIterator[Opener]:
    """Opens the test's log as often as it likes, each time as another writer."""
    logs: list[Log] = []

    def again() -> Log:
        logs.append(open_log(place.url, spool=place.spool))
        return logs[-1]

    async with shipping(place):
        yield again
        for log in logs:
            await log.close()


@pytest.fixture
def log(opener: Opener) -> Log:
    return opener()


async def test_sequences_count_each_topic_from_zero(log: Log) -> None:
    assert [log.append(DEMAND, "e", b"") for _ in range(3)] == [0, 1, 2]
    assert [log.append(REQUESTS, "e", b"") for _ in range(2)] == [0, 1]


async def test_a_writer_is_32_hex_digits_and_new_at_every_opening(opener: Opener) -> None:
    first, second = opener(), opener()
    assert len(bytes.fromhex(first.writer)) == 16
    assert first.writer != second.writer


async def test_a_message_comes_out_as_it_went_in(log: Log) -> None:
    value = bytes(range(256)) * 300
    sequence = log.append(DEMAND, "écho-1", value)
    (message,) = await read(await log.reader([DEMAND]), 1)
    assert (message.topic, message.key, message.value) == (DEMAND, "écho-1", value)
    assert (message.writer, message.sequence) == (log.writer, sequence)
    assert message.time_ns > 0


async def test_an_empty_value_is_a_message(log: Log) -> None:
    log.append(DEMAND, "", b"")
    (message,) = await read(await log.reader([DEMAND]), 1)
    assert (message.key, message.value) == ("", b"")


async def test_order_holds_per_key_over_several_writers(opener: Opener) -> None:
    first, second = opener(), opener()
    for number in range(200):
        writer = (first, second)[number % 2]
        writer.append(DEMAND, f"key-{number % 5}", str(number).encode())
        await writer.flush()
    by_key: dict[str, list[int]] = defaultdict(list)
    for message in await read(await first.reader([DEMAND]), 200):
        by_key[message.key].append(int(message.value))
    assert by_key == {f"key-{k}": list(range(k, 200, 5)) for k in range(5)}


async def test_earliest_reads_everything_and_latest_only_what_comes(log: Log) -> None:
    for number in range(10):
        log.append(DEMAND, "e", str(number).encode())
    await log.flush()
    late = await log.reader([DEMAND], "latest")
    log.append(DEMAND, "e", b"new")
    assert [m.value for m in await read(late, 1)] == [b"new"]
    assert [m.value for m in await read(await log.reader([DEMAND], "earliest"), 11)][-2:] == [b"9", b"new"]


async def test_a_reader_gets_its_own_topics_only(log: Log) -> None:
    log.append(REQUESTS, "e", b"no")
    log.append(DEMAND, "e", b"yes")
    log.append(SPECS, "e", b"this too")
    await log.flush()
    messages = await read_all(await log.reader([DEMAND, SPECS]))
    assert {(m.topic, m.value) for m in messages} == {(DEMAND, b"yes"), (SPECS, b"this too")}


async def test_reading_resumes_exactly_where_positions_say(opener: Opener) -> None:
    log = opener()
    for number in range(2_000):
        log.append((DEMAND, REQUESTS)[number % 2], f"e{number % 3}", str(number).encode())
    await log.flush()
    seen: list[int] = []
    position = (await log.reader([DEMAND, REQUESTS])).positions()
    while len(seen) < 2_000:
        reader = (
            await opener().reader([DEMAND, REQUESTS], position)
            if not seen
            else await log.reader([DEMAND, REQUESTS], position)
        )
        seen.extend(int(m.value) for m in await reader.next(30))
        position = reader.positions()
        assert reader.stats.gaps == reader.stats.duplicates == 0
        await reader.close()
    assert sorted(seen) == list(range(2_000))


async def test_a_topic_without_a_position_is_read_from_its_beginning(log: Log) -> None:
    log.append(DEMAND, "e", b"old")
    await log.flush()
    reader = await log.reader([DEMAND])
    await read(reader, 1)
    log.append(REQUESTS, "e", b"other")
    log.append(DEMAND, "e", b"new")
    await log.flush()
    resumed = await log.reader([DEMAND, REQUESTS], reader.positions())
    assert {m.value for m in await read(resumed, 2)} == {b"other", b"new"}


async def test_an_unknown_start_is_refused(log: Log) -> None:
    with pytest.raises(ValueError, match="'newest'"):
        await log.reader([DEMAND], "newest")


async def test_a_reader_that_starts_in_the_middle_counts_no_gap(log: Log) -> None:
    for _ in range(10):
        log.append(DEMAND, "e", b"")
    await log.flush()
    reader = await log.reader([DEMAND], "latest")
    log.append(DEMAND, "e", b"")
    await read(reader, 1)
    assert (reader.stats.messages, reader.stats.gaps, reader.stats.duplicates) == (1, 0, 0)
    assert reader.stats.next_sequences == {(DEMAND, log.partition_of("e"), log.writer): 11}


async def test_the_newest_message_of_each_compacted_key_is_always_there(opener: Opener) -> None:
    log = opener()
    for revision in range(100):
        log.append(SPECS, f"endpoint-{revision % 7}", str(revision).encode())
    await log.flush()
    reader = await opener().reader([SPECS])
    newest = {message.key: int(message.value) for message in await read_all(reader)}
    assert newest == {f"endpoint-{k}": max(range(k, 100, 7)) for k in range(7)}
    assert reader.stats.gaps == 0


async def test_next_waits_for_a_message_of_another_writer(opener: Opener) -> None:
    reader = await opener().reader([DEMAND])
    writer = opener()
    pending = asyncio.create_task(reader.next())
    assert not (await asyncio.wait({pending}, timeout=0))[0]
    writer.append(DEMAND, "e", b"here")
    async with asyncio.timeout(30):
        (message,) = await pending
    assert message.value == b"here"


async def test_next_returns_empty_when_the_time_is_over(log: Log) -> None:
    reader = await log.reader([DEMAND])
    assert list(await reader.next(0)) == []
    assert list(await reader.next(0.01)) == []


async def test_next_without_time_still_returns_what_is_there(log: Log) -> None:
    reader = await log.reader([DEMAND])
    assert list(await reader.next(0)) == []
    log.append(DEMAND, "e", b"")
    await log.flush()
    messages: list[Message] = []
    async with asyncio.timeout(30):
        while not messages:
            messages = list(await reader.next(0))
    assert len(messages) == 1


async def test_a_cancelled_next_loses_nothing(log: Log) -> None:
    reader = await log.reader([DEMAND])
    seen: list[int] = []
    for number in range(200):
        log.append(DEMAND, "e", str(number).encode())
        pending = asyncio.create_task(reader.next())
        for _ in range(number % 5):
            await asyncio.sleep(0)
        pending.cancel()
        result = (await asyncio.gather(pending, return_exceptions=True))[0]
        if not isinstance(result, BaseException):
            seen.extend(int(m.value) for m in result)
    await log.flush()
    seen.extend(int(m.value) for m in await read_all(reader))
    assert seen == list(range(200))
    assert reader.stats.gaps == reader.stats.duplicates == 0


async def test_closing_a_reader_ends_its_pending_next(log: Log) -> None:
    reader = await log.reader([DEMAND])
    pending = asyncio.create_task(reader.next())
    await asyncio.wait({pending}, timeout=0)
    await reader.close()
    await reader.close()
    async with asyncio.timeout(30):
        assert list(await pending) == []
        assert list(await reader.next()) == []


async def test_caught_up_counts_what_was_appended_before(log: Log) -> None:
    reader = await log.reader([DEMAND])
    assert await reader.caught_up()
    log.append(DEMAND, "e", b"")
    assert not await reader.caught_up()
    log.append(REQUESTS, "e", b"")
    await read(reader, 1)
    assert await reader.caught_up()
    assert await (await log.reader([DEMAND], "latest")).caught_up()


async def test_flush_makes_everything_accepted_readable(opener: Opener) -> None:
    log = opener()
    for _ in range(500):
        log.append(DEMAND, "e", b"x" * 100)
    await log.flush()
    await log.flush()
    assert len(await read_all(await opener().reader([DEMAND]))) == 500


async def test_close_commits_what_was_accepted(opener: Opener) -> None:
    log = opener()
    for number in range(5_000):
        log.append((DEMAND, SPECS)[number % 2], str(number), b"")
    await log.close()
    await log.close()
    assert len(await read(await opener().reader([DEMAND, SPECS]), 5_000)) == 5_000


async def test_after_close_streams_are_dropped_and_counted_and_compacted_topics_refused(opener: Opener) -> None:
    log = opener()
    await log.close()
    assert log.append(DEMAND, "e", b"") == -1
    assert dict(log.dropped()) == {DEMAND: 1}
    with pytest.raises(Unavailable, match="specs"):
        log.append(SPECS, "e", b"")


async def test_a_hundred_thousand_messages(opener: Opener) -> None:
    log = opener()
    reader = await opener().reader([DEMAND])

    async def write() -> None:
        for number in range(100_000):
            log.append(DEMAND, f"e{number % 100}", str(number).encode())
            if number % 10_000 == 9_999:
                await log.flush()

    writing_task = asyncio.create_task(write())
    messages = await read(reader, 100_000)
    await writing_task
    by_key: dict[str, list[int]] = defaultdict(list)
    for message in messages:
        by_key[message.key].append(int(message.value))
    assert by_key == {f"e{k}": list(range(k, 100_000, 100)) for k in range(100)}
    assert (reader.stats.messages, reader.stats.gaps, reader.stats.duplicates) == (100_000, 0, 0)


async def test_processes_write_at_once_and_nothing_is_lost_or_mixed_up(place: Place, log: Log) -> None:
    count, processes = 1_000, 3
    reader = await log.reader([DEMAND])

    async def run() -> None:
        async with writing(place, DEMAND, count=count) as process, asyncio.timeout(60):
            assert await process.communicate()
            assert process.returncode == 0

    runs = [asyncio.create_task(run()) for _ in range(processes)]
    messages = await read(reader, processes * count)
    await asyncio.gather(*runs)
    by_key: dict[tuple[str, str], list[int]] = defaultdict(list)
    for message in messages:
        by_key[message.writer, message.key].append(int(message.value))
    assert len({writer for writer, _ in by_key}) == processes
    for (_, key), numbers in by_key.items():
        assert numbers == list(range(int(key[-1]), count, 3))
    assert reader.stats.gaps == reader.stats.duplicates == 0


async def test_a_killed_writer_leaves_no_hole_and_readers_go_on(place: Place, opener: Opener) -> None:
    log = opener()
    reader = await log.reader([DEMAND])
    committed: dict[str, int] = {}
    for _ in range(3):
        async with writing(place, DEMAND) as process:
            await report(process)
            writer, committed_now = await report(process)
            committed[writer] = committed_now
            process.kill()  # SIGKILL, in the middle of whatever it does
            await process.wait()
    log.append(DEMAND, "e", b"0")
    await log.flush()
    messages = await read_all(reader)
    by_writer = Counter(message.writer for message in messages)
    assert all(by_writer[writer] >= count for writer, count in committed.items())
    assert by_writer[log.writer] == 1
    first = messages[0].writer
    assert sorted(int(m.value) for m in messages if m.writer == first) == list(range(by_writer[first]))
    assert reader.stats.gaps == reader.stats.duplicates == 0
    again = await opener().reader([DEMAND])
    assert len(await read_all(again)) == len(messages)

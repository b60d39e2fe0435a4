"""The newest lines are the newest over all partitions, and every event is a line that says what it is."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import hypothesis.strategies as st
import pytest
from hypothesis import given

from router.contract import codec
from router.contract.errors import Unavailable
from router.contract.events import DECISIONS, NOTICES, REQUESTS, SNAPSHOTS, TOPICS, Decision, EndpointSnapshot
from router.control import event_lines
from router.control.event_lines import last_lines, lines_of
from router.runtime.log.base import Log, Message
from tests.support.contract_samples import COUNTS, REQUEST_NAMES, SAMPLES, pack_requests
from tests.support.contract_samples import REQUESTS as RECORDS
from tests.support.contract_strategies import RELAXED
from tests.support.control_partitions import PartitionedLog


def decision(partition: int, offset: int, number: int) -> Message:
    """A message that is told apart by its time, which its event repeats."""
    value = codec.encode_decision(Decision("shop", "blue", number, 1, 2, "load", 1))
    return Message(DECISIONS, partition, offset, "shop", value, "w", offset, number)


def requests(partition: int, offset: int, number: int, records: int) -> Message:
    value = pack_requests((RECORDS * records)[:records], REQUEST_NAMES)
    return Message(REQUESTS, partition, offset, "shop", value, "w", offset, number)


def numbers(lines: list[bytes]) -> list[int]:
    return [json.loads(line)["event"]["at_ns"] for line in lines]


async def tail(log: PartitionedLog, count: int) -> list[bytes]:
    lines, reader = await last_lines(cast("Log", log), log.topic, count)
    assert [one for one in log.readers if not one.closed] == [reader], "readers were left open"
    assert all(position.offset == log.ends()[position.partition] for position in reader.positions())
    return lines


@RELAXED
@given(
    homes=st.lists(st.integers(0, 3), max_size=60),
    gone=st.lists(st.integers(0, 1000), min_size=4, max_size=4),
    partitions=st.integers(2, 4),
    count=st.integers(1, 70),
)
async def test_the_tail_is_the_newest_over_all_partitions_by_time(
    homes: list[int], gone: list[int], partitions: int, count: int
) -> None:
    offsets = list(gone)
    messages = []
    for number, home in enumerate(homes):
        partition = home % partitions
        messages.append(decision(partition, offsets[partition], number))
        offsets[partition] += 1
    log = PartitionedLog(DECISIONS, messages, partitions)
    assert numbers(await tail(log, count)) == list(range(len(homes)))[-count:]


async def test_all_of_the_newest_may_be_in_one_of_many_partitions() -> None:
    early = [decision(partition, offset, offset) for partition in range(1, 12) for offset in range(50)]
    late = [decision(0, offset, 1000 + offset) for offset in range(500)]
    log = PartitionedLog(DECISIONS, [*early, *late], 12)
    assert numbers(await tail(log, 120)) == list(range(1380, 1500))


async def test_what_is_gone_from_a_partition_is_not_looked_for_again_and_again() -> None:
    messages = [decision(partition, 10**9 + offset, offset) for partition in range(3) for offset in range(2)]
    log = PartitionedLog(DECISIONS, messages, 3)
    assert len(await tail(log, 100)) == 6
    assert len(log.readers) == 2, "one to find the end, one to read"


async def test_one_message_of_many_records_can_be_the_whole_tail() -> None:
    messages = [
        requests(partition, offset, 10 * offset + partition, 40) for partition in range(3) for offset in range(9)
    ]
    lines = [json.loads(line) for line in await tail(PartitionedLog(REQUESTS, messages, 3), 50)]
    assert [(line["partition"], line["offset"]) for line in lines] == [(1, 8)] * 10 + [(2, 8)] * 40


async def test_messages_without_a_line_do_not_stand_in_for_older_ones() -> None:
    messages = [requests(0, offset, offset, int(offset < 3)) for offset in range(40)]
    messages += [requests(1, offset, offset, 0) for offset in range(40)]
    lines = await tail(PartitionedLog(REQUESTS, messages, 2), 2)
    assert [json.loads(line)["offset"] for line in lines] == [1, 2]


async def test_a_clock_that_is_behind_does_not_change_the_order_of_a_partition() -> None:
    messages = [decision(0, 0, 50), decision(0, 1, 10), decision(0, 2, 60), decision(1, 0, 20)]
    assert sorted(numbers(await tail(PartitionedLog(DECISIONS, messages, 2), 9))) == [10, 20, 50, 60]
    lines = numbers(await tail(PartitionedLog(DECISIONS, messages, 2), 9))
    assert lines.index(50) < lines.index(10) < lines.index(60)


async def test_nothing_is_read_for_no_lines_and_nothing_found_in_an_empty_topic() -> None:
    log = PartitionedLog(DECISIONS, [decision(0, 0, 1)], 2)
    assert await tail(log, 0) == []
    assert await tail(PartitionedLog(DECISIONS, [], 12), 5) == []


async def test_a_log_that_cannot_be_read_to_its_end_is_said_to_be_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_lines, "TAIL_SECONDS", 0.05)
    log = PartitionedLog(DECISIONS, [decision(0, 0, 1)], 1)
    log.stuck = True
    with pytest.raises(Unavailable, match="not read to its end"):
        await last_lines(cast("Log", SlowLog(log)), DECISIONS, 5)
    assert all(one.closed for one in log.readers)


class SlowLog:
    """Gives the event loop a turn per read, as everything real does."""

    def __init__(self, log: PartitionedLog) -> None:
        self._log = log

    async def reader(self, *arguments: Any, **options: Any) -> Any:
        reader = await self._log.reader(*arguments, **options)
        read = reader.next

        async def slowly(timeout_seconds: float | None = None) -> Any:
            await asyncio.sleep(0)
            return await read(timeout_seconds)

        reader.next = slowly  # type: ignore[method-assign]
        return reader


def line_of(topic: str, value: bytes, **head: Any) -> Any:
    (line,) = lines_of(Message(topic, 5, 7, "shop", value, "w", 3, 1, **head))
    return json.loads(line)


@pytest.mark.parametrize("topic", TOPICS)
def test_every_topic_has_lines(topic: str) -> None:
    event, encode, _ = SAMPLES[topic]
    for line in lines_of(Message(topic, 5, 7, "shop", encode(event), "w", 3, 1)):
        told = json.loads(line)
        assert (told["topic"], told["partition"], told["offset"], told["sequence"]) == (topic, 5, 7, 3)
        assert "unreadable" not in told["event"]
        assert "replaces" not in told


def test_counts_are_lines_and_say_what_they_stand_for() -> None:
    message = Message(REQUESTS, 0, 7, "shop", codec.encode_counts(COUNTS), "w", 9, 1, "3-8")
    lines = [json.loads(line) for line in lines_of(message)]
    assert [line["event"]["deployment"] for line in lines] == ["", "blue", "blue"]
    assert [line["event"]["requests"] for line in lines] == [3, 1000, 2**40]
    assert {line["replaces"] for line in lines} == {"3-8"}


def test_a_notice_of_a_fold_says_its_numbers() -> None:
    event, encode, _ = SAMPLES[NOTICES]
    told = line_of(NOTICES, encode(event))["event"]
    assert (told["topic"], told["messages"], told["records"], told["bytes_after"]) == ("requests", 512, 262_144, 3_672)


def test_a_snapshot_is_a_short_line() -> None:
    state = {"rows": [1.5] * 10_000, "writers": {"a": 1}, "note": "x" * 1000, "rate": 2.5, "last": None}
    value = codec.encode_snapshot(EndpointSnapshot("shop", 1, 2, 3, 4, state))
    told = line_of(SNAPSHOTS, value)["event"]
    assert told["state"] == {
        "rows": {"items": 10_000},
        "writers": {"items": 1},
        "note": "x" * 100,
        "rate": 2.5,
        "last": None,
    }
    assert (told["partition"], told["offset"]) == (3, 4)

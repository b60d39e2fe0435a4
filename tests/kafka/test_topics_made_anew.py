"""A topic that was deleted and made anew has another id: whoever kept a place in the old one begins at its beginning."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from loadtests.broker import Broker
from router.contract.events import DEMAND, SPECS
from router.runtime.log import kafka_topic_ids
from router.runtime.log.base import Message, Position
from router.runtime.log.kafka import KafkaLog
from router.runtime.log.kafka_topic_ids import NoIds
from router.runtime.log.kafka_url import KafkaUrl
from router.runtime.log.opening import open_log
from tests.support.kafka_spool import Machine, kafka_url, machine, on_kafka, shipping, until
from tests.support.log_faults_topics import delete
from tests.support.log_reading import read_all


@pytest.fixture
def url(kafka_broker: Broker, prefix: str) -> KafkaUrl:
    return kafka_url(kafka_broker.servers, prefix, partitions=1)


def opened(one: Machine) -> KafkaLog:
    log = open_log(f"kafka://{one.url.servers[0]}/{one.url.prefix}?partitions=1", spool=one.folder)
    assert isinstance(log, KafkaLog)
    return log


def numbers(messages: list[Message]) -> list[int]:
    return [int(message.value) for message in messages]


async def fill(one: Machine) -> None:
    """50 numbers of demand, shipped."""
    for number in range(50):
        one.append(DEMAND, "e", str(number).encode())
    await one.shipped()


async def refill(one: Machine, topic: str, count: int) -> None:
    """Delete the topic while nobody ships, append that many messages, and ship them into the new one."""
    for number in range(count):
        one.append(topic, "e", str(1000 + number).encode())
    await one.log.flush()
    await delete(one.url, [topic])
    async with shipping(one.url, one.folder):
        await one.shipped()


async def test_a_stored_position_is_a_place_in_one_topic_and_not_in_its_successor(
    url: KafkaUrl, tmp_path: Path
) -> None:
    async with machine(url, tmp_path / "one") as one:
        log = opened(one)
        async with shipping(url, one.folder):
            await fill(one)
            reader = await log.reader([DEMAND])
            assert numbers(await read_all(reader)) == list(range(50))
            (stored,) = reader.positions()
            await reader.close()
        assert (stored.offset, len(stored.incarnation)) == (50, 32)
        await refill(one, DEMAND, 80)
        anew = await log.reader([DEMAND], [stored])
        assert numbers(await read_all(anew)) == list(range(1000, 1080))
        (place,) = anew.positions()
        assert place.offset == 80
        assert place.incarnation not in {"", stored.incarnation}
        of_an_older_version = await log.reader([DEMAND], [Position(DEMAND, 0, 50)])
        assert numbers(await read_all(of_an_older_version)) == list(range(1050, 1080))
        await log.close()


@pytest.mark.parametrize("count", [3, 80])
async def test_a_reader_that_is_open_goes_on_with_a_shorter_or_a_longer_successor(
    url: KafkaUrl, tmp_path: Path, count: int
) -> None:
    async with machine(url, tmp_path / "one") as one:
        log = opened(one)
        async with shipping(url, one.folder):
            await fill(one)
            reader = await log.reader([DEMAND])
            assert len(await read_all(reader)) == 50
        await refill(one, DEMAND, count)
        assert numbers(await read_all(reader)) == list(range(1000, 1000 + count))
        assert (reader.stats.gaps, reader.stats.duplicates) == (0, 0)
        await log.close()


async def test_where_brokers_tell_no_ids_a_shorter_successor_is_noticed_all_the_same(
    url: KafkaUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(*_: object) -> None:
        raise NoIds

    async with machine(url, tmp_path / "one") as one:
        log = opened(one)
        async with shipping(url, one.folder):
            await fill(one)
            with monkeypatch.context() as patch:
                patch.setattr(kafka_topic_ids, "topic_ids", none)
                reader = await log.reader([DEMAND])
                assert len(await read_all(reader)) == 50
        assert {place.incarnation for place in reader.positions()} == {""}
        await refill(one, DEMAND, 3)
        assert numbers(await read_all(reader)) == [1000, 1001, 1002]
        await log.close()


async def test_a_copy_of_what_was_made_anew_and_filled_beyond_its_place_is_whole_and_gives_back_what_is_ours(
    url: KafkaUrl, tmp_path: Path
) -> None:
    async with machine(url, tmp_path / "one") as one, machine(url, tmp_path / "two") as two:
        async with shipping(url, one.folder), shipping(url, two.folder):
            two.append(SPECS, "ours", b"1")
            for number in range(20):
                one.append(SPECS, f"theirs-{number}", str(number).encode())
            await one.shipped()
            await two.shipped()
            await until(lambda: [place.offset for place in two.spool.copied() if place.topic == SPECS] == [21])
        await refill(one, SPECS, 40)
        async with shipping(url, two.folder):
            await until(two.spool.copy_is_current)
            await two.shipped()
            async with asyncio.timeout(60):
                while len(found := await on_kafka(url, SPECS)) < 41 or found[-1].key != "ours":
                    await asyncio.sleep(0.05)
            log = opened(two)
            newest = {one.key: one.value for one in await read_all(await log.reader([SPECS]))}
            await log.close()
        assert newest["e"] == b"1039"
        assert newest["ours"] == b"1"
        assert sum(one.key == "e" for one in found) == 40

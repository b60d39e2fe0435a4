"""Topics that somebody deletes while everything runs: made anew as they must be, and nothing that was still here is lost.

What was acknowledged and not yet read goes with a topic; the readers count exactly that as gaps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("aiokafka")

from router.contract.codec import decode_replicas
from router.contract.events import DEMAND, NOTICES, REPLICAS, REQUESTS, SPECS
from router.runtime.log.kafka_connection import client_options
from router.runtime.log.kafka_topics import ensure_topics
from router.runtime.log.kafka_url import parse
from tests.support.kafka_spool import on_kafka
from tests.support.log_faults import machine, until
from tests.support.log_faults_topics import back, delete, holes
from tests.support.whole import whole

if TYPE_CHECKING:
    from loadtests.broker import Broker

STREAMS = (REQUESTS, DEMAND, NOTICES)


@pytest.fixture(scope="module")
def eager_broker(kafka_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker with Kafka's own default, to make whatever topic it is asked for, with one partition."""
    from loadtests.broker import Broker

    properties = {"auto.create.topics.enable": "true", "num.partitions": "1"}
    broker = Broker(tmp_path_factory.mktemp("eager"), properties=properties)
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(broker.start())
    yield broker
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(broker.stop())


async def test_a_topic_refilled_beyond_a_readers_place_is_read_from_its_beginning(
    kafka_broker: Broker, prefix: str, tmp_path: Path
) -> None:
    async with machine(tmp_path, kafka_broker.servers, prefix) as here:
        shipper = await here.shipper()
        writer, reader = await here.writer(), await here.reader()
        await reader.further(1000)
        await writer.hold()
        await reader.level()
        reader.freeze()
        await shipper.kill()
        before = writer.told.records()
        await writer.go()
        await writer.further(2 * before)
        await delete(parse(here.url), STREAMS)
        await here.shipper()
        await writer.hold()
        await here.shipped()
        reader.thaw()
        await reader.until(3 * before)
        await writer.go()
        seen = await here.settle(reader, writer)
        assert seen.audit.records() > 3 * before
        assert sum(seen.stats.duplicates_by_topic.values()) == 0


async def test_topics_deleted_under_load_lose_only_what_had_been_acknowledged_and_that_is_counted(
    eager_broker: Broker, tmp_path: Path
) -> None:
    async with machine(tmp_path, eager_broker.servers) as here:
        url = parse(here.url)
        await here.shipper()
        writer, reader = await here.writer(), await here.reader()
        await reader.further(1000)
        await reader.level()  # of a writer that it never heard of, a reader misses nothing
        await delete(url, STREAMS)
        safe = writer.told
        await back(url, STREAMS)
        await reader.further(1000)
        written = await writer.end()
        seen = await reader.end(ids=False)
        for topic in (REQUESTS, DEMAND):
            lost = holes(seen, written, topic)
            assert len(lost) <= len(written.messages(topic)), "one hole at most in each partition"
            assert sum(map(len, lost)) == seen.stats.gaps_by_topic.get(topic, 0)
            assert all(hole.stop <= max(safe.messages(topic).values()) for hole in lost)
        read = sum(len(account.sequences) for account in seen.audit.accounts.values())
        sent = sum(written.messages(REQUESTS).values())
        assert read == sent - seen.stats.gaps_by_topic.get(REQUESTS, 0)
        assert (seen.audit.records(), seen.disorder, seen.repeated) == (10 * read, [], {})
        await ensure_topics(url, client_options(url, "test", {}))  # as they must be, not as the broker makes them


async def test_a_whole_installation_goes_on_when_all_its_topics_are_deleted(
    eager_broker: Broker, tmp_path: Path
) -> None:
    async with (
        machine(tmp_path, eager_broker.servers, "whole") as here,
        machine(tmp_path / "watcher", eager_broker.servers, "whole") as watcher,
    ):
        url = parse(here.url)
        async with whole(tmp_path, "--log", here.url, workers=1) as running:
            await running.create("live", {"blue": {}}, {"blue": 100})
            reader = await watcher.reader()
            sent = (await running.send("live", 100)).sent
            await reader.further(sent - await reader.records())
            specs = {one.key: one.value for one in await on_kafka(url, SPECS)}
            await delete(url)
            async with running.load("live") as load:
                await running.more(load, 200)
                await back(url)
                await here.state("current")

                async def restored() -> bool:
                    return {one.key: one.value for one in await on_kafka(url, SPECS)} == specs

                await until("the specs to be back", restored)
                await running.deploy("live", "green", {})
                await running.more(load, 100)
            assert load.failures == []
            sent += load.sent
            assert (await running.counts("live", "green"))["ready"] == 1
        await here.shipper()  # what the tree's own had no time for
        await here.shipped()
        seen = await reader.end(ids=False)
        replicas = {one.key: decode_replicas(one.value) for one in await on_kafka(url, REPLICAS)}
    assert replicas["live"].deployments.keys() == {"blue", "green"}
    assert (seen.audit.records(), seen.stats.gaps_by_topic.get(REQUESTS, 0)) == (sent, 0)
    assert (seen.disorder, seen.repeated) == ([], {})

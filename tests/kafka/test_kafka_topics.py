"""The log's topics on a real broker: made as they must be, or every wrong setting told with its fix."""

from __future__ import annotations

import asyncio
import logging
import shlex
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("aiokafka")

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from loadtests.kafka.cluster import Cluster
from loadtests.kafka.distribution import distribution, java
from loadtests.kafka.node import Broker as BrokerProcess
from router.contract.errors import Unavailable
from router.contract.events import COMPACTED, TOPICS
from router.runtime.log.kafka_connection import client_options
from router.runtime.log.kafka_messages import Outgoing, headers_of, message_of, partition_of
from router.runtime.log.kafka_settings import DAY_MS, settings_of
from router.runtime.log.kafka_topics import WrongTopic, ensure_topics
from router.runtime.log.kafka_url import KafkaUrl

if TYPE_CHECKING:
    from loadtests.broker import Broker

WRITER = "0123456789abcdef0123456789abcdef"
Described = dict[str, tuple[int, dict[str, str]]]


@pytest.fixture
def url(kafka_broker: Broker, prefix: str) -> KafkaUrl:
    return KafkaUrl((kafka_broker.servers,), prefix, partitions=3)


@pytest.fixture
async def admin(url: KafkaUrl) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(**options(url))
    await client.start()
    yield client
    await client.close()


def options(url: KafkaUrl, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    return client_options(url, "test", environ or {})


async def described(admin: AIOKafkaAdminClient, url: KafkaUrl) -> Described:
    """Topic without its prefix → (partitions, settings), of those with the prefix."""
    names = [name for name in await admin.list_topics() if name.startswith(f"{url.prefix}.")]
    partitions = {one["topic"]: len(one["partitions"]) for one in await admin.describe_topics(names)} if names else {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    found: Described = {}
    for answer in await admin.describe_configs(resources):
        for _, _, _, name, entries in answer.resources:
            found[url.topic_of(name)] = (partitions[name], {entry[0]: entry[1] for entry in entries})
    return found


async def make(admin: AIOKafkaAdminClient, url: KafkaUrl, topic: str, partitions: int = 3, **settings: str) -> None:
    named = {name.replace("_", "."): value for name, value in settings.items()}
    answer = await admin.create_topics([NewTopic(url.topic(topic), partitions, 1, topic_configs=named)])
    assert [code for _, code, _ in answer.topic_errors] == [0]


async def run_tool(main_class: str, arguments: str) -> None:
    """What Kafka's own shell script of that tool runs."""
    program, jars = java(), await distribution()
    assert program is not None
    words = [program, "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*", main_class, *shlex.split(arguments)]
    process = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


async def test_absent_topics_are_created_as_the_table_says(admin: AIOKafkaAdminClient, url: KafkaUrl) -> None:
    await ensure_topics(url, options(url))
    found = await described(admin, url)
    assert found.keys() == set(TOPICS)
    for topic, (partitions, settings) in found.items():
        assert partitions == 3
        assert settings.items() >= settings_of(topic, 1).items()
        assert settings["cleanup.policy"] == ("compact" if topic in COMPACTED else "delete")
    assert found["demand"][1]["retention.ms"] == str(DAY_MS)


async def test_topics_that_are_right_stay_as_they_are(admin: AIOKafkaAdminClient, url: KafkaUrl) -> None:
    await make(admin, url, "demand", retention_ms="-1", max_message_bytes="9000000")
    await make(admin, url, "specs", cleanup_policy="compact", retention_ms="1", max_message_bytes="9000000")
    before = await described(admin, url)
    for _ in range(2):
        await ensure_topics(url, options(url))
    after = await described(admin, url)
    assert {topic: after[topic] for topic in before} == before


async def test_many_processes_may_create_them_at_once(admin: AIOKafkaAdminClient, url: KafkaUrl) -> None:
    await asyncio.gather(*(ensure_topics(url, options(url)) for _ in range(6)))
    assert (await described(admin, url)).keys() == set(TOPICS)


async def test_a_topic_is_usable_the_moment_it_is_ensured(url: KafkaUrl) -> None:
    """Also: what the headers say survives the broker, and the broker takes a message as large as the log's largest."""
    await ensure_topics(url, options(url))
    row = Outgoing(1, "demand", "fraud", WRITER, 0, 1_700_000_000_123_456_789, b"x" * (1 << 20), "3-9", 0)
    row = row._replace(partition=partition_of(row.key, url.partitions))
    name, key = url.topic(row.topic), row.key.encode()
    async with AIOKafkaProducer(**options(url), acks="all", max_request_size=2 << 20) as producer:
        sent = await producer.send_and_wait(
            name, row.value, key, headers=headers_of(row), timestamp_ms=row.time_ns // 1_000_000
        )
    assert sent.partition == row.partition
    async with AIOKafkaConsumer(name, **options(url), auto_offset_reset="earliest") as consumer:
        async with asyncio.timeout(30):
            got = await consumer.getone()
    message = message_of(row.topic, got.partition, got.offset, got.key, got.value, got.headers)
    assert message == (row.topic, row.partition, 0, row.key, row.value, WRITER, 0, row.time_ns, "3-9")


async def test_every_wrong_setting_of_every_topic_is_told_with_its_fix(
    admin: AIOKafkaAdminClient, url: KafkaUrl
) -> None:
    await make(admin, url, "demand", partitions=2, retention_ms="1000", max_message_bytes="1000")
    await make(admin, url, "specs", cleanup_policy="delete", max_message_bytes="9000000")
    await make(admin, url, "replicas", cleanup_policy="compact,delete", max_message_bytes="9000000")
    await make(admin, url, "requests", cleanup_policy="compact", max_message_bytes="9000000")
    await make(admin, url, "shadows", min_insync_replicas="2", max_message_bytes="9000000")
    before = await described(admin, url)
    with pytest.raises(WrongTopic) as caught:
        await ensure_topics(url, options(url))
    faults = {(url.topic_of(one.topic), one.setting): (one.found, one.fix) for one in caught.value.faults}
    alter = (
        f"kafka-configs.sh --bootstrap-server {url.servers[0]} --alter --entity-type topics --entity-name {url.prefix}."
    )
    assert faults.keys() == {
        ("demand", "the number of partitions"),
        ("demand", "retention.ms"),
        ("demand", "max.message.bytes"),
        ("specs", "cleanup.policy"),
        ("replicas", "cleanup.policy"),
        ("requests", "cleanup.policy"),
        ("shadows", "min.insync.replicas"),
    }
    assert faults["demand", "retention.ms"] == ("1000", f"run {alter}demand --add-config retention.ms=86400000")
    assert faults["specs", "cleanup.policy"] == ("delete", f"run {alter}specs --add-config cleanup.policy=compact")
    assert faults["replicas", "cleanup.policy"][0] == "compact,delete"
    assert "partitions=2" in faults["demand", "the number of partitions"][1]
    for fault in caught.value.faults:
        assert str(fault) in caught.value.message
    assert caught.value.code == "WrongTopicSettings"
    after = await described(admin, url)
    assert {topic: after[topic] for topic in before} == before


async def test_fixing_what_was_told_is_enough(admin: AIOKafkaAdminClient, url: KafkaUrl) -> None:
    await make(admin, url, "demand", retention_ms="1000", max_message_bytes="1000")
    with pytest.raises(WrongTopic) as caught:
        await ensure_topics(url, options(url))
    commands = [one.fix.removeprefix("run kafka-configs.sh ") for one in caught.value.faults]
    fixes = dict(command.rpartition(" ")[2].split("=") for command in commands)
    assert fixes.keys() == {"retention.ms", "max.message.bytes"}
    await asyncio.gather(*(run_tool("kafka.admin.ConfigCommand", command) for command in commands))
    async with asyncio.timeout(30):  # the broker applies it a moment after it said so
        while not (await described(admin, url))["demand"][1].items() >= fixes.items():
            await asyncio.sleep(0.01)
    await ensure_topics(url, options(url))


async def test_fewer_copies_than_asked_for_is_a_warning(
    admin: AIOKafkaAdminClient, url: KafkaUrl, caplog: pytest.LogCaptureFixture
) -> None:
    await ensure_topics(url, options(url))
    asked_for_three = KafkaUrl(url.servers, url.prefix, url.partitions, replication=3)
    with caplog.at_level(logging.WARNING):
        await ensure_topics(asked_for_three, options(url))
    weak = [record.getMessage() for record in caplog.records if getattr(record, "code", "") == "weak_topic"]
    assert len(weak) == len(TOPICS)
    assert "1 copies of a partition, not the 3" in weak[0]


async def test_more_copies_than_brokers_says_so_and_may_be_tried_again(url: KafkaUrl) -> None:
    asked_for_three = KafkaUrl(url.servers, url.prefix, url.partitions, replication=3)
    with pytest.raises(Unavailable, match="replication=3"):
        await ensure_topics(asked_for_three, options(url))


async def test_a_broker_that_would_make_topics_by_itself_is_not_given_the_chance(
    tmp_path: Path, kafka_here: None
) -> None:
    broker = BrokerProcess(tmp_path / "kafka", properties={"auto.create.topics.enable": "true", "num.partitions": "1"})
    await broker.start()
    try:
        url = KafkaUrl((broker.servers,), partitions=3)
        await ensure_topics(url, options(url))
        client = AIOKafkaAdminClient(**options(url))
        await client.start()
        try:
            found = await described(client, url)
        finally:
            await client.close()
        assert {topic: partitions for topic, (partitions, _) in found.items()} == dict.fromkeys(TOPICS, 3)
    finally:
        await broker.stop()


async def test_a_broker_that_nobody_runs_is_unavailable() -> None:
    url = KafkaUrl(("127.0.0.1:1", "[::1]:1"))
    with pytest.raises(Unavailable, match=r"nobody listens at 127.0.0.1:1.*nobody listens at \[::1\]:1"):
        await ensure_topics(url, options(url))


async def test_a_name_that_does_not_resolve_is_named() -> None:
    url = KafkaUrl(("broker.invalid:9092",))
    with pytest.raises(Unavailable, match=r"name of broker\.invalid:9092 cannot be resolved"):
        await ensure_topics(url, options(url))


async def test_one_broker_of_the_list_is_enough(url: KafkaUrl) -> None:
    several = KafkaUrl(("127.0.0.1:1", *url.servers), url.prefix, url.partitions)
    for _ in range(4):  # aiokafka takes them in any order
        await ensure_topics(several, options(several))


async def test_a_frozen_broker_is_unavailable_and_fine_when_it_thaws(own_broker: Broker) -> None:
    url = KafkaUrl((own_broker.servers,), partitions=1)
    hurried = options(url) | {"request_timeout_ms": 500}
    await ensure_topics(url, options(url))
    await own_broker.freeze()
    try:
        with pytest.raises(Unavailable, match="does not answer"):
            await ensure_topics(url, hurried)
    finally:
        await own_broker.thaw()
    await ensure_topics(url, options(url))


async def test_a_dead_broker_of_three_stops_nothing(tmp_path: Path, kafka_here: None) -> None:
    cluster = Cluster(tmp_path / "cluster")
    await cluster.start()
    try:
        url = KafkaUrl(tuple(cluster.servers.split(",")), "shop", partitions=3, replication=3)
        await ensure_topics(url, options(url))
        client = AIOKafkaAdminClient(**options(url))
        await client.start()
        try:
            found = await described(client, url)
        finally:
            await client.close()
        assert {settings["min.insync.replicas"] for _, settings in found.values()} == {"2"}
        await cluster.nodes[0].kill()
        await ensure_topics(url, options(url))
        later = KafkaUrl(url.servers, "later", partitions=3, replication=2)
        await ensure_topics(later, options(later))
    finally:
        await cluster.kill()

"""The supervised producer: a unit of proof for each state that aiokafka's producer does not get out of by itself."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiokafka.errors import TopicAuthorizationFailedError, UnknownError
from aiokafka.producer.transaction_manager import PidAndEpoch
from aiokafka.structs import TopicPartition

from loadtests.broker import Broker
from router.contract.events import DEMAND, REQUESTS, SPECS
from router.runtime.log import producing
from router.runtime.log.kafka_connection import client_options
from router.runtime.log.kafka_messages import Outgoing
from router.runtime.log.kafka_url import KafkaUrl
from router.runtime.log.producing import Producing, ProducingSettings
from router.runtime.log.producing_failures import ProducerFailed
from tests.support.kafka_spool import delete_topics, kafka_url, on_kafka

WRITER = "ab" * 16
NOW = time.time_ns()  # what is older than a topic keeps would be gone at once
QUICK = ProducingSettings(start_seconds=10, wave_seconds=20, straggler_seconds=0.5, stop_seconds=0.5)
Maker = Callable[..., Producing]


@pytest.fixture
def url(kafka_broker: Broker, prefix: str) -> KafkaUrl:
    return kafka_url(kafka_broker.servers, prefix)


@pytest.fixture
async def maker() -> AsyncIterator[Maker]:
    made: list[Producing] = []
    before = asyncio.all_tasks()

    def make(url: KafkaUrl, settings: ProducingSettings = QUICK, **options: Any) -> Producing:
        made.append(Producing(url, client_options(url, "test", {}) | options, settings))
        return made[-1]

    yield make
    for one in made:
        await one.close()
    for _ in range(100):  # tasks that were cancelled end within a few turns
        await asyncio.sleep(0)
    assert asyncio.all_tasks() - before <= {asyncio.current_task()}


def rows(count: int, *, first: int = 0, topic: str = DEMAND, partition: int = 1, size: int = 10) -> list[Outgoing]:
    return [
        Outgoing(n, topic, "e", WRITER, n, NOW + n, os.urandom(size), "", partition)
        for n in range(first, first + count)
    ]


async def sequences(url: KafkaUrl, topic: str = DEMAND) -> list[int]:
    return [message.sequence for message in await on_kafka(url, topic)]


async def failure_of(one: Producing, what: list[Outgoing]) -> ProducerFailed:
    async with asyncio.timeout(90):
        with pytest.raises(ProducerFailed) as caught:
            await one.ship(what)
    assert one.producer is None
    return caught.value


async def outcome(one: Producing, what: list[Outgoing]) -> ProducerFailed | None:
    try:
        async with asyncio.timeout(90):
            await one.ship(what)
    except ProducerFailed as failure:
        return failure
    return None


async def test_rows_arrive_as_they_are_and_in_order(url: KafkaUrl, maker: Maker) -> None:
    one = maker(url)
    sent = [*rows(500), *rows(3, topic=SPECS, partition=2), *rows(20, topic=REQUESTS, size=200_000)]
    await one.ship(sent)
    await one.ship(rows(10, first=500))
    found = [message for topic in (DEMAND, SPECS, REQUESTS) for message in await on_kafka(url, topic)]
    assert len(found) == 533
    assert [message.sequence for message in found[:510]] == list(range(510))
    assert {(m.topic, m.partition, m.key, m.writer, m.sequence, m.time_ns, m.value) for m in found} >= {
        (row.topic, row.partition, row.key, row.writer, row.sequence, row.time_ns, row.value) for row in sent
    }


async def test_a_lost_sequence_ends_the_producer_and_the_next_one_goes_on(url: KafkaUrl, maker: Maker) -> None:
    one = maker(url)
    await one.ship(rows(5))
    assert one.producer is not None
    # As after a batch that took its numbers and was failed unsent.
    one.producer._txn_manager.increment_sequence_number(TopicPartition(url.topic(DEMAND), 1), 7)
    failure = await failure_of(one, rows(5, first=5))
    assert (failure.state, failure.acknowledged, failure.impossible) == ("OutOfOrderSequenceNumber", [], [])
    await one.ship(rows(5, first=5))
    assert await sequences(url) == list(range(10))


async def test_a_partition_without_a_leader_for_long_ends_the_producer_before_the_gap_is_seen(
    url: KafkaUrl, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = maker(url)
    await one.ship(rows(5))
    assert one.producer is not None
    one.producer._message_accumulator._batch_ttl = 0.2  # the request time-out
    place = TopicPartition(url.topic(DEMAND), 1)
    cluster = one.producer.client.cluster
    known = cluster.leader_for_partition
    monkeypatch.setattr(cluster, "leader_for_partition", lambda at: -1 if at == place else known(at))
    failure = await failure_of(one, [*rows(5, first=5), *rows(1, partition=2)])
    assert failure.state in ("LeaderNotAvailableError", "NotLeaderForPartitionError")
    assert failure.link == "unreachable"
    assert [row.partition for row in failure.acknowledged] == [2]
    await one.ship(rows(5, first=5))
    assert [m.sequence for m in await on_kafka(url, DEMAND) if m.partition == 1] == list(range(10))


async def test_a_fenced_producer_is_replaced(url: KafkaUrl, maker: Maker) -> None:
    one = maker(url)
    await one.start()
    assert one.producer is not None
    books = one.producer._txn_manager
    own = books._pid_and_epoch
    books._pid_and_epoch = PidAndEpoch(own.pid, own.epoch + 1)
    await one.ship(rows(5))
    books._pid_and_epoch = own
    books._sequence_numbers.clear()
    failure = await failure_of(one, rows(5, first=5))
    assert failure.state == "ProducerFenced"
    await one.ship(rows(5, first=5))
    assert await sequences(url) == list(range(10))


async def test_a_sender_that_died_is_replaced(url: KafkaUrl, maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    one = maker(url)
    await one.ship(rows(5))
    assert one.producer is not None

    async def broken(*_: object) -> None:
        raise LookupError("an internal state")

    monkeypatch.setattr(one.producer._sender, "_send_produce_req", broken)
    failure = await failure_of(one, rows(5, first=5))
    assert failure.state == "SenderDied"
    await one.ship(rows(5, first=5))
    assert await sequences(url) == list(range(10))


def _lost(**_: object) -> None:
    raise LookupError("an internal state")


async def test_a_sender_that_died_while_nothing_was_sent_is_noticed(
    url: KafkaUrl, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = maker(url)
    await one.ship(rows(5))
    assert one.producer is not None
    monkeypatch.setattr(one.producer._message_accumulator, "drain_by_nodes", _lost)
    with contextlib.suppress(ProducerFailed):
        await one.ship(rows(5, first=5))
    await one.ship(rows(5, first=5))
    assert await sequences(url) == list(range(10))


async def test_a_sender_that_was_cancelled_counts_as_stalled(url: KafkaUrl, maker: Maker) -> None:
    one = maker(url, dataclasses.replace(QUICK, wave_seconds=1))
    await one.ship(rows(5))
    assert one.producer is not None
    one.producer._sender.sender_task.cancel()
    await asyncio.wait({one.producer._sender.sender_task})
    failure = await failure_of(one, rows(5, first=5))
    assert failure.state == "Stalled"
    await one.ship(rows(5, first=5))
    assert await sequences(url) == list(range(10))


async def test_nobody_listening_is_unreachable(maker: Maker) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        one = maker(kafka_url(f"127.0.0.1:{taken.getsockname()[1]}", "p"))
        failure = await failure_of(one, rows(1))
    assert (failure.state, failure.link) == ("Unavailable", "unreachable")
    assert "nobody listens" in failure.message


async def test_a_broker_that_is_frozen_ends_the_producer_in_bounded_time(own_broker: Broker, maker: Maker) -> None:
    url = kafka_url(own_broker.servers, "p")
    one = maker(url, dataclasses.replace(QUICK, wave_seconds=1))
    await one.ship(rows(5))
    await own_broker.freeze()
    try:
        failure = await failure_of(one, rows(5, first=5))
    finally:
        await own_broker.thaw()
    assert (failure.state, failure.link) == ("Stalled", "unreachable")
    await one.ship(rows(5, first=5))
    assert sorted(set(await sequences(url))) == list(range(10))


async def test_a_broker_frozen_for_a_moment_costs_neither_the_producer_nor_a_duplicate(
    own_broker: Broker, maker: Maker
) -> None:
    url = kafka_url(own_broker.servers, "p")
    one = maker(url, request_timeout_ms=3_000)
    await one.ship(rows(5))
    producer = one.producer
    await own_broker.freeze()
    waiting = asyncio.create_task(one.ship(rows(5, first=5)))
    done, _ = await asyncio.wait({waiting}, timeout=4)
    await own_broker.thaw()
    assert not done
    async with asyncio.timeout(60):
        await waiting
    assert one.producer is producer
    assert await sequences(url) == list(range(10))


async def test_a_broker_killed_and_started_again_gets_everything(own_broker: Broker, maker: Maker) -> None:
    url = kafka_url(own_broker.servers, "p")
    one = maker(url)
    await one.ship(rows(5))
    await own_broker.kill()
    waiting = asyncio.create_task(one.ship(rows(5, first=5)))
    await own_broker.start()
    async with asyncio.timeout(90):
        try:
            await waiting
        except ProducerFailed:
            await one.ship(rows(5, first=5))
    assert sorted(set(await sequences(url))) == list(range(10))


async def test_a_topic_deleted_under_the_producer_is_made_again(url: KafkaUrl, maker: Maker) -> None:
    one = maker(url, request_timeout_ms=3_000)
    await one.ship(rows(5))
    await delete_topics(url, [DEMAND])
    failures = 0
    while failure := await outcome(one, rows(5, first=5)):
        assert failure.impossible == []
        assert failure.closed_topics == {}
        failures += 1
        assert failures < 20
    assert await sequences(url) == [5, 6, 7, 8, 9]


async def test_a_message_that_is_too_large_is_named_and_the_others_pass(url: KafkaUrl, maker: Maker) -> None:
    one = maker(url)
    large = rows(1, first=3, size=5 << 20)
    waiting = [*rows(3), *large, *rows(3, first=4)]
    impossible: list[Outgoing] = []
    while failure := await outcome(one, waiting):
        assert failure.state == "MessageSizeTooLargeError"
        named = [row for row, _ in failure.impossible]
        impossible += named
        waiting = [row for row in waiting if row not in failure.acknowledged and row not in named]
    assert impossible == large
    assert await sequences(url) == [0, 1, 2, 4, 5, 6]


async def test_batches_get_smaller_until_the_topic_takes_them(
    url: KafkaUrl, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

    one = maker(url)
    await one.start()

    async def as_it_is(*_: object) -> None:
        """Wrong settings are another part's business."""

    monkeypatch.setattr(producing, "ensure_topics", as_it_is)
    admin = AIOKafkaAdminClient(bootstrap_servers=list(url.servers))
    await admin.start()
    wrong = {"max.message.bytes": "20000"}
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, url.topic(DEMAND), configs=wrong)])
    await admin.close()
    failures = sent = 0
    while not failures:  # it takes the broker a moment to hear of it
        waiting = rows(100, first=sent, size=5_000)
        sent += 100
        while failure := await outcome(one, waiting):
            failures += 1
            assert failures < 20
            assert failure.state == "MessageSizeTooLargeError"
            assert failure.impossible == []
            waiting = [row for row in waiting if row not in failure.acknowledged]
    await one.ship(rows(50, first=sent, size=5_000))
    assert await sequences(url) == list(range(sent + 50))


class Refusing:
    """Stands before a producer: answers batches of one topic with an error, as a broker would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, topic: str, error: Exception) -> None:
        self.sizes: list[int] = []
        fill = Producing._fill

        def filled(self_: Producing, rows: Any) -> Any:
            taken, batch = fill(self_, rows)
            batch.refused = taken[0].topic == topic
            self.sizes += [len(taken)] * batch.refused
            producer = self_.producer
            assert producer is not None
            real = producer.__class__.send_batch

            async def send(batch: Any, name: str, *, partition: int) -> Any:
                if not batch.refused:
                    return await real(producer, batch, name, partition=partition)
                answer = asyncio.get_running_loop().create_future()
                answer.set_exception(error)
                return answer

            monkeypatch.setattr(producer, "send_batch", send)
            return taken, batch

        monkeypatch.setattr(Producing, "_fill", filled)


async def test_a_topic_that_is_closed_to_us_is_named(
    url: KafkaUrl, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = maker(url, dataclasses.replace(QUICK, straggler_seconds=20))
    Refusing(monkeypatch, REQUESTS, TopicAuthorizationFailedError(url.topic(REQUESTS)))
    failure = await failure_of(one, [*rows(3), *rows(3, topic=REQUESTS)])
    assert failure.link == "refused"
    assert list(failure.closed_topics) == [REQUESTS]
    assert [row.topic for row in failure.acknowledged] == [DEMAND] * 3
    assert failure.impossible == []


async def test_a_message_refused_again_and_again_for_an_unclear_reason_is_named_in_the_end(
    url: KafkaUrl, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = maker(url)
    refusing = Refusing(monkeypatch, REQUESTS, UnknownError("INVALID_RECORD"))
    waiting = rows(10, topic=REQUESTS)
    for _ in range(20):
        failure = await failure_of(one, waiting)
        if failure.impossible:
            break
    assert failure.impossible == [(waiting[0], "UnknownError: [Error -1] UnknownError: INVALID_RECORD")]
    assert refusing.sizes == [10] * 3 + [1] * 3


async def test_a_partition_that_is_not_there_is_a_closed_topic(url: KafkaUrl, maker: Maker) -> None:
    failure = await failure_of(maker(url), rows(1, partition=9))
    assert "3 partitions" in failure.closed_topics[DEMAND]


async def test_a_message_from_the_future_is_accepted(url: KafkaUrl, maker: Maker) -> None:
    far = 4_000_000_000_000_000_000
    await maker(url).ship([row._replace(time_ns=far) for row in rows(1)])
    (message,) = await on_kafka(url, DEMAND)
    assert message.time_ns == far


async def test_a_cancelled_wave_leaves_nothing_behind(own_broker: Broker, maker: Maker) -> None:
    url = kafka_url(own_broker.servers, "p")
    one = maker(url)
    await one.ship(rows(5))
    await own_broker.freeze()
    try:
        waiting = asyncio.create_task(one.ship(rows(5, first=5)))
        await asyncio.wait({waiting}, timeout=0.2)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert one.producer is None
    finally:
        await own_broker.thaw()
    await one.ship(rows(5, first=5))
    assert sorted(set(await sequences(url))) == list(range(10))


async def test_a_cancellation_from_within_is_a_failure_like_any_other(
    url: KafkaUrl, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = maker(url)
    await one.ship(rows(5))
    assert one.producer is not None

    async def gone(_: str) -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answer.cancel()  # as a connection does to its requests when it closes
        await answer

    monkeypatch.setattr(one.producer, "partitions_for", gone)
    failure = await failure_of(one, rows(5, first=5))
    assert (failure.state, failure.link) == ("Cancelled", "unreachable")
    await one.ship(rows(5, first=5))
    assert await sequences(url) == list(range(10))

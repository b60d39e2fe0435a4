"""Kafka's clients are let go of whole, whatever they stumble over on their way out."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer, TopicPartition

from loadtests.broker import Broker
from router.contract.events import DEMAND
from router.runtime.log.kafka_client import stopped
from router.runtime.log.kafka_connection import client_options
from router.runtime.log.kafka_topics import ensure_topics
from tests.support.kafka_spool import kafka_url


async def test_a_consumer_that_trips_over_its_own_fetch_is_closed_and_nobody_else_is_cancelled(
    kafka_broker: Broker, prefix: str
) -> None:
    url = kafka_url(kafka_broker.servers, prefix)
    options = client_options(url, "test", {})
    await ensure_topics(url, options, [DEMAND])
    consumer = AIOKafkaConsumer(**options, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    consumer.assign([TopicPartition(url.topic(DEMAND), 0)])
    await consumer.getmany(timeout_ms=100)
    # As one that is told to end before it has begun: then it does not say that it ended well.
    fetch = asyncio.create_task(asyncio.sleep(3600))
    consumer._fetcher._pending_tasks.add(fetch)
    stopping = asyncio.create_task(stopped(consumer))
    await asyncio.wait({stopping})
    assert not stopping.cancelled()
    assert fetch.cancelled()
    assert not any(one.connected() for one in consumer._client._conns.values())
    assert consumer._client._sync_task is None

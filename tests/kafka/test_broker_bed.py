"""The broker that the Kafka tests stand on does what they take for granted."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.abc import AbstractTokenProvider
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from loadtests.broker import Broker, BrokerFailed, Cluster
from loadtests.kafka.security import MECHANISMS, MUTUAL_TLS, PROTOCOLS, SASL, SASL_TLS, TLS, unsigned_token
from loadtests.waiting import until
from router.runtime.processes import alive, identity

SECONDS = 60
"""For anything that a broker has to get over."""


async def create(servers: str, topic: str, *, replication: int = 1) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=replication)])

        async def is_known() -> bool:
            (described,) = await admin.describe_topics([topic])
            return not described["error_code"] and all(one["leader"] >= 0 for one in described["partitions"])

        # It is made when the controller says so; the brokers hear of it later, on a busy machine much later.
        async with asyncio.timeout(SECONDS):
            await until(is_known)
    finally:
        await admin.close()


async def send(servers: str, topic: str, *values: bytes, **security: Any) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all", **security)
    try:
        await producer.start()
        async with asyncio.timeout(SECONDS):
            for value in values:
                await producer.send_and_wait(topic, value, partition=0)
    finally:
        await producer.stop()


async def values_of(servers: str, topic: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest", enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        async with asyncio.timeout(SECONDS):
            return [(await consumer.getone()).value for _ in range(count)]
    finally:
        await consumer.stop()


async def test_what_is_produced_is_consumed(kafka_broker: Broker, prefix: str) -> None:
    await create(kafka_broker.servers, f"{prefix}.a")
    await send(kafka_broker.servers, f"{prefix}.a", b"1", b"2")
    assert await values_of(kafka_broker.servers, f"{prefix}.a", 2) == [b"1", b"2"]


async def test_a_topic_never_comes_by_itself(kafka_broker: Broker, prefix: str) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka_broker.servers, request_timeout_ms=500)
    await producer.start()
    try:
        with pytest.raises(KafkaError):
            await producer.send_and_wait(f"{prefix}.absent", b"")
    finally:
        await producer.stop()


class Token(AbstractTokenProvider):  # type: ignore[misc]
    async def token(self) -> str:
        return unsigned_token("tidegate", time.time())


def tls(broker: Broker, *, certificate: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(broker.certificates.authority))
    if certificate:
        context.load_cert_chain(broker.certificates.client_certificate, broker.certificates.client_key)
    return context


def login(broker: Broker, listener: str, mechanism: str, password: str | None = None) -> dict[str, Any]:
    assert broker.security is not None
    options: dict[str, Any] = {"security_protocol": PROTOCOLS[listener], "sasl_mechanism": mechanism}
    if listener == SASL_TLS:
        options["ssl_context"] = tls(broker)
    if mechanism == "OAUTHBEARER":
        return options | {"sasl_oauth_token_provider": Token()}
    return options | {
        "sasl_plain_username": broker.security.user,
        "sasl_plain_password": password or broker.security.password,
    }


@pytest.mark.parametrize("listener", [SASL, SASL_TLS])
@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_every_mechanism_lets_its_user_in(
    kafka_broker: Broker, prefix: str, listener: str, mechanism: str
) -> None:
    topic = f"{prefix}.secured"
    await create(kafka_broker.servers, topic)
    await send(kafka_broker.servers_of(listener), topic, b"in", **login(kafka_broker, listener, mechanism))
    assert await values_of(kafka_broker.servers, topic, 1) == [b"in"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_wrong_password_stays_outside(kafka_broker: Broker, mechanism: str) -> None:
    with pytest.raises(KafkaError):
        await send(kafka_broker.servers_of(SASL), "any", **login(kafka_broker, SASL, mechanism, "wrong"))


async def test_a_client_must_show_its_certificate_where_it_is_asked_for(kafka_broker: Broker, prefix: str) -> None:
    topic = f"{prefix}.tls"
    await create(kafka_broker.servers, topic)
    without, shown = tls(kafka_broker), tls(kafka_broker, certificate=True)
    await send(kafka_broker.servers_of(TLS), topic, b"tls", security_protocol="SSL", ssl_context=without)
    await send(kafka_broker.servers_of(MUTUAL_TLS), topic, b"mutual", security_protocol="SSL", ssl_context=shown)
    with pytest.raises(KafkaError):
        await send(kafka_broker.servers_of(MUTUAL_TLS), topic, b"no", security_protocol="SSL", ssl_context=without)
    assert await values_of(kafka_broker.servers, topic, 2) == [b"tls", b"mutual"]


@pytest.fixture(scope="module")
def module_broker(kafka_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("beaten"))
    yield broker
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(broker.stop())


@pytest.fixture
async def beaten(module_broker: Broker) -> Broker:
    """One broker for all tests here that are cruel to it; each finds it running."""
    if module_broker.pid is None:
        await module_broker.start()
    return module_broker


async def test_a_killed_broker_comes_back_with_its_data_on_its_port(beaten: Broker) -> None:
    await create(beaten.servers, "kept")
    await send(beaten.servers, "kept", b"before")
    servers = beaten.servers
    await beaten.kill()
    assert beaten.pid is None
    await beaten.start()
    assert beaten.servers == servers
    await send(servers, "kept", b"after")
    assert await values_of(servers, "kept", 2) == [b"before", b"after"]


async def test_a_frozen_broker_answers_nothing_until_it_is_thawed(beaten: Broker) -> None:
    await create(beaten.servers, "frozen")
    producer = AIOKafkaProducer(bootstrap_servers=beaten.servers, acks="all")
    await producer.start()
    try:
        await producer.send_and_wait("frozen", b"before")
        await beaten.freeze()
        waiting = await producer.send("frozen", b"meanwhile")
        done, _ = await asyncio.wait([waiting], timeout=1)
        assert not done
        await beaten.thaw()
        async with asyncio.timeout(SECONDS):
            await waiting
    finally:
        await producer.stop()


async def test_a_frozen_broker_can_be_stopped(beaten: Broker) -> None:
    await beaten.freeze()
    await beaten.stop(5)
    assert beaten.pid is None


async def test_a_broker_that_cannot_start_says_why_and_leaves_nothing(kafka_here: None, tmp_path: Path) -> None:
    broker = Broker(tmp_path, properties={"log.segment.bytes": "much"})
    with pytest.raises(BrokerFailed, match=r"log\.segment\.bytes"):
        await broker.start()
    assert broker.pid is None


async def test_a_broker_ends_with_whoever_started_it(kafka_here: None, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtests.broker", "--data", str(tmp_path), "--port", "0"]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS):
        address = (await process.stdout.readline()).decode().strip()
    assert address.startswith("127.0.0.1:")
    java = [identity(int(pid)) for pid in _children(process.pid)]
    assert any(alive(who) for who in java)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    async with asyncio.timeout(SECONDS):
        while any(alive(who) for who in java):
            await asyncio.sleep(0.02)


def _children(pid: int) -> list[str]:
    return [
        child
        for task in os.listdir(f"/proc/{pid}/task")
        for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    ]


@pytest.fixture
async def cluster(kafka_here: None, tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    await cluster.start()
    yield cluster
    await cluster.kill()


async def test_another_node_leads_when_the_leader_is_killed(cluster: Cluster) -> None:
    await create(cluster.servers, "replicated", replication=3)
    await send(cluster.servers, "replicated", b"before")
    first = await cluster.leader_of("replicated", 0)
    await first.kill()
    second = await cluster.leader_of("replicated", 0)
    assert second is not first
    await send(cluster.servers, "replicated", b"after")
    assert await values_of(cluster.servers, "replicated", 2) == [b"before", b"after"]

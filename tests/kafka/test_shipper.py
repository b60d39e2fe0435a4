"""The shipper on a real broker: what machines append arrives, whatever happens to broker, topics and shippers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from loadtests.broker import Broker
from router.contract.codec import decode_counts, decode_folded, is_counts
from router.contract.errors import Unavailable
from router.contract.events import DEMAND, NOTICES, REPLICAS, REQUESTS, SNAPSHOTS, SPECS
from router.runtime.log import shipper
from router.runtime.log.base import Message
from router.runtime.log.kafka_connection import client_options
from router.runtime.log.kafka_url import KafkaUrl
from router.runtime.log.producing import Producing
from router.runtime.vitals import offered, writer_families
from tests.support.kafka_spool import (
    QUICK,
    Machine,
    check_complete,
    delete_topics,
    kafka_url,
    machine,
    on_kafka,
    shipping,
    until,
)
from tests.support.log_writing import ROOT
from tests.support.spool_filling import now_ns, requests_message


@pytest.fixture
def url(kafka_broker: Broker, prefix: str) -> KafkaUrl:
    return kafka_url(kafka_broker.servers, prefix)


@pytest.fixture
async def one(url: KafkaUrl, tmp_path: Path) -> AsyncIterator[Machine]:
    async with machine(url, tmp_path / "one") as made:
        yield made


def counters(one: Machine) -> dict[tuple[str, str], float]:
    return dict(one.spool.health().counters)


async def load(one: Machine, stop: asyncio.Event, keys: int = 20) -> None:
    """Append until told to stop: enough for any test, and no more than a busy machine can ship behind an outage."""
    number = 0
    while not stop.is_set():
        for _ in range(20):
            one.append(DEMAND, f"e{number % keys}", str(number).encode())
            number += 1
        await asyncio.sleep(0.02)


async def test_what_is_appended_arrives_once_and_in_order_and_leaves_the_spool(one: Machine, url: KafkaUrl) -> None:
    for number in range(3_000):
        one.append((DEMAND, REQUESTS, SPECS)[number % 3], f"e{number % 7}", str(number).encode())
    async with shipping(url, one.folder):
        await one.shipped()
        for number in range(300):
            one.append(DEMAND, f"e{number % 7}", b"later")
        await one.shipped()
        await until(one.spool.copy_is_current)
    for topic in (DEMAND, REQUESTS, SPECS):
        assert check_complete(await on_kafka(url, topic), [one], topic) == 0
    messages, _ = one.spool.store.read(dict.fromkeys((DEMAND, REQUESTS, SPECS), 0), 10_000, 1 << 30)
    assert {message.topic for message in messages} == {SPECS}
    assert counters(one)["log_shipped_messages", DEMAND] == 1_300
    assert counters(one)["log_copied_messages", ""] == 0


async def test_what_one_machine_publishes_the_other_one_reads_at_home(
    one: Machine, url: KafkaUrl, tmp_path: Path
) -> None:
    one.append(SPECS, "before", b"1")
    async with machine(url, tmp_path / "two") as two, shipping(url, one.folder), shipping(url, two.folder):
        reader = await two.log.reader([SPECS, REPLICAS])
        one.append(SPECS, "e", b"2")
        two.append(REPLICAS, "f", b"3")
        found: dict[str, bytes] = {}
        async with asyncio.timeout(60):
            while len(found) < 3:
                found |= {message.key: message.value for message in await reader.next()}
        assert found == {"before": b"1", "e": b"2", "f": b"3"}
        await until(lambda: one.spool.copy_is_current() and two.spool.copy_is_current())
        await one.shipped()
        await two.shipped()
        back = await one.log.reader([SPECS, REPLICAS])
        keys: set[str] = set()
        async with asyncio.timeout(60):
            while len(keys) < 3:
                keys |= {message.key for message in await back.next()}
        assert two.spool.health().state == "current"


async def test_copying_goes_on_where_it_stopped(one: Machine, url: KafkaUrl, tmp_path: Path) -> None:
    async with machine(url, tmp_path / "two") as two:
        async with shipping(url, one.folder), shipping(url, two.folder):
            for number in range(50):
                one.append(SPECS, f"e{number % 5}", str(number).encode())
            await one.shipped()
            await until(lambda: _copied(two) == 50)
        async with shipping(url, one.folder):
            one.append(SPECS, "new", b"50")
            await one.shipped()
        async with shipping(url, two.folder):
            await until(lambda: _copied(two) == 51)
            await until(two.spool.copy_is_current)
            assert counters(two)["log_copied_messages", ""] <= 1


def _copied(one: Machine) -> int:
    found: int = one.spool._db.execute("SELECT count(*) FROM messages WHERE NOT outgoing").fetchone()[0]
    return found


async def test_without_a_broker_it_is_ready_at_once_and_ships_when_there_is_one(
    tmp_path: Path, kafka_here: None
) -> None:
    broker = Broker(tmp_path / "kafka")
    url = kafka_url(broker.servers, "p")
    async with machine(url, tmp_path / "one") as one:
        for number in range(500):
            one.append(DEMAND, f"e{number % 7}", str(number).encode())
        async with shipping(url, one.folder):
            await until(lambda: "nobody listens" in one.spool.health().message)
            assert one.spool.health().state == "unreachable"
            assert not one.spool.copy_is_current()
            await broker.start()
            try:
                await one.shipped()
                await until(one.spool.copy_is_current)
                assert check_complete(await on_kafka(url, DEMAND), [one], DEMAND) == 0
            finally:
                await broker.stop()
            await until(lambda: one.spool.health().state == "unreachable")
            assert one.spool.copy_is_current()


async def test_a_broker_killed_under_load_again_and_again_loses_nothing(own_broker: Broker, tmp_path: Path) -> None:
    url = kafka_url(own_broker.servers, "p")
    async with machine(url, tmp_path / "one") as one, shipping(url, one.folder):
        stop = asyncio.Event()
        loading = asyncio.create_task(load(one, stop))
        for _ in range(3):
            before = counters(one).get(("log_shipped_messages", DEMAND), 0)
            await until(lambda before=before: counters(one).get(("log_shipped_messages", DEMAND), 0) > before)  # type: ignore[misc]
            await own_broker.kill()
            await own_broker.start()
        stop.set()
        await loading
        await one.shipped()
        check_complete(await on_kafka(url, DEMAND), [one], DEMAND)
        assert not one.log.dropped()


async def test_a_frozen_broker_is_unreachable_and_what_waits_arrives_afterwards(
    own_broker: Broker, tmp_path: Path
) -> None:
    url = kafka_url(own_broker.servers, "p")
    async with machine(url, tmp_path / "one") as one, shipping(url, one.folder):
        one.append(DEMAND, "e", b"before")
        await one.shipped()
        await until(one.spool.copy_is_current)
        await own_broker.freeze()
        try:
            for number in range(500):
                one.append(DEMAND, f"e{number % 7}", str(number).encode())
            await until(lambda: one.spool.health().state == "unreachable")
            assert one.spool.copy_is_current()
        finally:
            await own_broker.thaw()
        await one.shipped()
        await until(lambda: one.spool.health().state == "current")
        check_complete(await on_kafka(url, DEMAND), [one], DEMAND)


async def test_each_fatal_state_of_the_producer_costs_only_time(
    one: Machine, url: KafkaUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Producing] = []
    build = Producing.__init__

    def built(self: Producing, *arguments: object, **options: object) -> None:
        build(self, *arguments, **options)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(Producing, "__init__", built)
    async with shipping(url, one.folder):
        stop = asyncio.Event()
        loading = asyncio.create_task(load(one, stop))
        for _ in range(5):
            await until(lambda: bool(made and made[0].producer and made[0].producer._txn_manager._sequence_numbers))
            producer = made[0].producer
            assert producer is not None
            for place in list(producer._txn_manager._sequence_numbers):
                producer._txn_manager.increment_sequence_number(place, 3)
            await until(lambda producer=producer: made[0].producer is not producer)  # type: ignore[misc]
        stop.set()
        await loading
        await one.shipped()
    check_complete(await on_kafka(url, DEMAND), [one], DEMAND)
    assert counters(one)["log_producer_restarts", "OutOfOrderSequenceNumber"] >= 5


async def test_topics_deleted_while_it_runs_are_made_again_with_what_this_machine_published(
    one: Machine, url: KafkaUrl
) -> None:
    async with shipping(url, one.folder):
        for number in range(20):
            one.append(SPECS, f"e{number % 4}", str(number).encode())
        await one.shipped()
        await until(one.spool.copy_is_current)
        await until(lambda: sum(place.offset for place in one.spool.copied()) == 20)
        await delete_topics(url, [SPECS, DEMAND])
        one.append(DEMAND, "e", b"after")
        async with asyncio.timeout(120):
            while {m.key: m.value for m in await _patiently(url, SPECS)} != {
                f"e{k}": str(16 + k).encode() for k in range(4)
            }:
                await asyncio.sleep(0.2)
        await one.shipped()
        await until(lambda: one.spool.health().state == "current")
    assert [message.value for message in await on_kafka(url, DEMAND)] == [b"after"]


async def _patiently(url: KafkaUrl, topic: str) -> list[Message]:
    from aiokafka.errors import KafkaError

    with contextlib.suppress(KafkaError, TimeoutError):
        async with asyncio.timeout(5):
            return list(await on_kafka(url, topic))
    return []


async def test_a_message_that_can_never_be_sent_is_set_aside_and_kept(one: Machine, url: KafkaUrl) -> None:
    one.append(DEMAND, "e", b"before")
    one.append(DEMAND, "e", os.urandom(5 << 20))
    one.append(DEMAND, "e", b"after")
    async with shipping(url, one.folder):
        await one.shipped()
        assert one.spool.health().gauges["log_set_aside_messages", ""] == 1
        await until(lambda: one.spool.health().state == "current")
    assert [message.value for message in await on_kafka(url, DEMAND)] == [b"before", b"after"]
    async with shipping(url, one.folder):  # tried once more, and set aside again
        await until(lambda: one.spool.health().counters.get(("log_producer_restarts", "MessageSizeTooLargeError")) == 1)
        await one.shipped()
        assert one.spool.health().gauges["log_set_aside_messages", ""] == 1


async def test_a_second_shipper_stands_by_and_takes_over(one: Machine, url: KafkaUrl) -> None:
    async with shipping(url, one.folder) as end, shipping(url, one.folder):
        one.append(DEMAND, "e", b"1")
        await one.shipped()
        await end()
        one.append(DEMAND, "e", b"2")
        await one.shipped()
    assert check_complete(await on_kafka(url, DEMAND), [one], DEMAND) == 0


async def test_a_shipper_that_stands_by_ends_when_told(one: Machine, url: KafkaUrl) -> None:
    async with shipping(url, one.folder):
        async with shipping(url, one.folder) as second:
            await second()
        one.append(DEMAND, "e", b"1")
        await one.shipped()


async def test_at_its_end_it_ships_what_is_there(one: Machine, url: KafkaUrl) -> None:
    async with shipping(url, one.folder):
        await until(one.spool.copy_is_current)
        for number in range(20_000):
            one.append(DEMAND, f"e{number % 7}", str(number).encode())
        await one.log.flush()
    assert one.spool.size().rows == 0
    assert check_complete(await on_kafka(url, DEMAND), [one], DEMAND) == 0


async def test_at_its_end_it_does_not_wait_long_for_a_broker(tmp_path: Path, kafka_here: None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = kafka_url(f"127.0.0.1:{taken.getsockname()[1]}", "p")
        async with machine(url, tmp_path / "one") as one:
            one.append(DEMAND, "e", b"1")
            await one.log.flush()
            async with shipping(url, one.folder, dataclasses.replace(QUICK, drain_seconds=0.1)):
                await until(lambda: "nobody listens" in one.spool.health().message)
            assert one.spool.size().rows == 1


async def test_a_spool_that_cannot_be_opened_ends_the_shipper_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "log.db").mkdir()
    with pytest.raises(Unavailable, match="cannot be opened"):
        await shipper.run(KafkaUrl(("127.0.0.1:1",)), tmp_path / "spool", asyncio.Event(), lambda: None, environ={})
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be made"):
        await shipper.run(
            KafkaUrl(("127.0.0.1:1",)), tmp_path / "file" / "s", asyncio.Event(), lambda: None, environ={}
        )


async def test_a_full_spool_is_folded_and_every_request_still_counts(tmp_path: Path, kafka_here: None) -> None:
    broker = Broker(tmp_path / "kafka")
    url = kafka_url(broker.servers, "p")
    cap = 2_000_000
    settings = dataclasses.replace(QUICK, spool_bytes=cap)
    async with machine(url, tmp_path / "one", spool_bytes=cap) as one, shipping(url, one.folder, settings):
        await until(lambda: "nobody listens" in one.spool.health().message)
        records = 0
        for number in range(3_000):
            message = requests_message(50 * number, 50, start_ns=now_ns())
            assert one.append(REQUESTS, f"e{number % 3}", message) >= 0
            records += 50
            if number % 30 == 29:
                await one.log.flush()
                # A machine writes at some speed, and the shipper has to keep up with it.
                await until(lambda: one.spool.size().bytes < 0.95 * cap)
            if number % 500 == 0:
                one.append(SNAPSHOTS, "e", os.urandom(1000))
        assert not one.log.dropped()
        await broker.start()
        try:
            await one.shipped()
            messages = await on_kafka(url, REQUESTS)
            notices = [decode_folded(message.value) for message in await on_kafka(url, NOTICES)]
            told = [notice.messages for notice in notices if notice.topic == REQUESTS]
            await until(lambda: counters(one)["log_folded_messages", REQUESTS] == sum(told))
        finally:
            await broker.stop()
    assert check_complete(messages, [one], REQUESTS) == 0
    folded = [message for message in messages if is_counts(message.value)]
    whole = [message for message in messages if not is_counts(message.value)]
    counted = sum(row.requests for message in folded for row in decode_counts(message.value))
    assert counted + 50 * len(whole) == records
    assert sum(notice.records for notice in notices) == counted
    assert sum(notice.messages for notice in notices) == 3_000 - len(whole)
    assert len(folded) > 0


async def test_metrics_are_served(one: Machine, url: KafkaUrl) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    vitals = one.folder / "metrics"
    settings = dataclasses.replace(QUICK, metrics=("127.0.0.1", port), vitals=vitals)
    async with (
        offered(vitals, "gateway-0", lambda: writer_families({DEMAND: 7}, None)),
        offered(vitals, "mirror", lambda: writer_families({DEMAND: 0}, None)),
        shipping(url, one.folder, settings),
    ):
        one.append(DEMAND, "e", b"1")
        await one.shipped()
        await until(lambda: ("log_shipped_messages", DEMAND) in counters(one))
        await until(lambda: one.spool.health().state == "current")
        text = await _get(port, "/metrics")
        assert text.startswith("HTTP/1.1 200 OK")
        assert 'tidegate_log_shipped_messages_total{topic="demand"} 1\n' in text
        assert 'tidegate_log_link{state="current"} 1\n' in text
        assert "tidegate_spool_bytes 0\n" in text
        from prometheus_client.parser import text_string_to_metric_families

        families = list(text_string_to_metric_families(text.partition("\r\n\r\n")[2]))
        assert {family.name for family in families} >= {"tidegate_spool_rows", "tidegate_log_shipped_messages"}
        assert text.count("# TYPE tidegate_log_dropped_messages_total ") == 1
        assert 'tidegate_log_dropped_messages_total{process="gateway-0",topic="demand"} 7\n' in text
        assert 'tidegate_process_up{process="mirror"} 1\n' in text
        assert (await _get(port, "/healthz")).startswith("HTTP/1.1 200 OK")
        assert (await _get(port, "/")).startswith("HTTP/1.1 404")
        assert (await _get(port, "/metrics", "POST")).startswith("HTTP/1.1 405")


async def _get(port: int, path: str, method: str = "GET") -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    text = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return text


_SHIP = """
import asyncio, sys
from pathlib import Path
from router.runtime.log import shipper
from router.runtime.log.kafka_url import parse

async def main():
    await shipper.run(parse(sys.argv[1]), Path(sys.argv[2]), asyncio.Event(), lambda: print("ready", flush=True))

asyncio.run(main())
"""


async def test_a_shipper_killed_again_and_again_loses_nothing(one: Machine, url: KafkaUrl) -> None:
    stop = asyncio.Event()
    loading = asyncio.create_task(load(one, stop))
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", _SHIP, str(url), str(one.folder)], cwd=ROOT, stdout=subprocess.PIPE
        )
        try:
            before = one.spool._db.execute("SELECT min(offset) FROM messages WHERE outgoing").fetchone()[0] or 0
            await until(
                lambda before=before: (
                    (  # type: ignore[misc]
                        one.spool._db.execute("SELECT min(offset) FROM messages WHERE outgoing").fetchone()[0] or 0
                    )
                    > before
                )
            )
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    stop.set()
    await loading
    async with shipping(url, one.folder):
        await one.shipped()
    check_complete(await on_kafka(url, DEMAND), [one], DEMAND)


async def test_what_is_committed_is_synced_soon(one: Machine, url: KafkaUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def sync(fd: int) -> None:
        real(fd)
        if os.readlink(f"/proc/self/fd/{fd}").endswith("log.db-wal"):
            synced.append(os.fstat(fd).st_size)

    monkeypatch.setattr(os, "fdatasync", sync)
    async with shipping(url, one.folder):
        await until(one.spool.copy_is_current)
        count = len(synced)
        one.append(DEMAND, "e", b"1")
        await until(lambda: len(synced) > count)


async def test_nothing_is_folded_that_was_sent_and_not_acknowledged(own_broker: Broker, tmp_path: Path) -> None:
    url = kafka_url(own_broker.servers, "p")
    cap = 1_500_000
    settings = dataclasses.replace(QUICK, spool_bytes=cap)
    async with machine(url, tmp_path / "one", spool_bytes=cap) as one, shipping(url, one.folder, settings):
        await until(one.spool.copy_is_current)
        await own_broker.freeze()  # what it has in its socket it takes once it runs again
        for number in range(1_500):
            one.append(REQUESTS, f"e{number % 3}", requests_message(50 * number, 50, start_ns=now_ns()))
            if number % 30 == 29:
                await one.log.flush()
                await until(lambda: one.spool.size().bytes < 0.95 * cap)
        await own_broker.thaw()
        await one.shipped()
        messages = await on_kafka(url, REQUESTS)
    check_complete(messages, [one], REQUESTS)
    seen: set[tuple[str, int, int]] = set()
    requests = 0
    for message in messages:
        if (message.writer, message.partition, message.sequence) not in seen:
            counts = decode_counts(message.value) if is_counts(message.value) else ()
            requests += sum(row.requests for row in counts) if counts else 50
        seen.add((message.writer, message.partition, message.sequence))
    assert requests == 50 * len(one.sent[REQUESTS])


def test_standing_by_needs_no_kafka_client() -> None:
    code = "import sys, router.runtime.log.shipper; sys.exit('aiokafka' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_client_options_are_checked_before_anything_is_opened(tmp_path: Path) -> None:
    from router.contract.errors import InvalidSpec

    url = KafkaUrl(("127.0.0.1:1",))
    wrong = {"TIDEGATE_KAFKA_SASL_MECHANISM": "NONSENSE"}
    with pytest.raises(InvalidSpec):
        client_options(url, "shipper", wrong)
    with pytest.raises(InvalidSpec):
        asyncio.run(shipper.run(url, tmp_path / "spool", asyncio.Event(), lambda: None, environ=wrong))
    assert not (tmp_path / "spool").exists()

"""Messages that come twice, from a newer version, or from somebody else, while everything runs: counted, and nothing stops."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("aiokafka")

from router.contract.events import COMPACTED, DEMAND, NOTICES, REPLICAS, REQUESTS, SPECS, TOPICS
from router.runtime.log.embedded import FILE
from router.runtime.log.kafka_messages import Outgoing, headers_of, partition_of
from router.runtime.log.kafka_url import parse
from tests.support.contract_samples import FUTURE, golden_bytes
from tests.support.log_faults import Machine, machine, until
from tests.support.log_faults_folding import STREAMS, folding
from tests.support.log_faults_topics import Foreign, produce
from tests.support.log_faults_writer import ENDPOINTS

if TYPE_CHECKING:
    from loadtests.broker import Broker

READ = (REQUESTS, DEMAND, NOTICES)
"""What the counting reader reads."""
SOMEBODY = "f" * 32


@pytest.fixture
async def here(kafka_broker: Broker, prefix: str, tmp_path: Path) -> AsyncIterator[Machine]:
    async with machine(tmp_path, kafka_broker.servers, prefix) as one:
        yield one


def restore(backup: Machine, of: Machine) -> Counter[str]:
    """Give a machine the spool that another one has now: what waits there, by topic."""
    backup.spool.mkdir(parents=True)
    with (
        contextlib.closing(sqlite3.connect(of.spool / FILE)) as source,
        contextlib.closing(sqlite3.connect(backup.spool / FILE)) as target,
    ):
        source.backup(target)
        return Counter(dict(target.execute("SELECT topic, count(*) FROM messages WHERE outgoing = 1 GROUP BY topic")))


async def test_everything_that_waited_is_shipped_twice_and_counts_once(
    here: Machine, kafka_broker: Broker, prefix: str, tmp_path: Path
) -> None:
    shipper = await here.shipper()
    reader = await here.reader()
    async with folding(here, tmp_path / "folding") as folds:
        await here.shipped()
        await shipper.kill()
        writer = await here.writer()
        await writer.further(1000)
        await writer.hold()
        async with machine(tmp_path / "backup", kafka_broker.servers, prefix) as backup:
            waiting = restore(backup, here)
            await here.shipper()
            await here.shipped()
            await folds.level(writer.told)
            appended = {topic: sum(writer.told.messages(topic).values()) for topic in (REQUESTS, DEMAND)}
            assert appended.items() <= waiting.items()
            await backup.shipper()
            await backup.shipped()
            await writer.go()
            await writer.further(500)
            written = await writer.end()
            seen = await here.settle(reader, written)
            await folds.level(written)
        assert seen.stats.duplicates_by_topic == appended
        shown = {topic: count for topic, count in waiting.items() if topic in STREAMS}
        assert folds.fleet.noticed().duplicates_by_topic == shown
        assert folds.heard.duplicates_by_topic == {DEMAND: appended[DEMAND]}
        assert (folds.fleet.noticed().gaps, folds.autoscaler.intake.stats.gaps) == (0, 0)


def from_somebody(topic: str, partition: int) -> list[Foreign]:
    """What is none of ours, one of each kind."""
    key = ENDPOINTS[0].encode()
    row = Outgoing(0, topic, ENDPOINTS[0], SOMEBODY, 0, 1, b"{}", "", partition)
    ours = headers_of(row)
    strange = [
        Foreign(key, b"hello"),
        Foreign(key, os.urandom(300_000), [("content-type", b"application/avro")]),
        Foreign(b"\xff\xfe", b"\x00", ours),
        Foreign(key, None),
        Foreign(key, None, ours),
        Foreign(key, b"{}", [*ours, ("ce_type", b"something.else.v1")]),
        Foreign(key, b"{}", [(name, None if name == "ce_source" else value) for name, value in ours]),
        Foreign(key, b"{}", [(name, b"9" * 20 if name == "ce_sequence" else value) for name, value in ours]),
    ]
    if topic not in COMPACTED:  # there a broker itself wants a key
        strange.append(Foreign(None, b"no key", ours))
    return [Foreign(one.key, one.value, one.headers, partition) for one in strange]


def from_the_future(topic: str, partitions: int) -> list[Foreign]:
    """A newer version's messages about an endpoint of ours, its writer's first and second."""
    value = golden_bytes(next(FUTURE.glob(f"{topic}.v2.*")))
    partition = partition_of(ENDPOINTS[0], partitions)
    found = []
    for sequence in range(2):
        row = Outgoing(0, topic, ENDPOINTS[0], SOMEBODY, sequence, 1, value, "", partition)
        newer = {"ce_type": f"tidegate.{topic}.v2".encode(), "ce_dataschema": f"urn:tidegate:{topic}:v2".encode()}
        headers = [*((name, newer.get(name, one)) for name, one in headers_of(row)), ("ce_novelty", b"1")]
        found.append(Foreign(row.key.encode(), value, headers, partition))
    return found


def per_topic(records: dict[str, list[Foreign]], topics: Iterable[str]) -> int:
    return sum(len(records[topic]) for topic in topics)


async def test_messages_of_somebody_else_and_of_a_newer_version_are_skipped_and_counted(
    here: Machine, tmp_path: Path
) -> None:
    url = parse(here.url)
    await here.shipper()
    reader = await here.reader()
    async with folding(here, tmp_path / "folding") as folds:
        writer = await here.writer()
        await reader.further(500)
        skipped_before = folds.autoscaler.intake.stats.skipped
        strange = {topic: [one for number in range(3) for one in from_somebody(topic, number)] for topic in TOPICS}
        future = {topic: from_the_future(topic, url.partitions) for topic in TOPICS}
        for topic in sorted(TOPICS):
            await produce(url, topic, [*strange[topic], *future[topic]])
        await reader.further(500)
        await writer.further(500)
        written = await writer.end()
        seen = await here.settle(reader, written)
        await folds.level(written)

        async def copied() -> bool:
            return (await here.health()).counters["log_foreign_messages", ""] >= per_topic(strange, COMPACTED)

        await until("the copy to be past it", copied)
        assert (await here.health()).counters["log_foreign_messages", ""] == per_topic(strange, COMPACTED)
        assert (await here.health()).state == "current"
        assert seen.stats.skipped == per_topic(strange, READ)
        assert seen.unreadable == dict.fromkeys(READ, 2)
        assert folds.fleet.noticed().skipped == per_topic(strange, STREAMS)
        assert folds.fleet.skipped == per_topic(strange, STREAMS) + per_topic(future, STREAMS)
        assert folds.heard.skipped == len(strange[DEMAND])
        assert folds.autoscaler.intake.stats.skipped - skipped_before == per_topic(future, (DEMAND, SPECS, REPLICAS))

"""What a message looks like on Kafka: what was once written stays readable, and today's is written byte for byte so.

A golden file holds records as a broker hands them out, the value in hex, each with the row of the spool it came from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from router.contract import codec, events
from router.runtime.log.kafka_messages import Outgoing, headers_of, message_of

FOLDER = Path(__file__).parent / "kafka"
CURRENT = json.loads((FOLDER / f"records.v{codec.SCHEMA}.json").read_text())
EVER = [
    pytest.param(record, id=f"{path.stem} {record['row']['topic']} {number}")
    for path in sorted(FOLDER.glob("records.v*.json"))
    for number, record in enumerate(json.loads(path.read_text()))
]


def row_of(record: dict[str, Any]) -> Outgoing:
    return Outgoing(**record["row"] | {"value": bytes.fromhex(record["row"]["value"])})


@pytest.mark.parametrize("record", EVER)
def test_every_record_ever_written_is_still_read(record: dict[str, Any]) -> None:
    row = row_of(record)
    headers = [(name, value.encode()) for name, value in record["headers"].items()]
    message = message_of(row.topic, row.partition, 1234, record["key"].encode(), row.value, headers)
    identity = (message.topic, message.partition, message.writer, message.sequence, message.replaces)
    assert identity == (row.topic, row.partition, row.writer, row.sequence, row.replaces)
    assert (message.key, message.value, message.time_ns, message.offset) == (row.key, row.value, row.time_ns, 1234)


@pytest.mark.parametrize("record", CURRENT, ids=lambda record: record["row"]["topic"])
def test_todays_record_is_written_byte_for_byte(record: dict[str, Any]) -> None:
    headers = headers_of(row_of(record))
    assert [(name, value.decode()) for name, value in headers] == list(record["headers"].items())


def test_every_topic_has_its_golden_record() -> None:
    assert {record["row"]["topic"] for record in CURRENT} == set(events.TOPICS)


def test_a_record_of_a_later_version_is_read_and_left_to_its_decoder() -> None:
    [later] = json.loads((FOLDER / "later.json").read_text())
    headers = [(name, value.encode()) for name, value in later["headers"].items()]
    row = row_of(later)
    message = message_of(row.topic, row.partition, 0, later["key"].encode(), row.value, headers)
    assert message.sequence == row.sequence
    with pytest.raises(codec.UnknownSchema):
        codec.decode_demand(message.value)

"""Every row of a spool comes back from Kafka exactly as it was, and no bytes at all break the reader."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.contract.events import TOPICS
from router.runtime.log.base import Message
from router.runtime.log.kafka_messages import ForeignMessage, Outgoing, headers_of, message_of, partition_of

number = st.integers(0, 2**63 - 1)
span = number.map(str) | st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
rows = st.builds(
    Outgoing,
    offset=number,
    topic=st.sampled_from(TOPICS) | st.from_regex(r"[a-z]{1,20}", fullmatch=True),
    key=st.text(),
    writer=st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
    sequence=number,
    time_ns=st.integers(-(2**63), 2**63 - 1),
    value=st.binary(),
    replaces=st.lists(span, max_size=4).map(",".join),
    partition=st.integers(0, 10_000),
)
some_bytes = st.binary(max_size=40) | st.sampled_from([value for _, value in headers_of(
    Outgoing(0, "demand", "k", "0" * 32, 0, 0, b"", "")
)])  # fmt: skip


@given(rows, number)
def test_every_row_comes_back_exactly(row: Outgoing, offset: int) -> None:
    message = message_of(row.topic, row.partition, offset, row.key.encode(), row.value, headers_of(row))
    expected = (
        row.topic,
        row.partition,
        offset,
        row.key,
        row.value,
        row.writer,
        row.sequence,
        row.time_ns,
        row.replaces,
    )
    assert message == Message(*expected)


@given(rows, st.data())
def test_one_header_changed_is_ignored_read_or_foreign_but_never_an_accident(
    row: Outgoing, data: st.DataObject
) -> None:
    headers = headers_of(row)
    index = data.draw(st.integers(0, len(headers) - 1))
    name, before = headers[index]
    after = data.draw(some_bytes.filter(lambda value: value != before))
    headers[index] = (name, after)
    try:
        message = message_of(row.topic, row.partition, 0, row.key.encode(), row.value, headers)
    except ForeignMessage:
        return
    # What may be another value: the schema's URI, the version in the type, who wrote it, when, and for what.
    assert name in {"ce_dataschema", "ce_type", "ce_source", "ce_time", "ce_replaces"}
    assert (message.sequence, message.key, message.value) == (row.sequence, row.key, row.value)


@given(
    st.lists(st.tuples(st.text(max_size=20) | st.sampled_from(["ce_id", "ce_type", "content-type"]), some_bytes)),
    st.none() | st.binary(),
    st.none() | st.binary(),
)
def test_records_of_others_are_foreign(
    headers: list[tuple[str, bytes]], key: bytes | None, value: bytes | None
) -> None:
    with pytest.raises(ForeignMessage):
        message_of("demand", 0, 0, key, value, headers)


@given(number, number)
def test_sequences_sort_as_text_as_they_do_as_numbers(one: int, other: int) -> None:
    row = Outgoing(0, "demand", "k", "0" * 32, 0, 0, b"", "")
    texts = [dict(headers_of(row._replace(sequence=sequence)))["ce_sequence"] for sequence in (one, other)]
    assert (texts[0] < texts[1]) == (one < other)


@given(st.text(), st.integers(1, 100))
def test_partitions_are_those_of_the_clients_own_partitioner(key: str, partitions: int) -> None:
    partitioner = pytest.importorskip("aiokafka.partitioner")
    everywhere = list(range(partitions))
    assert partition_of(key, partitions) == partitioner.DefaultPartitioner()(key.encode(), everywhere, everywhere)

"""The wire form of a message: what makes a record ours, and what makes it somebody else's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from router.runtime.log.base import Message
from router.runtime.log.kafka_messages import ForeignMessage, Outgoing, headers_of, message_of, partition_of

WRITER = "0123456789abcdef0123456789abcdef"
ROW = Outgoing(7, "demand", "fraud", WRITER, 42, 1_700_000_000_123_456_789, b"\x01packed", "3-9,12", 5)
MESSAGE = Message("demand", 5, 99, "fraud", b"\x01packed", WRITER, 42, 1_700_000_000_123_456_789, "3-9,12")

Headers = list[tuple[str, bytes]]


def read(headers: Headers, key: bytes | None = b"fraud", value: bytes | None = b"\x01packed") -> Message:
    return message_of("demand", 5, 99, key, value, headers)


def changed(name: str, value: bytes | None) -> Headers:
    return [(one, value if one == name else found) for one, found in headers_of(ROW)]  # type: ignore[misc]  # as aiokafka gives it


def test_a_row_is_read_as_the_message_it_was() -> None:
    assert read(headers_of(ROW)) == MESSAGE


def test_the_headers_are_a_cloud_event_in_binary_mode() -> None:
    assert dict(headers_of(ROW)) == {
        "content-type": b"application/vnd.tidegate.packed",
        "ce_specversion": b"1.0",
        "ce_type": b"tidegate.demand.v1",
        "ce_dataschema": b"urn:tidegate:demand:v1",
        "ce_source": b"/tidegate/writers/" + WRITER.encode(),
        "ce_id": b"demand/5/00000000000000000042",
        "ce_sequence": b"00000000000000000042",
        "ce_time": b"2023-11-14T22:13:20.123456789Z",
        "ce_subject": b"fraud",
        "ce_replaces": b"3-9,12",
    }


def test_json_topics_say_so_and_a_plain_message_replaces_nothing() -> None:
    headers = dict(headers_of(ROW._replace(topic="specs", replaces="")))
    assert headers["content-type"] == b"application/json"
    assert "ce_replaces" not in headers


def test_headers_of_newer_writers_are_ignored() -> None:
    assert read([("ce_traceparent", b"00-1"), *headers_of(ROW), ("x-hop", b"\xff")]) == MESSAGE


def test_order_of_headers_means_nothing() -> None:
    assert read(headers_of(ROW)[::-1]) == MESSAGE


def test_a_schema_of_the_future_is_a_message_that_its_decoder_may_refuse() -> None:
    assert read(changed("ce_type", b"tidegate.demand.v2")) == MESSAGE


REQUIRED = [name for name, _ in headers_of(ROW) if name not in {"ce_replaces", "ce_dataschema"}]


@pytest.mark.parametrize("name", REQUIRED)
def test_a_header_that_is_missing_or_empty_makes_it_foreign(name: str) -> None:
    without = [(one, value) for one, value in headers_of(ROW) if one != name]
    with pytest.raises(ForeignMessage, match=name):
        read(without)
    with pytest.raises(ForeignMessage, match=name):
        read(changed(name, None))
    with pytest.raises(ForeignMessage):
        read(changed(name, b""))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ce_specversion", b"0.3"),
        ("content-type", b"application/cloudevents+json"),
        ("content-type", b"application/json"),
        ("ce_type", b"tidegate.requests.v1"),
        ("ce_type", b"tidegate.demand.v0"),
        ("ce_type", b"tidegate.demand.v1\n"),
        ("ce_sequence", b"42"),
        ("ce_sequence", b"+0000000000000000042"),
        ("ce_sequence", b"0000000000000000_042"),
        ("ce_sequence", b"00000000000000000043"),
        ("ce_id", b"demand/5/42"),
        ("ce_id", b"demand/00000000000000000042"),
        ("ce_id", b"demand/6/00000000000000000042"),
        ("ce_id", b"requests/5/00000000000000000042"),
        ("ce_source", b"/tidegate/writers/0123"),
        ("ce_source", b"/tidegate/writers/" + WRITER.upper().encode()),
        ("ce_source", b"/elsewhere/writers/" + WRITER.encode()),
        ("ce_source", b"\xff" * 50),
        ("ce_time", b"2023-11-14T22:13:20Z"),
        ("ce_time", b"2023-11-14T22:13:20.123456789+01:00"),
        ("ce_time", b"2023-13-14T22:13:20.123456789Z"),
        ("ce_time", b"2023-02-30T22:13:20.123456789Z"),
        ("ce_time", b"0000-01-01T00:00:00.000000000Z"),
        ("ce_time", b"2023-11-14 22:13:20.123456789Z"),
        ("ce_subject", b"other"),
        ("ce_replaces", b""),
        ("ce_replaces", b"9-"),
        ("ce_replaces", b"1,,2"),
        ("ce_replaces", b"1-2-3"),
        ("ce_replaces", b"\xd9\xa3"),
        ("ce_replaces", b"1\n"),
    ],
)
def test_a_header_that_is_malformed_makes_it_foreign(name: str, value: bytes) -> None:
    with pytest.raises(ForeignMessage) as caught:
        read(changed(name, value))
    assert str(caught.value)


def test_a_sequence_beyond_every_writer_is_foreign() -> None:
    sequence = b"%020d" % 2**63
    headers = dict(headers_of(ROW)) | {"ce_sequence": sequence, "ce_id": b"demand/5/" + sequence}
    with pytest.raises(ForeignMessage, match="out of range"):
        read(list(headers.items()))


@pytest.mark.parametrize(
    "broken",
    [
        lambda: read(headers_of(ROW), key=None),
        lambda: read(headers_of(ROW), key=b"other"),
        lambda: read(headers_of(ROW), value=None),
        lambda: read([*headers_of(ROW), ("ce_time", b"2023-11-14T22:13:20.123456789Z")]),
        lambda: read(changed("ce_subject", b"\xff"), key=b"\xff"),
        lambda: read([]),
        lambda: message_of("requests", 5, 0, b"fraud", b"", headers_of(ROW)),
        lambda: message_of("demand", 4, 0, b"fraud", b"", headers_of(ROW)),
    ],
)
def test_a_record_that_is_none_of_ours_is_foreign(broken: Callable[[], Message]) -> None:
    with pytest.raises(ForeignMessage) as caught:
        broken()
    assert str(caught.value)


JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}
"""What Kafka's own murmur2 gives, as signed 32 bits (`UtilsTest.testMurmur2`)."""


@pytest.mark.parametrize("key", JAVA)
def test_partitions_are_those_of_the_java_client(key: bytes) -> None:
    assert partition_of(key.decode(), 2**31) == JAVA[key] & 0x7FFFFFFF
    assert partition_of(key.decode(), 12) == (JAVA[key] & 0x7FFFFFFF) % 12


def test_a_process_that_only_knows_messages_does_not_load_aiokafka() -> None:
    modules = ", ".join(f"router.runtime.log.kafka_{one}" for one in ("messages", "url", "connection", "settings"))
    code = f"import sys, {modules}; sys.exit('aiokafka' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""What was once written stays readable, and what is written today is byte for byte what the golden files hold."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from router.contract import codec, events, tee
from router.control import event_lines
from router.control.fleet import Fleet
from router.runtime.log.base import Message
from tests.support.contract_samples import (
    EXPECTED,
    FOLDER,
    FORMATS,
    FRAMES,
    FUTURE,
    HEAD,
    OPEN,
    SAMPLES,
    golden_bytes,
    golden_path,
)

GOLDEN = sorted(FOLDER.iterdir())
LATER = sorted(FUTURE.iterdir())


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_every_version_ever_written_is_still_read(path: Any) -> None:
    name = re.fullmatch(r"(\w+)\.v(\d+)\.(json|hex)", path.name)
    assert name is not None
    topic, version = name[1], int(name[2])
    _, _, decode = SAMPLES[topic]
    assert decode(golden_bytes(path)) == EXPECTED[topic, version]


@pytest.mark.parametrize("topic", SAMPLES)
def test_the_current_version_is_written_byte_for_byte(topic: Any) -> None:
    event, encode, _ = SAMPLES[topic]
    assert encode(event) == golden_bytes(golden_path(topic))


def test_every_topic_and_every_frame_kind_has_its_golden_sample() -> None:
    assert set(SAMPLES) == {*events.TOPICS, *FORMATS}
    kinds = [kind for kind, _, _ in tee.Decoder().feed(b"".join(FRAMES))]
    assert kinds == list(tee.Kind)
    assert {name for name, _ in EXPECTED} == set(SAMPLES)
    assert {(topic, codec.SCHEMA) for topic in SAMPLES} <= set(EXPECTED)


def test_the_golden_open_frame_says_what_it_was_made_from() -> None:
    frames = tee.Decoder().feed(golden_bytes(golden_path("tee")))
    _, exchange, payload = next(frames)
    assert (exchange, tee.parse_open(payload)) == (1, (OPEN, HEAD))


def test_two_records_of_a_golden_message_fold_as_arrays_too() -> None:
    names, records = codec.split_requests(golden_bytes(golden_path(events.REQUESTS)))
    assert names == ["", "blue", "blue-1"]
    assert len(records) == 2 * codec.REQUEST_RECORD.size


@pytest.mark.parametrize("path", LATER, ids=lambda path: path.name)
def test_a_version_after_this_one_is_unknown_not_malformed(path: Any) -> None:
    _, _, decode = SAMPLES[path.name.split(".")[0]]
    with pytest.raises(codec.UnknownSchema):
        decode(golden_bytes(path))


def test_every_format_of_a_message_has_a_later_version() -> None:
    assert {path.name.split(".")[0] for path in LATER} == SAMPLES.keys() - {"tee"}


def later_messages() -> list[Message]:
    """One message of each later version, on the topic that it belongs to."""
    topics = {"damaged": events.NOTICES, "request_counts": events.REQUESTS, "request_details": events.REQUESTS}
    names = [path.name.split(".")[0] for path in LATER]
    return [
        Message(topics.get(name, name), 0, at, "shop", golden_bytes(path), "w", at, 0)
        for at, (name, path) in enumerate(zip(names, LATER, strict=True))
    ]


def test_the_control_plane_skips_and_counts_later_versions_and_reads_on() -> None:
    fleet = Fleet(lambda: None)
    read = (events.REPLICAS, events.DEMAND, events.REQUESTS, events.SHADOWS, events.DECISIONS)
    later = [message for message in later_messages() if message.topic in read]
    known = [Message(topic, 0, 9, "my-endpoint", golden_bytes(golden_path(topic)), "w", 9, 0) for topic in read]
    fleet.take([*later, *known])
    assert fleet.skipped == len(later) == 7
    target = ("my-endpoint", "blue")
    assert fleet.replicas("my-endpoint").keys() == {"blue", "green"}
    assert fleet.decisions == {target: 1}
    found = fleet.traffic.of(target)
    assert found is not None
    assert found.requests == 1


def test_a_later_version_is_a_line_that_says_so() -> None:
    for message in later_messages():
        (line,) = event_lines.lines_of(message)
        assert "schema" in json.loads(line)["event"]["unreadable"]

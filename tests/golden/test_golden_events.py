"""What was once written stays readable, and what is written today is byte for byte what the golden files hold."""

from __future__ import annotations

import re
from typing import Any

import pytest

from router.contract import codec, events, tee
from tests.support.contract_samples import EXPECTED, FOLDER, FRAMES, HEAD, OPEN, SAMPLES, golden_bytes, golden_path

GOLDEN = sorted(FOLDER.iterdir())


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
    assert set(SAMPLES) == {*events.TOPICS, "tee"}
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

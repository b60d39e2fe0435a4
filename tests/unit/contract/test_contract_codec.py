"""Readers skip what they do not know, and refuse what makes no event."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from router.contract import codec, tee
from router.contract.events import (
    DECISIONS,
    NOTICES,
    REPLICAS,
    REQUESTS,
    SHADOWS,
    SNAPSHOTS,
    SPECS,
    EndpointSnapshot,
)
from tests.support.contract_samples import COUNTS, HEAD, OPEN, READABLE, SAMPLES, SNAPSHOT

JSON_TOPICS = READABLE
TOPICS = sorted(SAMPLES.keys() - {"tee"})


def changed(topic: Any, **fields: Any) -> Any:
    event, encode, _ = SAMPLES[topic]
    return json.dumps({**json.loads(encode(event)), **fields}).encode()


def test_a_replicas_zone_is_written_where_it_has_one() -> None:
    event, encode, decode = SAMPLES[REPLICAS]
    blue = event.deployments["blue"]
    one, other = blue.replicas
    zoned = dataclasses.replace(blue, replicas=(dataclasses.replace(one, zone="west-2"), other))
    changed_event = dataclasses.replace(event, deployments={**event.deployments, "blue": zoned})
    assert decode(encode(changed_event)) == changed_event
    written = json.loads(encode(changed_event))["deployments"]["blue"]["replicas"]
    assert [found.get("zone") for found in written] == ["west-2", None]


@pytest.mark.parametrize("topic", JSON_TOPICS)
def test_a_field_of_a_newer_writer_is_skipped(topic: Any) -> None:
    event, _, decode = SAMPLES[topic]
    assert decode(changed(topic, added_later={"x": [1]})) == event


def test_fields_of_a_newer_writer_are_skipped_inside_too() -> None:
    event, encode, decode = SAMPLES[REPLICAS]
    body = json.loads(encode(event))
    body["deployments"]["blue"]["added"] = 1
    body["deployments"]["blue"]["replicas"][0]["added"] = 1
    assert decode(json.dumps(body).encode()) == event
    event, encode, decode = SAMPLES[SHADOWS]
    body = json.loads(encode(event))
    body["live"]["added"] = 1
    assert decode(json.dumps(body).encode()) == event


@pytest.mark.parametrize("topic", TOPICS)
def test_another_schema_is_unknown_not_malformed(topic: Any) -> None:
    event, encode, decode = SAMPLES[topic]
    data = encode(event)
    later = changed(topic, schema=2) if topic in JSON_TOPICS else b"\x02" + data[1:]
    with pytest.raises(codec.UnknownSchema):
        decode(later)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_message_cut_short_is_refused(topic: Any) -> None:
    event, encode, decode = SAMPLES[topic]
    data = encode(event)
    for length in range(len(data)):
        with pytest.raises((codec.Malformed, codec.UnknownSchema)):
            decode(data[:length])


@pytest.mark.parametrize(
    ("topic", "fields"),
    [
        (SPECS, {"revision": "7"}), (SPECS, {"document": []}), (SPECS, {"key_hashes": 3}), (SPECS, {"key_hashes": [3]}),
        (SPECS, {"deployments": {"blue": 3}}), (SPECS, {"deleted": 1}), (SPECS, {"revision": True}),
        (SPECS, {"cohorts": {"blue": 3}}), (SPECS, {"cohorts": {"blue": [100]}}), (SPECS, {"cohorts": {"blue": ["3"]}}),
        (REPLICAS, {"deployments": []}), (REPLICAS, {"deployments": {"blue": 3}}),
        (REPLICAS, {"deployments": {"blue": {"desired": 1, "revision": 1, "replicas": [3]}}}),
        (REPLICAS, {"deployments": {"blue": {"desired": 1, "revision": 1, "replicas": [{"state": "odd"}]}}}),
        (REPLICAS, {"deployments": {"blue": {"desired": 1, "revision": 1, "phase": ["ready"]}}}),
        (REPLICAS, {"deployments": {"blue": {"revision": 1}}}), (SHADOWS, {"live": 3}), (SHADOWS, {"live": {"status": 1}}),
        (SHADOWS, {"equal": "yes"}), (DECISIONS, {"inputs": 3}), (DECISIONS, {"desired": 1.5}),
        (SNAPSHOTS, {"state": []}), (SNAPSHOTS, {"state": None}), (SNAPSHOTS, {"offset": "7"}), (NOTICES, {"messages": 1.5}),
        (NOTICES, {"writer": None}), (NOTICES, {"records": True}),
    ],
)  # fmt: skip
def test_a_field_of_the_wrong_kind_is_refused(topic: Any, fields: Any) -> None:
    with pytest.raises(codec.Malformed):
        SAMPLES[topic][2](changed(topic, **fields))


@pytest.mark.parametrize("topic", JSON_TOPICS)
@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"schema":1}', b"{}"])
def test_what_is_no_event_is_refused(topic: Any, data: Any) -> None:
    with pytest.raises((codec.Malformed, codec.UnknownSchema)):
        SAMPLES[topic][2](data)


def test_records_that_are_no_whole_number_are_not_packed() -> None:
    with pytest.raises(ValueError, match="no whole record"):
        codec.encode_requests([""], b"x")


def test_frames_come_out_whole_however_the_bytes_arrive() -> None:
    data = b"".join(SAMPLES["tee"][0])
    for step in (1, 2, 7, 13, len(data)):
        decoder = tee.Decoder()
        frames = [frame for at in range(0, len(data), step) for frame in decoder.feed(data[at : at + step])]
        assert tuple(tee.frame(kind, at, payload) for kind, at, payload in frames) == SAMPLES["tee"][0]


@pytest.mark.parametrize(
    "data", [tee.HEADER.pack(tee.MAX_PAYLOAD_BYTES + 1, tee.Kind.BODY, 1), tee.HEADER.pack(0, 99, 1)]
)
def test_a_frame_that_cannot_be_is_a_broken_peer(data: Any) -> None:
    with pytest.raises(tee.BrokenPeer):
        list(tee.Decoder().feed(data))


@pytest.mark.parametrize("payload", [b"", b"\x05\x00[1]", b"\x02\x00{}", b"\x02\x00[]", b"\xff\xff" + b"[" * 65535])
def test_an_opening_that_says_nothing_is_a_broken_peer(payload: Any) -> None:
    with pytest.raises(tee.BrokenPeer):
        tee.parse_open(payload)


def test_an_opening_keeps_the_head_behind_it() -> None:
    ((_, _, payload),) = tee.Decoder().feed(tee.open_frame(9, OPEN, HEAD))
    assert tee.parse_open(payload) == (OPEN, HEAD)


@pytest.mark.parametrize("request_id", ["r-1", "", 'a"b', "a\\b", "ü", ',"request_id":"x","start_ns":7}'])
def test_an_opening_whose_beginning_was_seen_before_is_read_alike(request_id: str) -> None:
    opening = dataclasses.replace(OPEN, live=request_id or "blue", request_id=request_id, start_ns=2**63 - 1)
    for one in (opening, dataclasses.replace(opening, request_id=request_id + "2", start_ns=0)):
        for _ in range(2):
            ((_, _, payload),) = tee.Decoder().feed(tee.open_frame(9, one, HEAD))
            assert tee.parse_open(payload) == (one, HEAD)


def test_a_notice_of_another_kind_is_unknown_not_malformed() -> None:
    _, _, decode = SAMPLES[NOTICES]
    for notice in ("emptied", None, 3):
        with pytest.raises(codec.UnknownSchema):
            decode(changed(NOTICES, notice=notice))


def test_records_and_counts_are_told_apart_and_never_mistaken() -> None:
    records, counts = (SAMPLES[name][1](SAMPLES[name][0]) for name in (REQUESTS, "request_counts"))
    assert (codec.is_counts(records), codec.is_counts(counts), codec.is_counts(b"")) == (False, True, False)
    for decode in (codec.decode_requests, codec.split_requests):
        with pytest.raises(codec.Malformed, match="counts, not records"):
            decode(counts)
    for decode_other in (codec.decode_counts, codec.split_counts):
        with pytest.raises(codec.Malformed, match="records, not counts"):
            decode_other(records)


@pytest.mark.parametrize("decode", [codec.decode_requests, codec.decode_counts])
def test_a_kind_of_requests_that_came_later_is_unknown_not_malformed(decode: Any) -> None:
    data = codec.encode_counts(COUNTS)
    with pytest.raises(codec.UnknownSchema):
        decode(data[:1] + b"\x03" + data[2:])


def test_a_count_without_a_name_is_refused() -> None:
    data = bytearray(codec.encode_counts(COUNTS))
    data[-4:-2] = (7).to_bytes(2, "little")
    with pytest.raises(codec.Malformed):
        codec.decode_counts(bytes(data))


def test_counts_keep_the_empty_name_first_and_any_order_of_rows() -> None:
    for rows in (COUNTS, COUNTS[::-1], [], COUNTS[1:]):
        data = codec.encode_counts(rows)
        assert codec.decode_counts(data) == rows
        assert codec.split_counts(data)[0][0] == ""


def test_a_snapshot_whose_state_is_no_json_is_refused_where_it_is_written() -> None:
    with pytest.raises(TypeError):
        codec.encode_snapshot(EndpointSnapshot("shop", 1, 1, 0, 0, {"when": object()}))
    assert SNAPSHOT.state
    assert codec.decode_snapshot(codec.encode_snapshot(EndpointSnapshot("shop", 1, 1, 0, 0))).state == {}

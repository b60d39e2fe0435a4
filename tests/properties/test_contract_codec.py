"""Every event comes back from its bytes; any other bytes raise UnknownSchema, Malformed or BrokenPeer and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.contract import codec, events, tee
from tests.support.contract_samples import FRAMES, SAMPLES, pack_requests
from tests.support.contract_strategies import RELAXED, TREES

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
COUNT = st.integers(0, 2**32 - 1)
BIG = st.integers(0, 2**63 - 1)
U64 = st.integers(0, 2**64 - 1)
SECONDS = st.floats(0, 1e6)
JSON = st.dictionaries(
    TEXT,
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | TEXT,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
        max_leaves=4,
    ),
    max_size=3,
)
HISTOGRAM = st.just(()) | st.lists(COUNT, min_size=events.BUCKETS, max_size=events.BUCKETS).map(tuple)
SIDE = st.none() | st.builds(events.Side, st.integers(0, 599), SECONDS, SECONDS, BIG, TEXT)
REPLICA = st.builds(
    events.Replica, TEXT, TEXT, st.integers(0, 65535), st.sampled_from(events.ReplicaState), TEXT, TEXT, COUNT, BIG
)
REPLICA_SET = st.builds(
    events.DeploymentReplicas, COUNT, COUNT, st.sampled_from(events.Phase), TEXT, TEXT, TEXT, st.floats(0, 1), TEXT,
    st.lists(REPLICA, max_size=3).map(tuple),
)  # fmt: skip
DEMAND_ROW = st.builds(
    events.DemandRow, TEXT, st.booleans(), COUNT, COUNT, COUNT, COUNT, COUNT, COUNT, SECONDS, SECONDS, BIG, HISTOGRAM,
    HISTOGRAM,
)  # fmt: skip
EVENTS = {
    events.SPECS: st.builds(
        events.EndpointRevision, TEXT, BIG, BIG, JSON, st.dictionaries(TEXT, JSON, max_size=2),
        st.lists(TEXT, max_size=2).map(tuple), st.booleans(), st.dictionaries(TEXT, COUNT, max_size=2),
        st.dictionaries(TEXT, st.lists(st.integers(0, 99), max_size=3).map(tuple), max_size=2),
    ),
    events.REPLICAS: st.builds(
        events.EndpointReplicas, TEXT, BIG, BIG, BIG, st.dictionaries(TEXT, REPLICA_SET, max_size=2)
    ),
    events.DEMAND: st.builds(
        events.DemandReport, TEXT, BIG, BIG, BIG, BIG, st.booleans(), st.lists(DEMAND_ROW, max_size=3).map(tuple),
        st.lists(st.tuples(TEXT, COUNT), max_size=3).map(tuple),
    ),
    events.SHADOWS: st.builds(
        events.ShadowComparison, TEXT, TEXT, BIG, TEXT, TEXT, BIG, SIDE, SIDE, st.none() | st.booleans(), TEXT, TEXT, COUNT
    ),
    events.DECISIONS: st.builds(
        events.Decision, TEXT, TEXT, BIG, COUNT, COUNT, TEXT, BIG, st.dictionaries(TEXT, SECONDS, max_size=3)
    ),
    events.SNAPSHOTS: st.builds(events.EndpointSnapshot, TEXT, BIG, BIG, COUNT, BIG, JSON),
    events.NOTICES: st.builds(events.Folded, TEXT, BIG, TEXT, TEXT, COUNT, COUNT, BIG, BIG, BIG, BIG),
    "request_counts": st.lists(
        st.builds(events.RequestCounts, TEXT, st.integers(-(2**63), 2**63 - 1), U64, U64, U64, U64, U64, U64), max_size=4
    ),
}  # fmt: skip
RECORD = st.builds(
    events.RequestRecord, BIG, BIG, TEXT, st.integers(0, 599), st.integers(0, 599), st.sampled_from(events.Outcome),
    st.integers(0, 63).map(events.Flag), BIG, BIG, COUNT, COUNT, COUNT, TEXT,
)  # fmt: skip
TOPICS = sorted({*events.TOPICS, "request_counts"})


@pytest.mark.parametrize("topic", sorted(EVENTS))
@RELAXED
@given(data=st.data())
def test_an_event_comes_back_from_its_bytes(topic: str, data: st.DataObject) -> None:
    event = data.draw(EVENTS[topic])
    _, encode, decode = SAMPLES[topic]
    assert decode(encode(event)) == event


ODD = st.floats(allow_nan=True, allow_infinity=True)


@RELAXED
@given(
    event=EVENTS[events.SHADOWS],
    side=st.builds(events.Side, st.integers(0, 599), ODD, ODD, BIG, st.text()),
    words=st.text(),
)
def test_a_shadow_put_together_by_hand_has_the_bytes_of_any_event(
    event: events.ShadowComparison, side: events.Side, words: str
) -> None:
    event = dataclasses.replace(event, shadow=side, difference=words)
    body = {**dataclasses.asdict(event), "schema": codec.SCHEMA}
    assert codec.encode_shadow(event) == json.dumps(body, separators=(",", ":"), sort_keys=True).encode()


@RELAXED
@given(st.lists(RECORD, max_size=4))
def test_request_records_come_back_from_their_bytes(records: list[events.RequestRecord]) -> None:
    names = ["", *{name for one in records for name in (one.deployment, one.replica)} - {""}]
    assert codec.decode_requests(pack_requests(records, names)) == records


@pytest.mark.parametrize("topic", TOPICS)
@RELAXED
@given(junk=st.binary(max_size=200), schema=st.booleans())
def test_random_bytes_make_no_other_error(topic: str, junk: bytes, schema: bool) -> None:
    readable(topic, bytes([codec.SCHEMA]) + junk if schema else junk)


@pytest.mark.parametrize("topic", TOPICS)
@RELAXED
@given(data=st.data())
def test_damaged_messages_make_no_other_error(topic: str, data: st.DataObject) -> None:
    event, encode, _ = SAMPLES[topic]
    message = bytearray(encode(event))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    readable(topic, bytes(message))


@pytest.mark.parametrize("topic", sorted(EVENTS.keys() - {events.DEMAND, "request_counts"}))
@RELAXED
@given(data=st.data())
def test_json_of_another_shape_makes_no_other_error(topic: str, data: st.DataObject) -> None:
    event, encode, _ = SAMPLES[topic]
    body = json.loads(encode(event))
    node = body
    while True:
        key = data.draw(st.sampled_from(sorted(node)))
        if not isinstance(node[key], dict) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(TREES)
    readable(topic, json.dumps(body).encode())


@RELAXED
@given(st.lists(st.integers(1, 40)), st.lists(st.sampled_from(FRAMES)))
def test_frames_come_out_whole_however_they_are_cut(cuts: list[int], frames: list[bytes]) -> None:
    stream, decoder, found = b"".join(frames), tee.Decoder(), []
    for cut in [*cuts, len(stream) + 1]:
        found += list(decoder.feed(stream[:cut]))
        stream = stream[cut:]
    assert [tee.frame(*one) for one in found] == frames


@RELAXED
@given(st.binary(max_size=200))
def test_random_frames_make_no_other_error_than_a_broken_peer(junk: bytes) -> None:
    with contextlib.suppress(tee.BrokenPeer):
        for kind, _, payload in tee.Decoder().feed(junk):
            if kind is tee.Kind.OPEN:
                tee.parse_open(payload)


@RELAXED
@given(st.builds(tee.Open, TEXT, TEXT, st.lists(TEXT, max_size=3).map(tuple), TEXT, BIG), st.binary(max_size=50))
def test_an_opening_comes_back_from_its_frame(opening: tee.Open, head: bytes) -> None:
    ((_, exchange, payload),) = tee.Decoder().feed(tee.open_frame(2**64 - 1, opening, head))
    assert exchange == 2**64 - 1
    assert tee.parse_open(payload) == (opening, head)


@RELAXED
@given(st.binary(max_size=80), TREES)
def test_random_openings_make_no_other_error(junk: bytes, tree: Any) -> None:
    about = json.dumps(tree).encode()
    for payload in (junk, len(about).to_bytes(2, "little") + about):
        with contextlib.suppress(tee.BrokenPeer):
            tee.parse_open(payload)


def readable(topic: str, message: bytes) -> None:
    """The message is an event that can be written again, or one of the two errors of a message."""
    _, encode, decode = SAMPLES[topic]
    try:
        event = decode(message)
    except (codec.Malformed, codec.UnknownSchema):
        return
    if topic == "request_counts":
        assert codec.decode_counts(encode(event)) == event
    elif topic != events.REQUESTS:
        assert dataclasses.is_dataclass(event)
        assert encode(event)

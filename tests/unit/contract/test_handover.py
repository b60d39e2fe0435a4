"""The bodies between gateways and the autoscaler: byte for byte as written down, whole or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.contract.codec import Malformed, UnknownSchema
from router.contract.handover import (
    Handed,
    decode_handed,
    decode_told,
    encode_handed,
    encode_told,
    handed_bytes,
)

FOLDER = Path(__file__).parents[2] / "golden" / "handover"
NOW = 1_760_000_000_000_000_000
HANDED = [
    Handed("0123456789abcdef" * 2, 0, NOW, "my-endpoint", b"\x01\x00demand"),
    Handed("fedcba9876543210" * 2, 2**62, NOW + 1, "e", b""),
]
TOLD = [("my-endpoint", b'{"schema":1}'), ("e", b"")]
SEQUENCES = st.integers(0, 2**63 - 1)
NAMES = st.text(max_size=60)


def golden(name: str) -> bytes:
    return bytes.fromhex((FOLDER / f"{name}.hex").read_text())


def test_requests_and_answers_are_written_as_ever() -> None:
    assert encode_handed(HANDED) == golden("handed.v1")
    assert encode_told(TOLD) == golden("told.v1")


def test_what_was_once_written_is_still_read() -> None:
    assert decode_handed(golden("handed.v1")) == HANDED
    assert decode_told(golden("told.v1")) == TOLD


@given(st.lists(st.builds(Handed, NAMES, SEQUENCES, st.integers(0, 2**63 - 1), NAMES, st.binary())))
def test_every_message_comes_out_as_it_went_in(messages: list[Handed]) -> None:
    assert decode_handed(encode_handed(messages)) == messages


@given(st.lists(st.tuples(NAMES, st.binary())))
def test_every_answer_comes_out_as_it_went_in(messages: list[tuple[str, bytes]]) -> None:
    assert decode_told(encode_told(messages)) == messages


@given(st.binary(max_size=80), st.booleans())
def test_any_bytes_are_read_or_refused(body: bytes, versioned: bool) -> None:
    whole = b"\x01" + body if versioned else body
    for decode in (decode_handed, decode_told):
        try:
            decode(whole)
        except (Malformed, UnknownSchema):
            continue


@given(st.data())
def test_a_body_that_was_cut_is_refused_unless_between_two_messages(data: st.DataObject) -> None:
    for body, decode in ((encode_handed(HANDED), decode_handed), (encode_told(TOLD), decode_told)):
        cut = data.draw(st.integers(0, len(body) - 1))
        ends = (1, 1 + handed_bytes(HANDED[0])) if decode is decode_handed else (1, 1 + 4 + 2 + 11 + 12)
        if cut in ends:
            assert len(decode(body[:cut])) == ends.index(cut)
        else:
            with pytest.raises(Malformed):
                decode(body[:cut])


def test_a_later_version_is_unknown_and_not_malformed() -> None:
    for decode in (decode_handed, decode_told):
        with pytest.raises(UnknownSchema):
            decode(b"\x02anything")


@pytest.mark.parametrize("one", [HANDED[0]._replace(sequence=2**63), HANDED[0]._replace(writer="w" * 256)])
def test_an_id_that_no_log_gives_is_not_sent(one: Handed) -> None:
    with pytest.raises(ValueError, match="cannot be handed"):
        encode_handed([one])


def test_no_sequence_is_none() -> None:
    with pytest.raises(Malformed):
        decode_handed(encode_handed([HANDED[0]._replace(sequence=-1)]))


def test_the_size_of_a_body_is_known_before_it_is_made() -> None:
    assert len(encode_handed(HANDED)) == 1 + sum(map(handed_bytes, HANDED))


def test_an_answer_holds_what_fits_and_leaves_out_what_does_not() -> None:
    messages = [("a", b"1" * 10), ("b", b"2" * 1000), ("c", b"3" * 10)]
    body = encode_told(messages, 100)
    assert len(body) <= 100
    assert decode_told(body) == [messages[0], messages[2]]

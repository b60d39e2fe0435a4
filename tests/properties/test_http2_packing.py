"""Fields that we pack are what a decoder unpacks, and frames that we cut are what another library reads."""

from __future__ import annotations

import hpack
from hpack.table import HeaderTable
from hyperframe.frame import Frame
from hypothesis import given
from hypothesis import strategies as st

from router.runtime.http2 import frames, packing
from router.runtime.http2.session import Session

NAMES = st.one_of(
    st.sampled_from([name for name, _ in HeaderTable.STATIC_TABLE if not name.startswith(b":")]),
    st.from_regex(rb"[a-z0-9-]{1,300}", fullmatch=True),
)
VALUES = st.one_of(st.binary(max_size=400), st.integers(0, 40000).map(lambda size: b"v" * size))


def unpack(block: bytes) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in hpack.Decoder(1 << 22).decode(block, raw=True)]


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_fields(fields: list[tuple[bytes, bytes]]) -> None:
    assert unpack(packing.block(fields)) == fields


@given(st.integers(100, 599))
def test_a_status(code: int) -> None:
    assert unpack(packing.status(code)) == [(b":status", b"%d" % code)]


@given(NAMES, st.from_regex(rb"([!-~]([ -~]*[!-~])?)?", fullmatch=True))
def test_a_line_of_a_head(name: bytes, value: bytes) -> None:
    assert unpack(packing.line(name.title() + b": " + value)) == [(name, value)]
    assert unpack(packing.line(name.title() + b": " + value)) == [(name, value)]


@given(st.integers(0, 60000), st.integers(1, 2**31 - 1), st.booleans())
def test_a_block_in_as_many_frames_as_it_needs(size: int, stream: int, ended: bool) -> None:
    block = b"b" * size
    raw = b"".join(frames.header_block(stream, block, frames.END_STREAM if ended else 0))
    found, flags = b"", []
    while raw:
        frame, length = Frame.parse_frame_header(memoryview(raw[:9]))
        frame.parse_body(memoryview(raw[9 : 9 + length]))
        assert (frame.stream_id, length <= 16384) == (stream, True)
        found += frame.data  # type: ignore[attr-defined] # both kinds have it
        flags.append(set(frame.flags))
        raw = raw[9 + length :]
    assert found == block
    assert [("END_HEADERS" in one) for one in flags] == [False] * (len(flags) - 1) + [True]
    assert ("END_STREAM" in flags[0]) is ended


class Listening(Session):
    """Remembers what it heard."""

    def __init__(self) -> None:
        super().__init__(65536)
        self.settled = True
        self.heard: list[list[tuple[bytes, bytes]]] = []

    def begun(self, stream: int, fields: list[tuple[bytes, bytes]], *, ended: bool) -> None:
        self.heard.append([(bytes(name), bytes(value)) for name, value in fields])


SECTIONS = st.lists(
    st.lists(
        st.tuples(st.sampled_from([b"x-a", b"x-b", b":path"]), st.sampled_from([b"1", b"2", b"long" * 300])), max_size=4
    ),
    max_size=30,
)


@given(SECTIONS, st.sampled_from([0, 100, 1400, 4096]))
def test_what_comes_again_means_what_the_table_says_now(sections: list[list[tuple[bytes, bytes]]], table: int) -> None:
    listening, encoder = Listening(), hpack.Encoder()
    encoder.header_table_size = table
    for section in sections:
        block = encoder.encode(section, huffman=False)
        listening.data_received(b"".join(frames.header_block(1, block, frames.END_STREAM)))
    assert listening.heard == sections

"""Header blocks come in as many frames as their sender likes, and mean the same; windows are kept for all streams together."""

from __future__ import annotations

import hpack
import pytest

from router.runtime.http2.blocks import Blocks
from router.runtime.http2.flow import CONNECTION_WINDOW, Flow
from router.runtime.http2.frames import FIRST_WINDOW, MAX_WINDOW, Broken, Code

FIELDS = [(b":path", b"/score"), (b"x-kind", b"a")]


def packed() -> bytes:
    return hpack.Encoder().encode(FIELDS)


def test_a_block_in_pieces_says_what_it_says_as_a_whole() -> None:
    blocks, block = Blocks(1000), packed()
    blocks.begin(3, block[:2], ended=True)
    assert blocks.open
    blocks.more(3, block[2:5])
    blocks.more(3, block[5:])
    assert (blocks.end(), blocks.open, blocks.ended) == (block, False, True)
    assert blocks.fields(block) == FIELDS


def test_only_what_has_begun_goes_on() -> None:
    blocks = Blocks(1000)
    with pytest.raises(Broken, match="CONTINUATION of nothing"):
        blocks.more(1, b"")
    blocks.begin(3, b"", ended=False)
    with pytest.raises(Broken, match="CONTINUATION of nothing") as broken:
        blocks.more(5, b"")
    assert broken.value.code is Code.PROTOCOL_ERROR


def test_a_block_without_an_end_is_cut_off() -> None:
    blocks = Blocks(10)
    blocks.begin(1, b"12345", ended=False)
    blocks.more(1, b"67890")
    with pytest.raises(Broken, match="without an end") as broken:
        blocks.more(1, b"1")
    assert broken.value.code is Code.ENHANCE_YOUR_CALM


def test_the_same_block_is_the_same_list_while_the_table_stands_still() -> None:
    blocks, encoder = Blocks(1000), hpack.Encoder()
    first = encoder.encode(FIELDS)
    blocks.fields(first)
    again = encoder.encode(FIELDS)
    found = blocks.fields(again)
    assert found == FIELDS
    assert blocks.fields(again) is found
    blocks.fields(encoder.encode([(b"x-kind", b"b")]))
    assert blocks.fields(encoder.encode(FIELDS)) == FIELDS


def test_room_is_given_back_in_portions_of_half_a_window() -> None:
    flow, half = Flow(), CONNECTION_WINDOW // 2
    assert flow.took(half - 1) == 0
    assert flow.took(1) == half
    assert flow.took(half) == half


def test_more_than_the_window_ends_the_connection() -> None:
    with pytest.raises(Broken) as broken:
        Flow().took(CONNECTION_WINDOW + 1)
    assert broken.value.code is Code.FLOW_CONTROL_ERROR


def test_a_window_never_grows_beyond_what_the_protocol_can_say() -> None:
    flow = Flow()
    flow.widen(MAX_WINDOW - FIRST_WINDOW)
    assert flow.window == MAX_WINDOW
    with pytest.raises(Broken, match="a window above"):
        flow.widen(1)
    with pytest.raises(Broken, match="WINDOW_UPDATE of nothing"):
        flow.widen(0)
    with pytest.raises(Broken, match="a window above"):
        flow.restart(MAX_WINDOW + 1, [])

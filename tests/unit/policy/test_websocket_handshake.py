"""The handshake of WebSocket: what a request offers, what an answer may agree to."""

from __future__ import annotations

import pytest

from router.policy.headers import BadHead, RequestHead, ResponseHead
from router.policy.upgrading import Agreement, Offer, OtherVersion, agreed, offered

KEY, ACCEPT = b"dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""Of RFC 6455, 1.3."""
BASE = {b"Host": b"a", b"Sec-WebSocket-Key": KEY, b"Sec-WebSocket-Version": b"13"}


def request(*more: tuple[bytes, bytes]) -> RequestHead:
    head = RequestHead()
    for name, value in [*BASE.items(), *more]:
        head.on_header(name, value)
    return head


def answer(*fields: tuple[bytes, bytes]) -> ResponseHead:
    head = ResponseHead()
    for name, value in fields:
        head.on_header(name, value)
    return head


GOOD = ((b"Upgrade", b"WebSocket"), (b"Connection", b"keep-alive, Upgrade"), (b"Sec-WebSocket-Accept", ACCEPT))


def test_an_offer_is_read_from_lists_in_several_fields() -> None:
    head = request(
        (b"Sec-WebSocket-Protocol", b"chat, b"),
        (b"sec-websocket-protocol", b"c"),
        (b"Sec-WebSocket-Extensions", b"permessage-deflate; client_max_window_bits, X-Webkit; y=1"),
    )
    before = list(head.lines)
    offer = offered(head, b"GET", "1.1")
    assert (offer.accept, offer.protocols, offer.key) == (ACCEPT, (b"chat", b"b", b"c"), None)
    assert offer.extensions == {b"permessage-deflate", b"x-webkit"}
    assert head.lines == before


@pytest.mark.parametrize(
    ("protocols", "key", "left"),
    [
        ([b"chat, tidegate.bearer.cw"], b"s", b"chat"),
        ([b"tidegate.bearer.cw==", b"a,b"], b"s", b"a, b"),
        ([b"a", b"tidegate.bearer.-_8", b"b"], b"\xfb\xff", b"a, b"),
    ],
)
def test_a_key_among_the_subprotocols_is_taken_out(protocols: list[bytes], key: bytes, left: bytes) -> None:
    head = request(*((b"Sec-WebSocket-Protocol", one) for one in protocols), (b"X-Kept", b"1"))
    offer = offered(head, b"GET", "1.1")
    assert offer.key == key
    assert b", ".join(offer.protocols) == left
    lines = b"".join(head.lines)
    assert lines.lower().count(b"sec-websocket-protocol: ") == 1
    assert b"sec-websocket-protocol: " + left + b"\r\n" in lines
    assert b"bearer" not in lines
    assert b"X-Kept: 1\r\n" in lines


@pytest.mark.parametrize(
    "protocols",
    [
        b"tidegate.bearer.cw",
        b"a, tidegate.bearer.cw, tidegate.bearer.cw",
        b"a, tidegate.bearer.c",
        b"a, tidegate.bearer.*",
    ],
)
def test_a_key_that_stands_alone_or_twice_or_is_none_is_refused(protocols: bytes) -> None:
    with pytest.raises(BadHead):
        offered(request((b"Sec-WebSocket-Protocol", protocols)), b"GET", "1.1")


@pytest.mark.parametrize("version", ["8", "13, 8", "", "013"])
def test_another_version_has_its_own_refusal(version: str) -> None:
    head = RequestHead()
    for name, value in {**BASE, b"Sec-WebSocket-Version": version.encode()}.items():
        head.on_header(name, value)
    with pytest.raises(OtherVersion):
        offered(head, b"GET", "1.1")


@pytest.mark.parametrize(
    ("extensions", "agreement"),
    [
        ([], (0, 0)),
        ([b"permessage-deflate; server_no_context_takeover"], (0x40, 0)),
        ([b"Permessage-Deflate"], (0x40, 0)),
        ([b"x-own"], (0x70, 0x70)),
        ([b"permessage-deflate, x-own"], (0x70, 0x70)),
    ],
)
def test_extensions_say_which_reserved_bits_pass(extensions: list[bytes], agreement: Agreement) -> None:
    offer = Offer(ACCEPT, (), frozenset({b"permessage-deflate", b"x-own"}), None)
    assert agreed(answer(*GOOD, *((b"Sec-WebSocket-Extensions", one) for one in extensions)), offer) == agreement


@pytest.mark.parametrize(
    "fields",
    [
        GOOD[1:],
        (GOOD[0], GOOD[2]),
        GOOD[:2],
        (*GOOD, GOOD[2]),
        (*GOOD, (b"Upgrade", b"h2c")),
        (*GOOD[:2], (b"Sec-WebSocket-Accept", KEY)),
        (*GOOD, (b"Sec-WebSocket-Protocol", b"b")),
        (*GOOD, (b"Sec-WebSocket-Protocol", b"a"), (b"Sec-WebSocket-Protocol", b"a")),
        (*GOOD, (b"Sec_WebSocket_Accept", ACCEPT)),
    ],
)
def test_what_was_not_offered_cannot_be_agreed_to(fields: tuple[tuple[bytes, bytes], ...]) -> None:
    offer = Offer(ACCEPT, (b"a",), frozenset(), None)
    assert agreed(answer(*GOOD, (b"Sec-WebSocket-Protocol", b"a")), offer) == (0, 0)
    with pytest.raises(BadHead):
        agreed(answer(*fields), offer)

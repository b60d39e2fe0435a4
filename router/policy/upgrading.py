"""The handshake of WebSocket (RFC 6455, 4): what a request must say to begin one, and whether an answer agrees to it.

A browser cannot set Authorization on a WebSocket. It can offer the endpoint's key as a subprotocol,
`tidegate.bearer.<key in base64url>`, beside at least one that it means: the key ends here, the others pass on. In an
address it would stand in every log on the way, so it is not looked for there.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import TYPE_CHECKING

from router.policy.headers import BadHead

if TYPE_CHECKING:
    from router.policy.headers import RequestHead, ResponseHead

WEBSOCKET = b"websocket"
VERSION = b"13"
KEY_PROTOCOL = b"tidegate.bearer."
"""In front of an endpoint's key in base64url (RFC 4648, 5), without padding."""
FIELDS = b"connection: Upgrade\r\nupgrade: websocket\r\n"
"""What passes on in either direction; every other field of a hop ends here."""
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_ALL_BITS, _FIRST_BIT = 0x70, 0x40


class OtherVersion(BadHead):
    """A version of the protocol that is not spoken."""


class Offer:
    """What one caller's handshake asks for."""

    __slots__ = ("accept", "extensions", "key", "protocols")

    def __init__(
        self, accept: bytes, protocols: tuple[bytes, ...], extensions: frozenset[bytes], key: bytes | None
    ) -> None:
        self.accept = accept
        """The only right `Sec-WebSocket-Accept`."""
        self.protocols = protocols
        self.extensions = extensions
        """Their names."""
        self.key = key
        """The endpoint's key, where it came as a subprotocol."""


Agreement = tuple[int, int]
"""What an answer has agreed to: reserved bits that extensions use in the first frame of a message, and in the others."""


def offered(head: RequestHead, method: bytes, version: str) -> Offer:
    """The offer that `head` makes; takes the key out of its lines. Raises `OtherVersion`, `BadHead`."""
    if method != b"GET" or version != "1.1":
        raise BadHead("a WebSocket begins with GET in HTTP/1.1")
    if head.chunked or head.content_length:
        raise BadHead("a request that begins a WebSocket has no body")
    fields = _fields(head.lines)
    versions = fields.get(b"version", [])
    if versions != [VERSION]:
        raise OtherVersion("the only Sec-WebSocket-Version that is spoken is 13")
    keys = fields.get(b"key", [])
    if len(keys) != 1 or _KEY.fullmatch(keys[0]) is None:
        raise BadHead("exactly one Sec-WebSocket-Key is needed, 16 bytes in base64")
    protocols = _listed(fields.get(b"protocol", []))
    secrets = [one for one in protocols if one.startswith(KEY_PROTOCOL)]
    key = None
    if secrets:
        protocols = [one for one in protocols if not one.startswith(KEY_PROTOCOL)]
        key = _key(secrets, protocols)
        _replace_protocols(head, protocols)
    extensions = frozenset(_name(one) for one in _listed(fields.get(b"extensions", [])))
    accept = base64.b64encode(hashlib.sha1(keys[0] + _GUID, usedforsecurity=False).digest())
    return Offer(accept, tuple(protocols), extensions, key)


def _key(secrets: list[bytes], others: list[bytes]) -> bytes:
    if len(secrets) > 1 or not others:
        raise BadHead("a key as subprotocol stands once, beside at least one subprotocol that is meant")
    digits = secrets[0].removeprefix(KEY_PROTOCOL)
    try:
        return base64.b64decode(digits + b"=" * (-len(digits) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise BadHead("the key in the subprotocol is not base64url") from error


def _replace_protocols(head: RequestHead, protocols: list[bytes]) -> None:
    kept: list[bytes] = []
    for at in range(0, len(head.lines), 4):
        if head.lines[at].lower() != b"sec-websocket-protocol":
            kept += head.lines[at : at + 4]
    head.lines = [*kept, b"sec-websocket-protocol", b": ", b", ".join(protocols), b"\r\n"]


def agreed(head: ResponseHead, offer: Offer) -> Agreement:
    """What the 101 in `head` agrees to. Raises `BadHead` where it does not answer `offer`."""
    if head.upgrade != {WEBSOCKET} or head.connection is None or b"upgrade" not in head.connection:
        raise BadHead("a 101 that does not upgrade to WebSocket")
    fields = _fields(head.lines)
    if fields.get(b"accept") != [offer.accept]:
        raise BadHead("a 101 without the right Sec-WebSocket-Accept")
    protocols = fields.get(b"protocol", [])
    if len(protocols) > 1 or not set(protocols) <= set(offer.protocols):
        raise BadHead("a 101 with a subprotocol that was not offered")
    extensions = {_name(one) for one in _listed(fields.get(b"extensions", []))}
    if not extensions <= offer.extensions:
        raise BadHead("a 101 with an extension that was not offered")
    if extensions <= {b"permessage-deflate"}:  # RFC 7692: one bit, in the first frame of a message
        return (_FIRST_BIT if extensions else 0), 0
    return _ALL_BITS, _ALL_BITS


def _fields(lines: list[bytes]) -> dict[bytes, list[bytes]]:
    """Name behind `Sec-WebSocket-`, in lower case → the values of such fields."""
    found: dict[bytes, list[bytes]] = {}
    for at in range(0, len(lines), 4):
        name = lines[at].lower().replace(b"_", b"-")
        if name.startswith(b"sec-websocket-"):
            found.setdefault(name[14:], []).append(lines[at + 2])
    return found


def _listed(values: list[bytes]) -> list[bytes]:
    """The members of a list in one or several fields. Parameters with quoted commas do not occur in what is registered."""
    return [one for value in values for one in (part.strip(b" \t") for part in value.split(b",")) if one]


def _name(extension: bytes) -> bytes:
    return extension.partition(b";")[0].strip(b" \t").lower()

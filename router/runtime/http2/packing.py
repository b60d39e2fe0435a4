"""Header blocks without memory: every field as a literal that no table keeps (RFC 7541, 6.2.2).

An encoder with a dynamic table costs several times as much CPU here as it saves bytes, and what it remembers belongs to one
connection. Without one, a line is the same bytes for everybody, so those that come again are looked up.
"""

from __future__ import annotations

from hpack.table import HeaderTable

from router.runtime.http2.frames import Field

_STATUS = {
    int(value): bytes([0x80 | 8 + at])
    for at, value in enumerate((b"200", b"204", b"206", b"304", b"400", b"404", b"500"))
}
"""Those that the static table has whole."""
_NAMES = {name: at for at, (name, value) in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1))) if not value}
_MOST = 2048
_LONGEST = 256
_known: dict[bytes, bytes] = {}
_ONCE = (b"x-request-id:", b"date:", b"content-length:")
"""Lines that do not come again, or not often enough."""


def _length(size: int, bits: int, first: int) -> bytes:
    """An integer with a prefix of `bits` bits, beside `first` (RFC 7541, 5.1)."""
    most = (1 << bits) - 1
    if size < most:
        return bytes((first | size,))
    found = bytearray((first | most,))
    size -= most
    while size > 127:
        found.append(size & 127 | 128)
        size >>= 7
    found.append(size)
    return bytes(found)


def field(name: bytes, value: bytes) -> bytes:
    """One field."""
    known = _NAMES.get(name)
    first = _length(known, 4, 0) if known is not None else b"\0" + _length(len(name), 7, 0) + name
    return b"".join((first, _length(len(value), 7, 0), value))


def status(code: int) -> bytes:
    """`:status`."""
    return _STATUS.get(code) or field(b":status", b"%d" % code)


def line(text: bytes) -> bytes:
    """A line of an HTTP/1.1 head, without its line end, as a field."""
    found = _known.get(text)
    if found is None:
        name, _, value = text.partition(b":")
        name = name.lower()
        found = field(name, value.strip(b" \t"))
        if len(text) <= _LONGEST and not text.startswith(_ONCE):
            if len(_known) >= _MOST:
                _known.clear()
            _known[text] = found
    return found


_TRAILERS = field(b"te", b"trailers")
"""We take what stands behind a body; gRPC's servers insist on it."""


def request(head: bytes) -> tuple[bytes, int]:
    """(block, length of the body) of a request's head in HTTP/1.1, written by us; -1: a body of any length follows."""
    lines = head[:-4].split(b"\r\n")
    method, target, _ = lines[0].split(b" ")
    host, length = b"", 0
    fields: list[bytes] = []
    for text in lines[1:]:
        start = text[:20].lower()
        if start.startswith(b"host: "):
            host = text[6:]
        elif start.startswith(b"transfer-encoding: "):
            length = -1
        else:
            fields.append(line(text))
            if start.startswith(b"content-length: "):
                length = int(text[16:])
    pseudo = (
        field(b":method", method), field(b":scheme", b"http"), field(b":path", target), field(b":authority", host),
    )  # fmt: skip
    return b"".join((*pseudo, *fields, _TRAILERS)), length


def block(fields: list[Field]) -> bytes:
    """Several fields."""
    return b"".join([field(name, value) for name, value in fields])

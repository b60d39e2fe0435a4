"""Heads of messages: what of a live request goes to a candidate, and what of a response head matters for comparing."""

from __future__ import annotations

CREDENTIALS = frozenset(
    {
        b"authorization", b"proxy-authorization", b"cookie", b"api-key", b"x-api-key", b"x-auth-token",
        b"x-amz-security-token", b"x-forwarded-client-cert",
    }
)  # fmt: skip
"""What a caller proves its identity with. Cookies are among them: a session cookie is a credential, and a candidate is
not trusted with one, even where a model would read it."""
_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"expect", b"upgrade",
     b"content-length", b"transfer-encoding"}
)  # fmt: skip
"""Said between two neighbours; the framing is written anew from the body that was received."""
_KEPT_BACK = CREDENTIALS | _HOP
_RESERVED = b"x-tidegate-"
"""Ours alone; what a client wrote there is not passed on."""


MOST, LONGEST = 512, 2048
"""Heads of answers that are remembered, and bytes of one: models repeat theirs byte for byte."""
_contents: dict[bytes, tuple[str, str, str]] = {}


class BadHead(ValueError):
    """A head that cannot be passed on; the message is the word under which the shadow is dropped."""


class ShadowHead:
    """A live request's head, cleaned: request line and headers, without the closing empty line."""

    __slots__ = ("chunked", "length", "lines", "method")

    def __init__(self, method: str, lines: bytes, *, chunked: bool, length: int | None) -> None:
        """`chunked`: the live body came so, so the shadow's does too. `length`: the declared one."""
        self.method = method
        self.lines = lines
        self.chunked = chunked
        self.length = length

    def for_candidate(self, marker: str, body_bytes: int) -> bytes:
        """The whole head of one shadow request."""
        if self.chunked:
            framing = "transfer-encoding: chunked\r\n"
        elif body_bytes or self.length is not None:
            framing = f"content-length: {body_bytes}\r\n"
        else:
            framing = ""
        return self.lines + f"{framing}x-tidegate-shadow: {marker}\r\n\r\n".encode("latin-1")


def shadow_head(head: bytes) -> ShadowHead:
    """Clean a live request head; raises `BadHead`."""
    first, _, rest = head.partition(b"\r\n")
    method, _, target = first.partition(b" ")
    if not method or not target:
        raise BadHead("malformed")
    kept = [first]
    chunked = False
    length: int | None = None
    for name, value, line in _fields(rest):
        if name == b"upgrade":
            raise BadHead("upgrade")
        if name == b"transfer-encoding":
            chunked = True
        elif name == b"content-length":
            if not value.isdigit():
                raise BadHead("malformed")
            length = int(value)
        if name not in _KEPT_BACK and not name.startswith(_RESERVED):
            kept.append(line)
    kept.append(b"")
    return ShadowHead(method.decode("latin-1"), b"\r\n".join(kept), chunked=chunked, length=length)


def _fields(lines: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """(lower-case name, value, whole line) of each header; a folded line could hide a credential, so it is refused."""
    fields: list[tuple[bytes, bytes, bytes]] = []
    clean = lines.count(b"\r") == lines.count(b"\n") == lines.count(b"\r\n")
    for line in lines.split(b"\r\n"):
        if not line:
            break
        name, colon, value = line.partition(b":")
        if not colon or not name or name.strip() != name or not (clean or (b"\n" not in line and b"\r" not in line)):
            raise BadHead("malformed")
        fields.append((name.lower(), value.strip(), line))
    return fields


def content_of(head: bytes) -> tuple[str, str, str]:
    """(content type without parameters, content encoding, grpc-status) of a response head, the first two in lower case; raises `BadHead`."""
    known = _contents.get(head)
    if known is not None:
        return known
    content_type = encoding = b""
    status: bytes | None = None
    for name, value, _ in _fields(head.partition(b"\r\n")[2]):
        if name == b"content-type":
            content_type = value
        elif name == b"content-encoding":
            encoding = value
        elif name == b"grpc-status" and status is None:
            status = value
    found = plain_type(content_type), encoding.lower().decode("latin-1"), (status or b"").decode("latin-1")
    if len(head) <= LONGEST:
        if len(_contents) >= MOST:
            _contents.clear()
        _contents[head] = found
    return found


def grpc_status_of(lines: bytes) -> str:
    """What the lines of a head without its first, or of trailers, say about the end of a gRPC call; empty: nothing."""
    return next((value.decode("latin-1") for name, value, _ in _fields(lines) if name == b"grpc-status"), "")


def plain_type(value: bytes) -> str:
    """A content type's `type/subtype`, lower case."""
    return value.partition(b";")[0].strip().lower().decode("latin-1")

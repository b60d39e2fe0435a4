"""The fields of HTTP/2 as heads of HTTP/1.1: what has one meaning there, and nothing else (RFC 9113, 8).

A field of HTTP/2 has a length of its own, so that it can hold what ends a line, or a second head, in HTTP/1.1. So every
name, value and pseudo-field is held against what may stand in a head before one is made, and the head is then judged like
any other. What frames a body there (a length, a coding) is made from how the stream's data is framed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from router.policy.grammar import is_host
from router.policy.headers import MOST_DIGITS, BadHead

Field = tuple[bytes, bytes]
FIELD_OVERHEAD_BYTES = 32
"""What a field counts besides its bytes (RFC 9113, 6.5.2)."""
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]++")
_VALUE = re.compile(rb"(?:[!-~\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[!-~\x80-\xff])?)?")
_METHOD = re.compile(rb"[A-Z][A-Z-]*+")
_PATH = re.compile(rb"/[!-\x22$-~]*+")
_STATUS = re.compile(rb"[1-5][0-9][0-9]")
_BETWEEN_NEIGHBOURS = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
"""They cannot be in HTTP/2 (RFC 9113, 8.2.2)."""
_WITH_BODY = frozenset((b"POST", b"PUT", b"PATCH"))
_NOT_AT_THE_END = frozenset(
    (b"authorization", b"content-encoding", b"content-length", b"content-range", b"content-type", b"cookie", b"expect", b"host",
     b"proxy-authorization", b"set-cookie", b"te", b"trailer")
)  # fmt: skip
"""Fields that no trailer section may have (RFC 9110, 6.5.1), besides those between neighbours."""
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {
    b"H": 3600_000_000_000, b"M": 60_000_000_000, b"S": 1_000_000_000, b"m": 1_000_000, b"u": 1000, b"n": 1,
}  # fmt: skip
_MOST_UNITS = 99_999_999
_CHUNKED = b"transfer-encoding: chunked\r\n"


def list_bytes(fields: Iterable[Field]) -> int:
    """The size of a field section as SETTINGS_MAX_HEADER_LIST_SIZE counts it."""
    return sum([len(name) + len(value) + FIELD_OVERHEAD_BYTES for name, value in fields])


def _split(fields: list[Field], known: frozenset[bytes]) -> tuple[dict[bytes, bytes], list[Field]]:
    """(pseudo-fields, the rest). Raises `BadHead` for those that are unknown, come twice or come late."""
    pseudo: dict[bytes, bytes] = {}
    at = 0
    for name, value in fields:
        if name[:1] != b":":
            break
        if name not in known or name in pseudo:
            raise BadHead("an unknown pseudo-field, or one twice")
        pseudo[name] = value
        at += 1
    return pseudo, fields[at:]


def _check(name: bytes, value: bytes) -> None:
    if _NAME.fullmatch(name) is None:
        raise BadHead("a field name that is not a token in lower case")
    if _VALUE.fullmatch(value) is None:
        raise BadHead("a field value with a control character, or with blanks around it")
    if name in _BETWEEN_NEIGHBOURS:
        raise BadHead("a field that HTTP/2 does not have")


_REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
_RESPONSE_PSEUDO = frozenset((b":status",))


class Request:
    """A caller's request, as a head of HTTP/1.1 with its closing empty line."""

    __slots__ = ("grpc", "head", "is_head", "length", "timeout_ns")

    def __init__(self, fields: list[Field], *, ended: bool) -> None:
        """`ended`: no data follows. Raises `BadHead`."""
        pseudo, rest = _split(fields, _REQUEST_PSEUDO)
        method = pseudo.get(b":method", b"")
        if _METHOD.fullmatch(method) is None:
            raise BadHead("no :method, or one that is not in upper case")
        self.is_head = method == b"HEAD"
        self.length: int | None = None
        """Announced."""
        self.grpc = False
        self.timeout_ns = 0
        """How long its caller waits for a call of gRPC; 0: it does not say."""
        host: bytes | None = None
        cookies: list[bytes] = []
        lines: list[bytes] = []
        for name, value in rest:
            _check(name, value)
            if name == b"cookie":
                cookies.append(value)
            elif name == b"host":
                if host is not None:
                    raise BadHead("more than one Host field")
                host = value
            elif name == b"content-length":
                self._take_length(value)
            elif name == b"te":
                if value.lower() != b"trailers":
                    raise BadHead("TE other than trailers")
            else:
                if name == b"content-type":
                    self.grpc |= is_grpc(value)
                elif name == b"grpc-timeout":
                    self.timeout_ns = timeout_ns_of(value)
                lines += (name, b": ", value, b"\r\n")
        if cookies:
            lines += (b"cookie: ", b"; ".join(cookies), b"\r\n")
        target = _target(method, pseudo)
        first = [method, b" ", target, b" HTTP/1.1\r\nhost: ", _authority(pseudo.get(b":authority"), host), b"\r\n"]
        self.head = b"".join((*first, *lines, self._framing(method, ended=ended), b"\r\n"))

    def _take_length(self, value: bytes) -> None:
        if self.length is not None:
            raise BadHead("more than one Content-Length field")
        if not value.isdigit() or len(value) > MOST_DIGITS:
            raise BadHead("Content-Length is not a number")
        self.length = int(value)

    def _framing(self, method: bytes, *, ended: bool) -> bytes:
        if self.length is not None:
            if ended and self.length:
                raise BadHead("Content-Length announces a body and none follows")
            return b"content-length: %d\r\n" % self.length
        if not ended:
            return _CHUNKED
        return b"content-length: 0\r\n" if method in _WITH_BODY else b""


def _target(method: bytes, pseudo: dict[bytes, bytes]) -> bytes:
    path, scheme = pseudo.get(b":path"), pseudo.get(b":scheme")
    if method == b"CONNECT" and path is None and scheme is None:
        return pseudo.get(b":authority", b"")  # as HTTP/1.1 writes it; it is refused there
    if scheme not in (b"http", b"https"):
        raise BadHead("no :scheme, or one other than http and https")
    if path is None or _PATH.fullmatch(path) is None:
        raise BadHead("no :path, or one that is not a path")
    return path


def _authority(authority: bytes | None, host: bytes | None) -> bytes:
    if authority is not None and host is not None and authority.lower() != host.lower():
        raise BadHead(":authority and Host name different hosts")
    found = host if authority is None else authority
    if not found or not is_host(found):
        raise BadHead("neither :authority nor Host is a name or an address")
    return found


def timeout_ns_of(value: bytes) -> int:
    """A `grpc-timeout` in nanoseconds. Raises `BadHead`."""
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        raise BadHead("grpc-timeout is no number of at most eight digits with one of H, M, S, m, u, n behind it")
    return max(1, int(found[1]) * _UNITS[found[2]])


def timeout_of(left_ns: int) -> bytes:
    """The same as a value, not longer than that."""
    for unit in (b"u", b"m", b"S"):
        count = left_ns // _UNITS[unit]
        if count <= _MOST_UNITS:
            return b"%d%b" % (max(1, count), unit)
    return b"%dS" % _MOST_UNITS


def is_grpc(content_type: bytes) -> bool:
    """Whether the body is gRPC's: `application/grpc`, also with a format behind it, but not gRPC for browsers."""
    plain = content_type.partition(b";")[0].strip().lower()
    return plain == b"application/grpc" or plain.startswith(b"application/grpc+")


def answer_head(fields: list[Field], *, ended: bool, head_only: bool) -> bytes:
    """A replica's answer as a head of HTTP/1.1. `ended`: no data follows. Raises `BadHead`."""
    pseudo, rest = _split(fields, _RESPONSE_PSEUDO)
    status = pseudo.get(b":status", b"")
    if _STATUS.fullmatch(status) is None or status == b"101":
        raise BadHead("no :status, or none that HTTP/2 has")
    lines = [b"HTTP/1.1 ", status, b" \r\n"]
    length = False
    for name, value in rest:
        _check(name, value)
        length |= name == b"content-length"
        lines += (name, b": ", value, b"\r\n")
    if not length and status[:1] != b"1" and status not in (b"204", b"304") and not head_only:
        lines.append(b"content-length: 0\r\n" if ended else _CHUNKED)
    lines.append(b"\r\n")
    return b"".join(lines)


def trailers(fields: list[Field]) -> list[Field]:
    """The fields behind a body. Raises `BadHead` for those that would have had a meaning before it."""
    for name, value in fields:
        _check(name, value)
        if name in _NOT_AT_THE_END:
            raise BadHead("a trailer that belongs into the head")
    return fields

"""Which header fields pass, in which direction, and what stands in their place.

A head arrives field by field from a strict parser (`on_header`) and leaves as one block of bytes. Fields between two
neighbours end here; the endpoint key and our own marks never reach a replica; whatever frames a body is written anew.
"""

from __future__ import annotations

import enum
import re
from typing import Final

from router.policy import deadlines
from router.policy.grammar import is_host

PSEUDONYM: Final = b"tidegate"
"""As which the gateway stands in Via (RFC 9110, 7.6.3)."""
INTERNAL: Final = b"x-tidegate-"
"""Ours alone: what a caller writes there is dropped."""
CLIENT_ID_LENGTH: Final = 40
MOST_DIGITS: Final = 18
"""Of a length; 64 bits hold it."""
_CLIENT_ID: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
DEPLOYMENT: Final = b"azureml-model-deployment"


class BadHead(ValueError):
    """The head has no single meaning."""


def reason(error: Exception) -> str:
    """What was wrong: a parser's error that covers one of ours, raised by its callback, says nothing itself."""
    inner = error.__context__
    return str(inner if isinstance(inner, BadHead) else error)


class _Kind(enum.IntEnum):
    """What becomes of a field."""

    PASS = 0
    DROP = 1
    HOST = 2
    AUTHORIZATION = 3
    CONTENT_LENGTH = 4
    TRANSFER_ENCODING = 5
    CONNECTION = 6
    EXPECT = 7
    DEPLOYMENT = 8
    FORWARDED_FOR = 9
    FORWARDED_PROTO = 10
    CLIENT_ID = 11
    UPGRADE = 12
    VIA = 13
    DATE = 14
    USER_AGENT = 15
    DEADLINE = 16
    TRACE = 17


_HOP = (b"keep-alive", b"proxy-connection", b"proxy-authorization", b"proxy-authenticate", b"te", b"trailer",
        b"http2-settings")  # fmt: skip
_REQUEST: dict[bytes, int] = {
    **dict.fromkeys(_HOP, int(_Kind.DROP)),
    b"x-request-id": int(_Kind.DROP),
    b"upgrade": int(_Kind.UPGRADE),
    b"host": int(_Kind.HOST),
    b"authorization": int(_Kind.AUTHORIZATION),
    b"content-length": int(_Kind.CONTENT_LENGTH),
    b"transfer-encoding": int(_Kind.TRANSFER_ENCODING),
    b"connection": int(_Kind.CONNECTION),
    b"expect": int(_Kind.EXPECT),
    DEPLOYMENT: int(_Kind.DEPLOYMENT),
    b"x-forwarded-for": int(_Kind.FORWARDED_FOR),
    b"x-forwarded-proto": int(_Kind.FORWARDED_PROTO),
    b"x-ms-client-request-id": int(_Kind.CLIENT_ID),
    b"via": int(_Kind.VIA),
    b"user-agent": int(_Kind.USER_AGENT),
    deadlines.FIELD: int(_Kind.DEADLINE),
    b"traceparent": int(_Kind.TRACE),
    b"tracestate": int(_Kind.TRACE),
}
_RESPONSE: dict[bytes, int] = {
    **dict.fromkeys(_HOP, int(_Kind.DROP)),
    b"upgrade": int(_Kind.UPGRADE),
    b"x-request-id": int(_Kind.DROP),
    DEPLOYMENT: int(_Kind.DROP),
    b"ms-azureml-model-error-statuscode": int(_Kind.DROP),
    b"ms-azureml-model-error-reason": int(_Kind.DROP),
    b"content-length": int(_Kind.CONTENT_LENGTH),
    b"transfer-encoding": int(_Kind.TRANSFER_ENCODING),
    b"connection": int(_Kind.CONNECTION),
    b"date": int(_Kind.DATE),
    b"via": int(_Kind.VIA),
}


def _with_usual_spellings(kinds: dict[bytes, int]) -> dict[bytes, int]:
    """Also as most clients write them, so that the common case is one look-up."""
    return {**kinds, **{name.title(): kind for name, kind in kinds.items()}}


_REQUEST_SPELLED: Final = _with_usual_spellings(_REQUEST)
_RESPONSE_SPELLED: Final = _with_usual_spellings(_RESPONSE)
_UNREMARKABLE = (b"accept", b"accept-encoding", b"content-type", b"user-agent", b"date", b"server", b"traceparent")
for _name in _UNREMARKABLE:
    for _table in (_REQUEST_SPELLED, _RESPONSE_SPELLED):
        for _spelled in (_name, _name.title()):
            _table.setdefault(_spelled, int(_Kind.PASS))


def _kind(name: bytes, kinds: dict[bytes, int]) -> int:
    """Of a field in an unusual spelling. Model servers read `_` as `-`, so a field that becomes special by it is none
    that may pass.
    """
    lower = name.lower()
    kind = kinds.get(lower, 0)
    if kind == 0 and b"_" in lower:
        lower = lower.replace(b"_", b"-")
        kind = int(_Kind.DROP) if kinds.get(lower, 0) else 0
    return int(_Kind.DROP) if lower.startswith(INTERNAL) else kind


_PLAIN_FIELD: Final = re.compile(rb"([A-Za-z0-9-]{1,64}): ([!-~](?:[ -~]*[!-~])?)")
"""A field that is beyond doubt: narrower than any parser's idea of one."""


def judge_alone(line: bytes) -> tuple[bytes, bytes, int] | None:
    """(name in lower case, what goes on to the replica, length of the body or -1) of one field line without its head.

    None for everything that has a meaning for the gateway, or that is not plainly a field: that takes the strict parser
    and the whole head.
    """
    found = _PLAIN_FIELD.fullmatch(line)
    if found is None:
        return None
    name, value = found.groups()
    kind = _REQUEST_SPELLED.get(name)
    if kind is None:
        kind = _kind(name, _REQUEST)
    if not kind or kind == _TRACE:
        return name.lower(), line + b"\r\n", -1
    if kind == _DROP:
        return name.lower(), b"", -1
    if kind == _CONTENT_LENGTH and value.isdigit() and len(value) <= MOST_DIGITS:
        length = int(value)
        return b"content-length", b"content-length: %d\r\n" % length, length
    if kind == _DEADLINE:
        try:
            deadlines.unix_ns_of(value)
        except ValueError:
            return None
        return deadlines.FIELD, b"%b: %b\r\n" % (deadlines.FIELD, value), -1
    return None


def _tokens(value: bytes) -> set[bytes]:
    return {token.strip(b" \t").lower() for token in value.split(b",")} - {b""}


def _via(before: bytes, version: str) -> bytes:
    """A Via value with ourselves behind those `before`; `version` is that of the message that came."""
    return b"%b%b %b" % (before and before + b", ", version.encode(), PSEUDONYM)


def _without(lines: list[bytes], named: set[bytes]) -> list[bytes]:
    """`lines` (name, separator, value, line end, repeated) without the fields that Connection names."""
    kept: list[bytes] = []
    for at in range(0, len(lines), 4):
        if lines[at].lower() not in named:
            kept += lines[at : at + 4]
    return kept


class RequestHead:
    """A request's head as collected by the parser's callbacks, then `close`d once it is complete."""

    __slots__ = (
        "_connection", "_transfer_encodings", "_version", "authorization", "client_id", "content_length", "deadline", "deployment",
        "expects_continue", "forwarded_for", "forwarded_proto", "host", "hosts", "lines", "received", "target", "trace",
        "unsupported_expectation", "upgrade", "user_agent", "via",
    )  # fmt: skip

    def __init__(self) -> None:
        self.target = b""
        self.lines: list[bytes] = []
        self.trace: list[bytes] = []
        """Trace context, as it came; it goes on behind all other fields, where a gateway that traces puts its own."""
        self.host = b""
        self.hosts = 0
        self.authorization: bytes | None = None
        self.content_length: int | None = None
        self.deployment: bytes | None = None
        self.forwarded_for: bytes | None = None
        self.forwarded_proto: bytes | None = None
        self.client_id: bytes | None = None
        self.upgrade: set[bytes] = set()
        self.via = b""
        self.user_agent = b""
        self.deadline = 0
        """Until when the caller has use for an answer (Unix nanoseconds); 0: it does not say."""
        self.expects_continue = False
        self.unsupported_expectation = False
        self._transfer_encodings: bytes | None = None
        self._connection: set[bytes] | None = None
        self._version = "1.1"
        self.received = ""
        """The version in which it really came, where this is another one made of it."""

    def on_url(self, piece: bytes) -> None:
        """The request target."""
        self.target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field. Raises `BadHead` for a second one of those that decide something here."""
        kind = _REQUEST_SPELLED.get(name)
        if kind is None:
            kind = _kind(name, _REQUEST)
        value = value.strip(b" \t")
        if kind == 0:
            self.lines += (name, b": ", value, b"\r\n")
        elif kind == _HOST:
            self.host = value
            self.hosts += 1
        elif kind == _CONTENT_LENGTH:
            self.content_length = content_length(value, self.content_length)
        elif kind == _AUTHORIZATION:
            self.authorization = _only(value, self.authorization, "Authorization")
        elif kind != _DROP:
            self._rare(kind, name, value)

    def _rare(self, kind: int, name: bytes, value: bytes) -> None:
        if kind == _Kind.TRACE:
            self.trace += (name, b": ", value, b"\r\n")
        elif kind == _Kind.USER_AGENT:
            self.user_agent = self.user_agent or value
            self.lines += (name, b": ", value, b"\r\n")
        elif kind == _Kind.DEADLINE:
            self._until(value)
        elif kind == _Kind.CONNECTION:
            self._connection = (self._connection or set()) | _tokens(value)
        elif kind == _Kind.TRANSFER_ENCODING:
            self._transfer_encodings = _only(value, self._transfer_encodings, "Transfer-Encoding")
        elif kind == _Kind.DEPLOYMENT:
            self.deployment = _only(value, self.deployment, "azureml-model-deployment")
        elif kind == _Kind.EXPECT:
            self.expects_continue = value.lower() == b"100-continue"
            self.unsupported_expectation |= not self.expects_continue
        elif kind == _Kind.FORWARDED_FOR:
            self.forwarded_for = value if self.forwarded_for is None else self.forwarded_for + b", " + value
        elif kind == _Kind.FORWARDED_PROTO:
            self.forwarded_proto = self.forwarded_proto or value
        elif kind == _Kind.UPGRADE:
            self.upgrade |= _tokens(value)
        elif kind == _Kind.VIA:
            self.via = self.via + b", " + value if self.via else value
        else:
            self.client_id = bytes(filter(_CLIENT_ID.__contains__, value))[:CLIENT_ID_LENGTH]

    def _until(self, value: bytes) -> None:
        if self.deadline:
            raise BadHead("more than one x-request-deadline field")
        try:
            self.deadline = deadlines.unix_ns_of(value)
        except ValueError as error:
            raise BadHead(str(error)) from error
        self.lines += (deadlines.FIELD, b": ", value, b"\r\n")

    @property
    def version(self) -> str:
        """`1.1` or `1.0`, once it is closed."""
        return self._version

    @property
    def chunked(self) -> bool:
        """The body comes in the chunked coding."""
        return self._transfer_encodings is not None

    def says(self, token: bytes) -> bool:
        """Whether Connection names `token`."""
        return self._connection is not None and token in self._connection

    def stands_beside(self) -> frozenset[bytes] | None:
        """Names (lower case) that no further field may have that is judged alone; None where any could change this head."""
        if self._connection is not None and self._connection - {b"close", b"keep-alive"}:
            return None
        names = {name.lower() for name in (*self.lines[::4], *self.trace[::4])}
        if self.content_length is not None or self._transfer_encodings is not None:
            names.add(b"content-length")
        return frozenset(names)

    def close(self, version: str) -> None:
        """Judge the whole. Raises `BadHead` where two readers could take it for different requests."""
        self._version = version
        if self.hosts > 1 or (self.hosts == 0 and version == "1.1"):
            raise BadHead("exactly one Host field is needed")
        if self.hosts and not is_host(self.host):
            raise BadHead("Host is neither a name nor an address")
        if version == "1.0":
            self.expects_continue = False  # RFC 9110, 10.1.1
        if self._transfer_encodings is not None:
            if self._transfer_encodings.lower() != b"chunked":
                raise BadHead("the only Transfer-Encoding that is understood is chunked")
            if self.content_length is not None or version != "1.1":
                raise BadHead("Transfer-Encoding beside Content-Length or in HTTP/1.0")
        if self._connection is not None:
            named = self._connection - {b"close", b"keep-alive"}
            if named:
                self.lines, self.trace = _without(self.lines, named), _without(self.trace, named)

    def for_replica(self, method: bytes, target: bytes) -> tuple[bytes, bytes, bytes]:
        """The head as it goes to a replica, in three parts around our request id and the caller's address.

        Host passes as the caller wrote it, so that a model can name its own public address; HTTP/1.0 may have none.
        """
        first = [method, b" ", target, b" HTTP/1.1\r\nhost: ", self.host or PSEUDONYM, b"\r\n", *self.lines]
        if self.client_id:
            first += (b"x-ms-client-request-id: ", self.client_id, b"\r\n")
        first += (
            b"via: ",
            _via(self.via, self.received or self._version),
            b"\r\nx-forwarded-proto: ",
            self.forwarded_proto or b"http",
        )
        first.append(b"\r\nx-request-id: ")
        rest = b"\r\n"
        if self.content_length is not None:
            rest = b"\r\ncontent-length: %d\r\n" % self.content_length
        elif self._transfer_encodings is not None:
            rest = b"\r\ntransfer-encoding: chunked\r\n"
        between = b"\r\nx-forwarded-for: "
        if self.forwarded_for is not None:
            between += self.forwarded_for + b", "
        return b"".join(first), between, b"".join((rest, *self.trace, b"\r\n"))


class ResponseHead:
    """A replica's response head, collected in the same way."""

    __slots__ = (
        "_transfer_encodings", "_via", "closes", "connection", "content_length", "dated", "lines", "reason", "upgrade",
    )  # fmt: skip

    def __init__(self) -> None:
        self.reason = b""
        self.lines: list[bytes] = []
        self.content_length: int | None = None
        self.connection: set[bytes] | None = None
        self.closes = False
        self.dated = False
        """Whether it has a Date."""
        self.upgrade: set[bytes] = set()
        self._via = b""
        self._transfer_encodings: bytes | None = None

    def on_status(self, piece: bytes) -> None:
        """The reason phrase."""
        self.reason += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field."""
        kind = _RESPONSE_SPELLED.get(name)
        if kind is None:
            kind = _kind(name, _RESPONSE)
        value = value.strip(b" \t")
        if kind == 0 or (kind == _Kind.DATE and not self.dated):
            self.lines += (name, b": ", value, b"\r\n")
            self.dated |= kind != 0
        elif kind == _CONTENT_LENGTH:
            self.content_length = content_length(value, self.content_length)
        elif kind == _TRANSFER_ENCODING:
            self._transfer_encodings = _only(value, self._transfer_encodings, "Transfer-Encoding")
        elif kind == _CONNECTION:
            self.connection = (self.connection or set()) | _tokens(value)
        elif kind == _Kind.VIA:
            self._via = self._via + b", " + value if self._via else value
        elif kind == _Kind.UPGRADE:
            self.upgrade |= _tokens(value)

    @property
    def chunked(self) -> bool:
        """The body comes in the chunked coding."""
        return self._transfer_encodings is not None

    def close(self, version: str, status: int) -> None:
        """Judge the whole. Raises `BadHead` where the length of the body is in doubt."""
        if self._transfer_encodings is not None and (
            self._transfer_encodings.lower() != b"chunked" or self.content_length is not None or version != "1.1"
        ):
            raise BadHead("a Transfer-Encoding that is not plain chunked")
        if status < 200 and (self.chunked or self.content_length is not None):
            raise BadHead("an interim answer with a body")
        if self.connection is not None:
            self.closes = b"close" in self.connection or (version == "1.0" and b"keep-alive" not in self.connection)
            named = self.connection - {b"close", b"keep-alive"}
            if named:
                self.lines = _without(self.lines, named)
                self.dated &= b"date" not in named
        else:
            self.closes = version == "1.0"
        self.lines += (b"via", b": ", _via(self._via, version), b"\r\n")


_DROP: Final = int(_Kind.DROP)
_TRACE: Final = int(_Kind.TRACE)
_HOST: Final = int(_Kind.HOST)
_AUTHORIZATION: Final = int(_Kind.AUTHORIZATION)
_CONTENT_LENGTH: Final = int(_Kind.CONTENT_LENGTH)
_TRANSFER_ENCODING: Final = int(_Kind.TRANSFER_ENCODING)
_CONNECTION: Final = int(_Kind.CONNECTION)
_DEADLINE: Final = int(_Kind.DEADLINE)


def content_length(value: bytes, before: int | None = None) -> int:
    """Digits and nothing else: `int` alone would take signs, spaces and underscores. `before`: of an earlier field."""
    if before is not None:
        raise BadHead("more than one Content-Length field")
    if not value.isdigit() or len(value) > MOST_DIGITS:
        raise BadHead("Content-Length is not a number")
    return int(value)


def _only(value: bytes, before: bytes | None, name: str) -> bytes:
    """`value`, unless there was one `before`: one reader takes the first, another the last."""
    if before is not None:
        raise BadHead(f"more than one {name} field")
    return value


def bearer(authorization: bytes | None) -> bytes | None:
    """The key in an Authorization value of the Bearer scheme."""
    if authorization is None or authorization[:7].lower() != b"bearer ":
        return None
    return authorization[7:].strip(b" ")

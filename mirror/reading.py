"""A candidate's answer, read as strictly as the gateway reads a live one's: what would be a 502 there is a failure here.

Bytes come in as they arrive, the reply fills as far as they go. Everything is bounded: a candidate may be endless.
"""

from __future__ import annotations

from collections.abc import Callable

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from mirror.heads import LONGEST, MOST, plain_type
from router.policy.chunked import BadChunk, Decoder
from router.policy.grammar import is_response_head, may_begin_response
from router.policy.headers import BadHead, ResponseHead, reason

HEAD_BYTES = 64 << 10
"""One head, interim or final, as in the gateway."""
_MOST_INTERIM = 32


class Lost(Exception):
    """The connection did not carry the exchange to its end."""


class Reply:
    """What a candidate answered, filled in as it comes: what stands here when a deadline strikes is what was seen."""

    __slots__ = (
        "complete", "content_encoding", "content_type", "error", "first_byte_at", "grpc_status", "status", "take",
    )  # fmt: skip

    def __init__(self, take: Callable[[bytes], None]) -> None:
        """`take` gets each piece of the body."""
        self.take = take
        self.status = 0
        """0 until the final response's head was seen."""
        self.first_byte_at = 0.0
        """Monotonic time; 0 until then."""
        self.content_type = ""
        self.content_encoding = ""
        self.grpc_status = ""
        """What ended a call of gRPC."""
        self.complete = False
        self.error = ""


class Answer:
    """What a response's head says."""

    __slots__ = ("chunked", "closes", "content_encoding", "content_type", "grpc_status", "length", "status")

    def __init__(self, raw: bytes) -> None:
        """Raises `Lost` for what is no head."""
        status, head = _understood(raw)
        self.status = status
        self.chunked = head.chunked
        self.length = head.content_length
        self.closes = head.closes
        self.content_type = self.content_encoding = self.grpc_status = ""
        lines = head.lines
        for at in range(0, len(lines), 4):
            name = lines[at].lower()
            if name == b"content-type":
                self.content_type = plain_type(lines[at + 2])
            elif name == b"content-encoding":
                self.content_encoding = lines[at + 2].lower().decode("latin-1")
            elif name == b"grpc-status":
                self.grpc_status = lines[at + 2].decode("latin-1")


_answers: dict[bytes, Answer] = {}


def _answer(raw: bytes) -> Answer:
    """Worked out once: models repeat their heads byte for byte. Raises `Lost`."""
    known = _answers.get(raw)
    if known is None:
        known = Answer(raw)
        if len(raw) <= LONGEST:
            if len(_answers) >= MOST:
                _answers.clear()
            _answers[raw] = known
    return known


class Reader:
    """Of one answer to a request with `method`. `reusable`: the connection may carry another exchange."""

    def __init__(self, reply: Reply, method: str) -> None:
        self._reply = reply
        self._method = method
        self._held = b""
        self._interim = 0
        self._left: int | None = None
        """Bytes of the body that are still to come; None: not framed by a length."""
        self._decoder: Decoder | None = None
        self._keeps = False
        self.reusable = False

    def feed(self, data: bytes) -> None:
        """Bytes from the candidate. Raises `Lost` for what is no answer; what `Reply.take` raises passes."""
        reply = self._reply
        while not reply.status and data:
            data = self._head(self._held + data)
        if reply.complete:
            self.reusable = self.reusable and not data
        elif reply.status and data:
            self._body(data)

    def eof(self) -> None:
        """The candidate closed: the end of a body without length, or a loss."""
        if not self._reply.status:
            raise Lost("closed before the response")
        if self._left is not None or self._decoder is not None:
            raise Lost("closed in the middle of the response")
        self._reply.complete = True

    def _head(self, data: bytes) -> bytes:
        """Take a head; returns what is behind it, nothing while there is no whole one."""
        end = data.find(b"\r\n\r\n") + 4
        if (len(data) if end < 4 else end) > HEAD_BYTES:
            raise Lost(f"response head above {HEAD_BYTES} bytes")
        if end < 4:
            if not may_begin_response(data):
                raise Lost("not HTTP/1.1: not a status line and lines that end in CR LF")
            self._held = data
            return b""
        self._held = b""
        answer = _answer(data[:end])
        if answer.status >= 200:
            self._begin(answer)
        else:
            self._interim += 1
            if self._interim > _MOST_INTERIM:
                raise Lost("endless interim answers")
        return data[end:]

    def _begin(self, answer: Answer) -> None:
        """Where the body will end (RFC 9112, 6.3)."""
        reply = self._reply
        reply.status = answer.status
        reply.content_type = answer.content_type
        reply.content_encoding = answer.content_encoding
        reply.grpc_status = answer.grpc_status
        self._keeps = not answer.closes
        if self._method == "HEAD" or answer.status in (204, 304):
            # There must be no body; where one is announced all the same, it may follow.
            self._keeps = self._keeps and not (answer.length or answer.chunked)
            self._left = 0
        elif answer.chunked:
            self._decoder = Decoder()
        else:
            self._left = answer.length
        if self._left == 0:
            self._end(clean=True)

    def _body(self, data: bytes) -> None:
        if self._decoder is not None:
            try:
                pieces, rest = self._decoder.feed(data)
            except BadChunk as error:
                raise Lost(f"not HTTP/1.1: {error}") from error
            for piece in pieces:
                self._reply.take(piece)
            if self._decoder.done:
                self._end(clean=not rest)
        elif self._left is None:
            self._reply.take(data)
        else:
            piece = data[: self._left]
            self._left -= len(piece)
            self._reply.take(piece)
            if not self._left:
                self._end(clean=len(piece) == len(data))

    def _end(self, *, clean: bool) -> None:
        self._reply.complete = True
        self.reusable = clean and self._keeps


def _understood(raw: bytes) -> tuple[int, ResponseHead]:
    """(status, head) of the head `raw`. Raises `Lost`."""
    head = ResponseHead()
    parser = HttpResponseParser(head)
    try:
        parser.feed_data(raw)
        status: int = parser.get_status_code()
        if not is_response_head(raw) or status == 101:
            raise BadHead("switching protocols" if status == 101 else "not a status line and fields")
        head.close(parser.get_http_version(), status)
    except HttpParserUpgrade as upgrade:
        raise Lost("not HTTP/1.1: switching protocols") from upgrade
    except (HttpParserError, BadHead) as error:
        raise Lost(f"not HTTP/1.1: {reason(error)}") from error
    return status, head

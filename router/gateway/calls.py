"""What follows from a head's bytes alone, worked out once: callers and models repeat their heads byte for byte.

A `Call` is a request head judged against the routing table: route, authority, and the block that goes to the replica
except for what differs per request. An `Answer` is the same for a replica's head. Both live in bounded dictionaries
that are emptied when full; of calls, those of an endpoint go with its revisions, because its keys may have changed, and all
where names or hosts have.

Of heads that differ, most differ in a field that means nothing here (`traceparent`) or only frames the body. So a head
that is new as a whole is taken apart: the lines that have come before make a head of their own, which the strict parser
judges once; each new line is judged alone where that is beyond doubt. Anything else is judged whole. Where it was one line, the
next head is not even taken apart (`templates`).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

from router.gateway.profile import AUTH_KEY, profile_of
from router.gateway.responses import STATUS_LINES, Refusal, status_line
from router.gateway.templates import Templates
from router.policy.grammar import is_request_head, is_response_head
from router.policy.headers import BadHead, RequestHead, ResponseHead, bearer, judge_alone, reason
from router.policy.matching import Table, origin_form
from router.policy.upgrading import FIELDS, WEBSOCKET, Agreement, Offer, OtherVersion, agreed, offered

if TYPE_CHECKING:
    from router.gateway.routes import Endpoint

MOST: Final = 512
LONGEST: Final = 2048
"""Heads beyond this are judged anew each time, which bounds the memory of a replica's answers to a few megabytes."""
MOST_CALLS: Final = 16_384
"""Enough for callers of 10,000 endpoints."""
_CALL_BYTES: Final = 8 << 20
"""Of the heads of calls: the calls themselves take about as much again, and half a kilobyte each."""
_LINES: Final = 32_768
_LINE_BYTES: Final = 4 << 20
"""Lines that are remembered as having come before, and their length in all."""
_NEW_LINES: Final = 4
"""A head with more lines that never came before is judged whole."""


class Call:
    """A request head, judged."""

    __slots__ = (
        "after_peer", "before_id", "before_peer", "beside", "chunked", "deadline", "deployment", "endpoint", "expects_continue", "http10", "keep_alive",
        "length", "message", "method", "own", "path", "profile", "refusal", "websocket",
    )  # fmt: skip

    def __init__(self, method: bytes = b"GET") -> None:
        self.method = method
        self.http10 = False
        self.keep_alive = False
        self.chunked = False
        self.length = 0
        self.expects_continue = False
        self.endpoint: Endpoint | None = None
        self.deployment: str | None = None
        """The deployment that the caller named."""
        self.deadline = 0
        """Until when the caller has use for an answer (Unix nanoseconds), where the head that was judged says so; 0: it does not."""
        self.path = b""
        self.profile = ""
        """What the request's record has of its head."""
        self.own = b""
        """The gateway's own route."""
        self.refusal: Refusal | None = None
        self.message = ""
        self.before_id = b""
        self.before_peer = b""
        self.after_peer = b""
        """From the caller's address to the end of the head."""
        self.beside: frozenset[bytes] | None = None
        """Names of its fields, which no line judged alone may repeat; None where no line can be judged alone."""
        self.websocket: Offer | None = None
        """What the caller offers where it wants to speak WebSocket."""

    def refuse(self, refusal: Refusal, message: str) -> Call:
        """Nothing else will come of this request."""
        self.refusal, self.message = refusal, message
        return self

    def for_replica(self, request_id: bytes, peer: bytes, after_peer: bytes) -> bytes:
        """The head as it goes to a replica, with its closing empty line; `after_peer` is its end or a longer one."""
        return b"".join((self.before_id, request_id, self.before_peer, peer, after_peer))


def refused(refusal: Refusal, message: str, raw: bytes) -> Call:
    """A call that never became one; `raw` is as much as there is of its head."""
    return Call(b"HEAD" if raw.startswith(b"HEAD ") else b"GET").refuse(refusal, message)


def too_large(endpoint: Endpoint) -> str:
    """What the caller of a body beyond the endpoint's limit is told."""
    return f"the request's body is larger than {endpoint.max_body} bytes"


def judge(raw: bytes, table: Table[Endpoint], scheme: bytes = b"http", received: str = "") -> Call:
    """The call that the head `raw` (with its closing empty line) makes on a connection of `scheme`; `received`: see there."""
    head = RequestHead()
    head.received = received
    parser = HttpRequestParser(head)
    try:
        with contextlib.suppress(HttpParserUpgrade):  # the head was read all the same
            parser.feed_data(raw)
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise BadHead("only HTTP/1.1 and HTTP/1.0 are spoken here")
        if not is_request_head(raw):
            raise BadHead("not a request line and fields, each with one space and a closing CR LF")
        head.close(version)
        head.forwarded_proto = head.forwarded_proto or scheme
    except (HttpParserError, BadHead) as error:
        return refused(Refusal.BAD_REQUEST, f"malformed request: {reason(error)}", raw)
    if parser.get_method() == b"CONNECT":
        return refused(Refusal.UPGRADE, "CONNECT is not supported", raw)
    call = Call(parser.get_method())
    call.http10 = version == "1.0"
    call.keep_alive = not head.says(b"close") and (head.says(b"keep-alive") or not call.http10)
    call.chunked = head.chunked
    call.length = head.content_length or 0
    call.expects_continue = head.expects_continue
    return _route(call, head, table)


class Calls:
    """The calls that were judged lately. `whole` has them by all their bytes."""

    __slots__ = (
        "_base_bytes",
        "_bases",
        "_line_bytes",
        "_lines",
        "_received",
        "_scheme",
        "_templates",
        "_whole_bytes",
        "whole",
    )

    def __init__(self, scheme: bytes = b"http", received: str = "") -> None:
        """`scheme`: what callers speak, `http` or `https`; `received`: the version, where heads are made of another one."""
        self._scheme = scheme
        self._received = received
        self.whole: dict[bytes, Call] = {}
        self._bases: dict[bytes, Call] = {}
        """By the lines that have come before, without those of one request only."""
        self._lines: set[bytes] = set()
        """Lines, request line and fields, of requests that were let through to an endpoint."""
        self._templates = Templates()
        self._whole_bytes = self._base_bytes = self._line_bytes = 0

    def clear(self) -> None:
        """Judge anew: hosts or names have changed."""
        self.whole.clear()
        self._bases.clear()
        self._templates.clear()
        self._whole_bytes = self._base_bytes = 0

    def forget(self, endpoint: Endpoint) -> None:
        """Judge anew what is for `endpoint`: its keys or limits have changed."""
        for raw in [raw for raw, call in self.whole.items() if call.endpoint is endpoint]:
            del self.whole[raw]
            self._whole_bytes -= len(raw)
        for raw in [raw for raw, call in self._bases.items() if call.endpoint is endpoint]:
            del self._bases[raw]
            self._base_bytes -= len(raw)
        self._templates.forget(endpoint)

    def find(self, raw: bytes, table: Table[Endpoint]) -> tuple[Call, int, bytes]:
        """(call, length of the body, end of the head for the replica) of the head `raw`, which `whole` does not have."""
        if len(raw) > LONGEST:
            call = judge(raw, table, self._scheme, self._received)
            return call, call.length, call.after_peer
        template = self._templates.of(raw)
        if template is not None:
            ends = template.read(raw)
            if ends is not None:
                return template.call, *ends
        lines = raw[:-4].split(b"\r\n")
        known = self._lines
        fresh = [line for line in lines if line not in known]
        # The first line is the request's own: in its place no field is one.
        if 0 < len(fresh) <= _NEW_LINES and fresh[0] is not lines[0]:
            found = self._beside(raw, lines[:], fresh, table)
            if found is not None:
                return found
        call = judge(raw, table, self._scheme, self._received)
        if call.refusal is not Refusal.BAD_REQUEST and call.websocket is None:  # its key never comes twice
            if len(self.whole) >= MOST_CALLS or self._whole_bytes >= _CALL_BYTES:
                self.whole.clear()
                self._whole_bytes = 0
            self.whole[raw] = call
            self._whole_bytes += len(raw)
        if call.refusal is None:
            if len(known) >= _LINES or self._line_bytes >= _LINE_BYTES:
                known.clear()
                self._line_bytes = 0
            self._line_bytes += sum([len(line) for line in fresh])
            known.update(lines)
        return call, call.length, call.after_peer

    def _beside(
        self, raw: bytes, lines: list[bytes], fresh: list[bytes], table: Table[Endpoint]
    ) -> tuple[Call, int, bytes] | None:
        """The same by its known lines, where each fresh one can be judged alone. Takes the fresh ones out of `lines`."""
        length, end, names = -1, b"", []
        for line in fresh:
            judged = judge_alone(line)
            if judged is None:
                return None
            name, passed, size = judged
            lines.remove(line)
            names.append(name)
            end += passed
            if size >= 0:
                length = size
        base = self._base(b"\r\n".join(lines), table)
        beside = base.beside
        if beside is None or not beside.isdisjoint(names) or (len(names) > 1 and len(set(names)) < len(names)):
            return None
        if base.endpoint is not None and length > base.endpoint.max_body:
            return refused(Refusal.BODY_TOO_LARGE, too_large(base.endpoint), lines[0]), length, b""
        if len(fresh) == 1:
            self._templates.learn(raw, fresh[0], names[0], base)
        return base, base.length if length < 0 else length, b"".join((base.after_peer[:-2], end, b"\r\n"))

    def _base(self, lines: bytes, table: Table[Endpoint]) -> Call:
        base = self._bases.get(lines)
        if base is None:
            base = judge(lines + b"\r\n\r\n", table, self._scheme, self._received)
            if len(self._bases) >= MOST_CALLS or self._base_bytes >= _CALL_BYTES:
                self._bases.clear()
                self._base_bytes = 0
            self._bases[lines] = base
            self._base_bytes += len(lines)
        return base


def _route(call: Call, head: RequestHead, table: Table[Endpoint]) -> Call:
    form = origin_form(head.target, head.host)
    if form is None:
        text = "the request target is neither a path nor an http address of the host that Host names"
        return call.refuse(Refusal.BAD_REQUEST, text)
    target, head.host = form
    endpoint, call.path = table.find(target, head.host)
    if endpoint is None:
        call.own = target.partition(b"?")[0]
        if call.method in (b"GET", b"HEAD") and call.own in (b"/healthz", b"/readyz"):
            return call
        return call.refuse(Refusal.NO_ENDPOINT, "no endpoint has this address")
    call.endpoint = endpoint
    call.profile = profile_of(call.method, call.path, head)
    if head.upgrade - {b"h2c"} and head.says(b"upgrade") and not _begins_websocket(call, head):
        return call
    if head.unsupported_expectation:
        return call.refuse(Refusal.EXPECTATION, "the only expectation that is understood is 100-continue")
    if endpoint.refuses:
        return call.refuse(Refusal.UNAUTHORISED, endpoint.refuses)
    key = bearer(head.authorization)
    if key is None and call.websocket is not None:
        key = call.websocket.key
    if not endpoint.opens(key):
        text = "the Authorization header must be 'Bearer' and one of the endpoint's keys"
        return call.refuse(Refusal.UNAUTHORISED, text)
    call.profile = profile_of(call.method, call.path, head, AUTH_KEY)
    if call.length > endpoint.max_body:
        return call.refuse(Refusal.BODY_TOO_LARGE, too_large(endpoint))
    call.deployment = head.deployment.decode("latin-1") if head.deployment is not None else None
    call.deadline = head.deadline
    call.beside = head.stands_beside()
    call.before_id, call.before_peer, call.after_peer = head.for_replica(call.method, call.path)
    if call.websocket is not None:
        call.after_peer = b"".join((call.after_peer[:-2], FIELDS, b"\r\n"))
    return call


def _begins_websocket(call: Call, head: RequestHead) -> bool:
    """Whether the upgrade that `head` asks for is one to WebSocket, as it should be; else `call` is refused."""
    if WEBSOCKET not in head.upgrade:
        call.refuse(Refusal.UPGRADE, "the only upgrade that is supported is one to websocket")
        return False
    try:
        call.websocket = offered(head, call.method, "1.0" if call.http10 else "1.1")
    except OtherVersion as version:
        call.refuse(Refusal.UPGRADE_VERSION, str(version))
    except BadHead as error:
        call.refuse(Refusal.BAD_REQUEST, f"malformed WebSocket handshake: {error}")
    return call.websocket is not None


class Switching(Exception):
    """A 101. `agreement` judges it."""

    def __init__(self, head: ResponseHead) -> None:
        super().__init__("switching protocols")
        self._head = head
        self.dated = head.dated
        lines = b"".join(head.lines)
        self.front = b"".join((status_line(101, head.reason), FIELDS, lines, b"x-request-id: "))

    def agreement(self, offer: Offer | None) -> Agreement:
        """What it agrees to. Raises `BadHead` where it does not answer `offer`."""
        if offer is None:
            raise BadHead("switching protocols, which nobody asked for")
        return agreed(self._head, offer)


class Answer:
    """A replica's head, understood."""

    __slots__ = ("chunked", "closes", "dated", "front", "interim", "length", "lines", "reason", "status", "tail")

    def __init__(self, raw: bytes) -> None:
        """Raises `ValueError` for what is no answer, `Switching` for a 101."""
        head = ResponseHead()
        parser = HttpResponseParser(head)
        try:
            with contextlib.suppress(HttpParserUpgrade):  # the head was read all the same
                parser.feed_data(raw)
            if not is_response_head(raw):
                raise BadHead("not a status line and fields, each with a closing CR LF")
            self.status: int = parser.get_status_code()
            head.close(parser.get_http_version(), self.status)
        except (HttpParserError, BadHead) as error:
            raise ValueError(reason(error)) from error
        if self.status == 101:
            raise Switching(head)
        self.lines = b"".join(head.lines)
        first = status_line(self.status, head.reason) + self.lines
        self.interim = first + b"\r\n" if 100 < self.status < 200 else b""
        """The whole of it, where the caller gets it before the answer proper; its 100 it has had from us."""
        self.front = first + b"x-request-id: "
        """Up to our request id."""
        self.reason = head.reason or STATUS_LINES.get(self.status, b"")[13:-2]
        self.length = head.content_length
        self.tail = b""
        """The end of the head where a length frames the body and the caller's connection stays."""
        if self.length is not None and self.status != 204:
            self.tail = b"content-length: %d\r\n\r\n" % self.length
        self.chunked = head.chunked
        self.closes = head.closes
        self.dated = head.dated

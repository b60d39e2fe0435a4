"""HTTP/1.1 as h11 reads it: the strict reference beside which the gateway's own reading is held."""

from __future__ import annotations

from dataclasses import dataclass

import h11

_MOST = 1 << 20
Fields = list[tuple[bytes, bytes]]
"""(name in lower case, value)."""


@dataclass(frozen=True)
class Message:
    """A request or an answer, whole."""

    first: tuple[bytes, bytes]
    """(method, target) or (status, reason)."""
    fields: Fields
    body: bytes
    version: bytes
    interim: tuple[int, ...] = ()

    def values(self, name: bytes) -> list[bytes]:
        """Every value of a field."""
        return [value for key, value in self.fields if key == name]

    @property
    def framing(self) -> str:
        """How its body was framed."""
        if self.values(b"transfer-encoding"):
            return "chunked"
        return "length" if self.values(b"content-length") else "none"


class Refused(Exception):
    """h11 will not have it."""


class Incomplete(Exception):
    """The bytes end before the message does."""


def after_empty_lines(data: bytes) -> bytes:
    """Without the empty lines that may stand before a request (RFC 9112, 2.2), which h11 does not take."""
    while data.startswith(b"\r\n"):
        data = data[2:]
    return data


def read_request(data: bytes) -> tuple[Message, bytes]:
    """(the first request, what follows it). Raises `Refused` and `Incomplete`."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST)
    connection.receive_data(data)
    head: h11.Request | None = None
    body = b""
    while True:
        event = _next(connection)
        if isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            message = Message((head.method, head.target), list(head.headers), body, head.http_version)
            return message, connection.trailing_data[0]
        else:
            raise Incomplete


def read_answer(data: bytes, method: bytes, *, ended: bool) -> tuple[Message, bytes]:
    """(the first final answer to a request with `method`, what follows it); `ended`: nothing more will come."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST)
    # Of methods only HEAD matters; others need not even be one.
    connection.send(
        h11.Request(method=b"HEAD" if method == b"HEAD" else b"GET", target=b"/", headers=[(b"host", b"x")])
    )
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    if ended:
        connection.receive_data(b"")
    head: h11.Response | None = None
    body = b""
    interim: tuple[int, ...] = ()
    while True:
        event = _next(connection)
        if isinstance(event, h11.InformationalResponse):
            interim += (event.status_code,)
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            first = (b"%d" % head.status_code, bytes(head.reason))
            return Message(first, list(head.headers), body, head.http_version, interim), connection.trailing_data[0]
        else:
            raise Incomplete


def read_answers(data: bytes, methods: list[bytes]) -> list[Message]:
    """The answers that a caller got to requests with these methods, and whatever came behind them, in turn."""
    found: list[Message] = []
    while data:
        method = methods[len(found)] if len(found) < len(methods) else b"GET"
        message, data = read_answer(data, method, ended=True)
        found.append(message)
    return found


def _next(connection: h11.Connection) -> object:
    try:
        return connection.next_event()
    except h11.RemoteProtocolError as error:
        if "without sending complete message body" in str(error) or "incomplete chunked read" in str(error):
            raise Incomplete from error
        raise Refused(str(error)) from error

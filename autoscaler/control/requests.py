"""One HTTP/1.1 request off a stream: strictly, and never more of it than is allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

HEAD_BYTES = 1 << 15
"""Longest request line with its headers."""


class Refused(Exception):
    """What came is no request that can be answered; nothing behind it on this connection is one."""

    def __init__(self, status: HTTPStatus, message: str, code: str = "BadArgument") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


@dataclass(frozen=True, slots=True)
class Head:
    """A request's first part."""

    method: str
    target: str
    version: str
    headers: tuple[tuple[str, str], ...]
    """(lower-case name, value)."""

    def values(self, name: str) -> list[str]:
        """Of all headers called `name`."""
        return [value for other, value in self.headers if other == name]


@dataclass(frozen=True, slots=True)
class Request:
    """A request, whole."""

    method: str
    target: str
    body: bytes | None
    """None when the head does not say that there is one."""
    stays: bool
    """Whether the sender wants to go on with this connection."""


def _anybody(_: Head) -> None:
    """Lets everything in."""


async def read_request(
    reader: asyncio.StreamReader, most_bytes: int, admit: Callable[[Head], None] = _anybody
) -> Request:
    """The next request, its body at most `most_bytes`. `admit` may raise `Refused` before any of the body is read.

    Raises `Refused`, and `IncompleteReadError` when the sender leaves.
    """
    head = await _head(reader)
    admit(head)
    length = _body_length(head.values("content-length"))
    if head.values("transfer-encoding"):
        raise Refused(HTTPStatus.LENGTH_REQUIRED, "say the length of the body in Content-Length")
    if length is not None and length > most_bytes:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has at most {most_bytes} bytes")
    body = await reader.readexactly(length) if length is not None else None
    leaves = any("close" in value.lower() for value in head.values("connection"))
    return Request(head.method, head.target, body, stays=head.version == "HTTP/1.1" and not leaves)


async def _head(reader: asyncio.StreamReader) -> Head:
    try:
        text = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        too_long = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        raise Refused(too_long, "the request's head is too long") from error
    line, *lines = text[:-4].decode("latin-1").split("\r\n")
    match line.split(" "):
        case [method, target, version] if version.startswith("HTTP/1."):
            pass
        case _:
            raise Refused(HTTPStatus.BAD_REQUEST, "this is not a request of HTTP/1.1")
    pairs = tuple((name.lower(), value.strip()) for name, _, value in (one.partition(":") for one in lines))
    return Head(method, target, version, pairs)


def _body_length(values: list[str]) -> int | None:
    if not values:
        return None
    if len(values) > 1 or not (values[0].isascii() and values[0].isdecimal() and len(values[0]) < 20):
        raise Refused(HTTPStatus.BAD_REQUEST, "Content-Length is one whole number")
    return int(values[0])

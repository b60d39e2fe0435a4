"""One HTTP/1.1 request off a stream: strictly, and never more of it than is allowed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus

HEAD_BYTES = 1 << 15
"""Longest request line with its headers."""


class Refused(Exception):
    """What came is no request that can be answered; nothing behind it on this connection is one."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Request:
    """A request, whole."""

    method: str
    target: str
    body: bytes | None
    """None when the head does not say that there is one."""
    stays: bool
    """Whether the sender wants to go on with this connection."""


async def read_request(reader: asyncio.StreamReader, most_bytes: int) -> Request:
    """The next request, its body at most `most_bytes`.

    Raises `Refused`, and `IncompleteReadError` when the sender leaves.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        too_long = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        raise Refused(too_long, "the request's head is too long") from error
    line, *lines = head[:-4].decode("latin-1").split("\r\n")
    match line.split(" "):
        case [method, target, version] if version.startswith("HTTP/1."):
            pass
        case _:
            raise Refused(HTTPStatus.BAD_REQUEST, "this is not a request of HTTP/1.1")
    headers = [(name.lower(), value.strip()) for name, _, value in (one.partition(":") for one in lines)]
    length = _body_length([value for name, value in headers if name == "content-length"])
    if any(name == "transfer-encoding" for name, _ in headers):
        raise Refused(HTTPStatus.LENGTH_REQUIRED, "say the length of the body in Content-Length")
    if length is not None and length > most_bytes:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has at most {most_bytes} bytes")
    body = await reader.readexactly(length) if length is not None else None
    leaves = any(name == "connection" and "close" in value.lower() for name, value in headers)
    return Request(method, target, body, stays=version == "HTTP/1.1" and not leaves)


def _body_length(values: list[str]) -> int | None:
    if not values:
        return None
    if len(values) > 1 or not (values[0].isascii() and values[0].isdecimal() and len(values[0]) < 20):
        raise Refused(HTTPStatus.BAD_REQUEST, "Content-Length is one whole number")
    return int(values[0])

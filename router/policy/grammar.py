"""What a head may be made of, to the byte: one pattern for the whole of it, whatever the parser behind it lets through.

Narrower than RFC 9112 where readers are known to differ: one space between the parts of a line, CRLF and nothing else at
its end, no folded line, no control character but TAB in a value, no fragment in a target. Possessive throughout, so that
no input takes more than one pass.
"""

from __future__ import annotations

import re

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_TEXT = rb"[\t\x20-\x7e\x80-\xff]*+"
_FIELDS = rb"(?:" + _TOKEN + rb":" + _TEXT + rb"\r\n)*+\r\n"
_REQUEST = re.compile(rb"[A-Z][A-Z-]*+ [!-\x22$-~]++ HTTP/1\.[01]\r\n" + _FIELDS)
_RESPONSE = re.compile(rb"HTTP/1\.[01] [1-5][0-9][0-9](?: " + _TEXT + rb")?+\r\n" + _FIELDS)
_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]++|\[[0-9A-Fa-f:.]++\])(?::[0-9]{0,5}+)?+")

TRAILER = re.compile(_TOKEN + rb":" + _TEXT)
"""One field of a trailer section, without its line end."""
_EXTENSION = rb";" + _TOKEN + rb"(?:=(?:" + _TOKEN
_EXTENSION += rb'|"(?:[\t\x20!\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"))?+'
CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,16}+)((?:" + _EXTENSION + rb")*+)")
"""A chunk's size with its extensions (RFC 9112, 7.1.1), without the line end and without any "bad" whitespace."""


def is_request_head(raw: bytes) -> bool:
    """Whether `raw`, with its closing empty line, is a request line and fields and nothing else."""
    return _REQUEST.fullmatch(raw) is not None


def is_response_head(raw: bytes) -> bool:
    """The same of a status line."""
    return _RESPONSE.fullmatch(raw) is not None


def may_begin_response(begin: bytes) -> bool:
    """Whether a response's head can begin so: who greets in another protocol need not be waited for."""
    return begin.startswith(b"HTTP/1."[: len(begin)]) and begin.count(b"\n") == begin.count(b"\r\n")


def is_host(value: bytes) -> bool:
    """Whether a Host value is a name or an address, with or without a port."""
    return _HOST.fullmatch(value) is not None

"""Where an HTTP answer ends: no more of HTTP than a client of known models behind known proxies needs. Pure."""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)


class Unclear(ValueError):
    """Neither a length nor chunks say where the answer ends."""


def complete(answer: bytes) -> bool:
    """Whether `answer` is whole. Raises Unclear when nothing says where it ends."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = answer[: end + 2]
    if found := _LENGTH.search(head):
        return len(answer) >= end + 4 + int(found[1])
    if _CHUNKED.search(head):
        return answer.endswith(b"\r\n0\r\n\r\n")
    raise Unclear(f"an answer without a length: {head[:200]!r}")


def good(answer: bytes) -> bool:
    """Whether its status is 200."""
    return answer[9:12] == b"200"

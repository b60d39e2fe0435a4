"""Until when a caller has use for its answer: `x-request-deadline`, a moment that means the same to everybody on the way.

A moment needs clocks that agree, which servers have; a duration (`grpc-timeout`, Envoy's
`x-envoy-expected-rq-timeout-ms`) needs to be written anew by everybody on the way, and what a request has waited at one that does
not know it is lost. Two forms are understood: Unix seconds, with or without a fraction, and RFC 3339. Other forms are
refused, milliseconds too: a deadline that is taken for another one is worse than none.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Final

FIELD: Final = b"x-request-deadline"
_SECONDS: Final = re.compile(rb"([0-9]{1,10})(?:\.([0-9]{1,9}))?")
"""Ten digits reach to the year 2286; more are no seconds."""
_RFC3339: Final = re.compile(
    rb"([0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_LINE: Final = re.compile(rb"\r\n" + FIELD + rb": ([^\r]*)")
_LONGEST_SHOWN: Final = 40


def unix_ns_of(value: bytes) -> int:
    """The moment that a field's value names, in Unix nanoseconds. Raises `ValueError`, which says what to write."""
    found = _SECONDS.fullmatch(value)
    if found is not None:
        return int(found[1]) * 1_000_000_000 + _nanoseconds(found[2])
    found = _RFC3339.fullmatch(value)
    if found is not None:
        zone = "+00:00" if found[3] in b"Zz" else found[3].decode()
        try:
            seconds = dt.datetime.fromisoformat(found[1].decode().upper() + zone).timestamp()
        except ValueError as error:
            raise ValueError(_refusal(value)) from error
        return int(seconds) * 1_000_000_000 + _nanoseconds(found[2])
    raise ValueError(_refusal(value))


def written_in(lines: bytes) -> int:
    """The moment that the field names in some lines of a head, which `judge_alone` has let through; 0: it is not among them."""
    found = _LINE.search(lines)
    return unix_ns_of(found[1]) if found is not None else 0


def _nanoseconds(fraction: bytes | None) -> int:
    return int(fraction.ljust(9, b"0")) if fraction is not None else 0


def _refusal(value: bytes) -> str:
    shown = value[:_LONGEST_SHOWN].decode("latin-1")
    return (
        f"x-request-deadline: {shown!r} is no moment; write Unix seconds, such as 1764158400.25, "
        "or RFC 3339, such as 2025-11-26T12:00:00.25Z"
    )

"""W3C Trace Context: what a caller's `traceparent` and `tracestate` say, and what stands in their place. Pure.

A context with any doubt about it is none: the trace begins anew and the caller's state is dropped (level 1, 2.2 and 3.3).
"""

from __future__ import annotations

import re
from typing import Final

SAMPLED: Final = 1
_FLAGS: Final = 3
"""The bits that are passed on: sampled, and that the trace id is random (level 2)."""
_FIELD: Final = re.compile(rb"\r\n(traceparent|tracestate):[ \t]*([^\r\n]*)", re.IGNORECASE)
_PARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_KEY: Final = rb"(?:[a-z0-9][a-z0-9_*/@-]{0,255})"
_VALUE: Final = rb"(?:[ !-+\x2d-<>-~]{0,255}[!-+\x2d-<>-~])"
_STATE: Final = re.compile(rb"[ \t]*(?:%b=%b)?[ \t]*(?:,[ \t]*(?:%b=%b)?[ \t]*)*" % (_KEY, _VALUE, _KEY, _VALUE))
STATE_BYTES: Final = 512
"""As much of a state as everybody has to pass on; a longer one is dropped."""
STATE_MEMBERS: Final = 32


class Parent:
    """The span of a caller that a request belongs to."""

    __slots__ = ("flags", "span", "state", "trace")

    def __init__(self, trace: int, span: int, flags: int, state: bytes) -> None:
        """`state`: `tracestate` as it came; empty for none, or one that makes no sense."""
        self.trace = trace
        self.span = span
        self.flags = flags
        self.state = state


def taken_out(fields: bytes) -> tuple[bytes, Parent | None]:
    """(`fields` without trace context, the parent that they name) of header fields, each behind a CR LF."""
    found = _FIELD.findall(fields)
    if not found:
        return fields, None
    parents = [value for name, value in found if name.lower() == b"traceparent"]
    states = [value for name, value in found if name.lower() == b"tracestate"]
    parent = _parse(parents[0].rstrip(b" \t"), b",".join(states)) if len(parents) == 1 else None
    return _FIELD.sub(b"", fields), parent


def _parse(text: bytes, state: bytes) -> Parent | None:
    match = _PARENT.fullmatch(text)
    if match is None:
        return None
    version, trace, span, flags, more = match.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    if not int(trace, 16) or not int(span, 16):
        return None
    return Parent(int(trace, 16), int(span, 16), int(flags, 16) & _FLAGS, state if _is_state(state) else b"")


def _is_state(state: bytes) -> bool:
    return len(state) <= STATE_BYTES and state.count(b",") < STATE_MEMBERS and _STATE.fullmatch(state) is not None


def fields_of(trace: int, span: int, flags: int, state: bytes) -> bytes:
    """The fields that say so, each behind a CR LF."""
    text = b"\r\ntraceparent: 00-%032x-%016x-%02x" % (trace, span, flags)
    return text + b"\r\ntracestate: " + state if state else text

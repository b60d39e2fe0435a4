"""Do two answers say the same? Status first, then the bodies by what they mean, and in words where they first differ.

Bodies that were kept whole are compared as event streams or JSON where both sides are that, else as bytes; longer ones
by length and SHA-256. Different content encodings are compared as bytes: the encoding is part of the answer.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from typing import Any

KEEP_BYTES = 1 << 20
"""Bodies up to this size are kept and compared by meaning."""
_SHOWN = 60
"""Characters of a value that a difference shows: enough to recognise it, too few to copy a payload into the log."""


@dataclass(frozen=True, slots=True)
class Body:
    """A response body: `kept` whole, or, when that is None, its length and digest."""

    length: int
    kept: bytes | None
    sha256: str = ""
    """Hex; only needed when the body was not kept."""
    content_type: str = ""
    """Lower case, without parameters."""
    content_encoding: str = ""
    """Lower case; empty = identity."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The verdict, and in words the first difference (empty when equal)."""

    equal: bool
    difference: str = ""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Numbers a, b count as equal when |a − b| ≤ max(relative · max(|a|, |b|), absolute)."""

    relative: float = 1e-6
    absolute: float = 1e-12
    """So that rounding noise around zero is no difference."""


EQUAL = Comparison(equal=True)
_DEFAULT = Tolerance()


def compare(
    live_status: int, live: Body, shadow_status: int, shadow: Body, tolerance: Tolerance = _DEFAULT
) -> Comparison:
    """Compare the live answer with the candidate's."""
    if live_status != shadow_status:
        return Comparison(False, f"status: live {live_status}, candidate {shadow_status}")
    return compare_bodies(live, shadow, tolerance)


def compare_bodies(live: Body, shadow: Body, tolerance: Tolerance = _DEFAULT) -> Comparison:
    """Compare two bodies, whatever the statuses were."""
    if live.kept is None or shadow.kept is None:
        return _by_digest(live, shadow)
    if live.content_encoding != shadow.content_encoding:
        encodings = f"live {live.content_encoding or 'identity'}, candidate {shadow.content_encoding or 'identity'}"
        return EQUAL if live.kept == shadow.kept else Comparison(False, f"content-encoding: {encodings}")
    if live.kept == shadow.kept:
        return EQUAL
    ours, theirs = _decoded(live), _decoded(shadow)
    if ours is None or theirs is None:
        return _by_bytes(live.kept, shadow.kept)
    if live.content_type == shadow.content_type == "text/event-stream":
        return _by_events(ours, theirs, tolerance)
    return _by_meaning(ours, theirs, "body", tolerance)


def _by_digest(live: Body, shadow: Body) -> Comparison:
    if live.length != shadow.length:
        return Comparison(False, f"body: live {live.length} bytes, candidate {shadow.length} bytes")
    if live.sha256 != shadow.sha256:
        return Comparison(False, f"body: {live.length} bytes on both sides, but another SHA-256")
    return EQUAL


def _by_bytes(live: bytes, shadow: bytes) -> Comparison:
    if live == shadow:
        return EQUAL
    at = next((i for i, (a, b) in enumerate(zip(live, shadow, strict=False)) if a != b), min(len(live), len(shadow)))
    lengths = "" if len(live) == len(shadow) else f" (live {len(live)} bytes, candidate {len(shadow)})"
    return Comparison(False, f"body: first difference at byte {at}{lengths}")


def _decoded(body: Body) -> bytes | None:
    """The body without its content encoding; None when it is unknown, broken or unpacks beyond `KEEP_BYTES`."""
    if body.content_encoding in ("", "identity"):
        return body.kept
    if body.content_encoding not in ("gzip", "x-gzip", "deflate"):
        return None
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        plain = unpacker.decompress(body.kept or b"", KEEP_BYTES)
    except zlib.error:
        return None
    return plain if unpacker.eof and not unpacker.unused_data else None


_NOT_JSON = object()


def _parsed(data: bytes | str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return _NOT_JSON


def _by_meaning(live: bytes, shadow: bytes, where: str, tolerance: Tolerance) -> Comparison:
    ours, theirs = _parsed(live), _parsed(shadow)
    if ours is _NOT_JSON or theirs is _NOT_JSON:
        found = _by_bytes(live, shadow)
        return found if found.equal else Comparison(False, found.difference.replace("body", where, 1))
    difference = first_difference(ours, theirs, tolerance)
    return EQUAL if difference is None else Comparison(False, f"{where}: {difference}")


def first_difference(live: Any, shadow: Any, tolerance: Tolerance = _DEFAULT) -> str | None:
    """Where two JSON values first differ, in document order of the live one; None when nowhere.

    Key order does not matter, 1 equals 1.0, NaN equals NaN, and true is not 1. The walk keeps its own stack: nesting is
    the sender's choice, the interpreter's recursion limit is not.
    """
    pending: list[tuple[str, Any, Any]] = [("$", live, shadow)]
    while pending:
        path, ours, theirs = pending.pop()
        if isinstance(ours, dict) and isinstance(theirs, dict):
            for side, has, lacks in (("live", ours, theirs), ("candidate", theirs, ours)):
                only = next((key for key in has if key not in lacks), None)
                if only is not None:
                    return f"{_step(path, only)} is only in the {side} answer"
            pending.extend((_step(path, key), ours[key], theirs[key]) for key in reversed(ours))
        elif isinstance(ours, list) and isinstance(theirs, list):
            if len(ours) != len(theirs):
                return f"{path} has {len(ours)} items live, {len(theirs)} in the candidate's"
            pending.extend((f"{path}[{i}]", ours[i], theirs[i]) for i in reversed(range(len(ours))))
        elif not _same(ours, theirs, tolerance):
            return f"{path} is {_shown(ours)} live, {_shown(theirs)} in the candidate's"
    return None


def _same(live: Any, shadow: Any, tolerance: Tolerance) -> bool:
    if isinstance(live, bool) or isinstance(shadow, bool) or not _numbers(live, shadow):
        return type(live) is type(shadow) and bool(live == shadow)
    if live == shadow or (live != live and shadow != shadow):  # noqa: PLR0124 -- only NaN differs from itself
        return True
    try:
        return math.isclose(live, shadow, rel_tol=tolerance.relative, abs_tol=tolerance.absolute)
    except OverflowError:  # an integer beyond every float
        return False


def _numbers(*values: Any) -> bool:
    return all(isinstance(value, (int, float)) for value in values)


def _step(path: str, key: str) -> str:
    return f"{path}.{key}" if key.isidentifier() and len(key) <= _SHOWN else f"{path}[{_shown(key)}]"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object of {len(value)} keys"
    if isinstance(value, list):
        return f"a list of {len(value)} items"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str):
        value = value if len(value) <= _SHOWN else value[:_SHOWN] + "…"
    return json.dumps(value, ensure_ascii=False)


# event streams ----------------------------------------------------------------------------------------------------


def events_of(stream: bytes) -> list[tuple[str, str]]:
    """(event type, data) of every complete event of a server-sent event stream; comments, ids and retries are left out.

    Rules: WHATWG HTML, "Server-sent events", interpretation of an event stream. An unfinished last event counts here,
    because a truncated stream is a difference worth seeing.
    """
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    events: list[tuple[str, str]] = []
    kind, data = "", list[str]()
    for line in [*text.split("\n"), ""]:
        if not line:
            if data:
                events.append((kind or "message", "\n".join(data)))
            kind, data = "", []
            continue
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
        elif name == "event":
            kind = value.removeprefix(" ")
    return events


def _by_events(live: bytes, shadow: bytes, tolerance: Tolerance) -> Comparison:
    ours, theirs = events_of(live), events_of(shadow)
    for number, ((kind, data), (other_kind, other_data)) in enumerate(zip(ours, theirs, strict=False), start=1):
        if kind != other_kind:
            difference = f"event {number} is {_shown(kind)} live, {_shown(other_kind)} in the candidate's"
            return Comparison(False, difference)
        if data != other_data:
            found = _by_meaning(data.encode(), other_data.encode(), f"event {number}", tolerance)
            if not found.equal:
                return found
    if len(ours) != len(theirs):
        return Comparison(False, f"events: live {len(ours)}, candidate {len(theirs)}")
    return EQUAL

"""Heads that differ in one line: what such a head means is known by its two ends, and the line between them is judged alone.

Callers that write a `traceparent` of its own into each request write the rest of the head as they wrote it before, so that two
comparisons do what taking all lines apart and looking each of them up would do, at half the cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.policy.headers import judge_alone

if TYPE_CHECKING:
    from router.gateway.calls import Call
    from router.gateway.routes import Endpoint

_MOST: Final = 16_384
_MOST_BYTES: Final = 4 << 20


class Template:
    """A head but for one line, and the call that it makes without that line."""

    __slots__ = ("after", "before", "call", "name")

    def __init__(self, before: bytes, after: bytes, name: bytes, call: Call) -> None:
        """`name`: of the line's field, in lower case; the rest of the head has none of that name."""
        self.before = before
        self.after = after
        self.name = name
        self.call = call

    def read(self, raw: bytes) -> tuple[int, bytes] | None:
        """(length of the body, end of the head for the replica) of `raw`; None where that is for others to say."""
        start, end = len(self.before), len(raw) - len(self.after)
        if end <= start or not raw.startswith(self.before) or not raw.endswith(self.after):
            return None
        judged = judge_alone(raw[start:end])
        if judged is None or judged[0] != self.name:
            return None
        call, length = self.call, judged[2]
        if length < 0:
            length = call.length
        elif call.endpoint is not None and length > call.endpoint.max_body:
            return None
        return length, b"".join((call.after_peer[:-2], judged[1], b"\r\n"))


class Templates:
    """The last one of each request line."""

    __slots__ = ("_bytes", "_known")

    def __init__(self) -> None:
        self._known: dict[bytes, Template] = {}
        self._bytes = 0

    def of(self, raw: bytes) -> Template | None:
        """The one that `raw` may fit."""
        return self._known.get(raw[: raw.find(b"\r\n")])

    def learn(self, raw: bytes, line: bytes, name: bytes, call: Call) -> None:
        """`raw` has been judged: without `line`, which has the field `name` and stands in it once, it makes `call`."""
        at = raw.find(b"\r\n" + line + b"\r\n") + 2
        if len(self._known) >= _MOST or self._bytes >= _MOST_BYTES:
            self.clear()
        first, size = raw[: raw.find(b"\r\n")], len(raw) - len(line)
        before = self._known.pop(first, None)
        if before is not None:
            self._bytes -= len(before.before) + len(before.after)
        self._known[first] = Template(raw[:at], raw[at + len(line) :], name, call)
        self._bytes += size

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()
        self._bytes = 0

    def forget(self, endpoint: Endpoint) -> None:
        """Those of `endpoint`."""
        for first in [first for first, one in self._known.items() if one.call.endpoint is endpoint]:
            gone = self._known.pop(first)
            self._bytes -= len(gone.before) + len(gone.after)

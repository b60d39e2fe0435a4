"""What tells callers apart in a request; and callers that stay with one deployment: whose hundredth of the callers they are.

Who cannot be told apart goes by the exact split. Where a cookie tells callers apart, those without one are split exactly
too and get a cookie that keeps them where they came.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from router.policy.cohorts import PARTS, Cohorts, part_of

if TYPE_CHECKING:
    from router.contract.parts import Stickiness
    from router.gateway.calls import Call
    from router.gateway.lane import Lane

_ATTRIBUTES = b"; Path=/; HttpOnly; SameSite=Lax\r\n"


class Telling:
    """What tells callers apart: a header, a cookie, or the address that they come from."""

    __slots__ = ("_field", "_name", "_value", "by")

    def __init__(self, by: str, name: str) -> None:
        self.by = by
        self._name = name.encode()
        field = b"cookie" if by == "cookie" else self._name
        self._field = re.compile(rb"\r\n" + re.escape(field) + rb":[ \t]*([^\r]*)", re.IGNORECASE)
        self._value = re.compile(rb"(?:^|;)[ \t]*" + re.escape(self._name) + rb"=([^;]*)")

    def caller(self, call: Call, after_peer: bytes, peer: bytes) -> bytes:
        """Whoever makes `call` from the address `peer`; empty: nobody can tell."""
        if self.by == "client":
            return peer
        found = self._field.findall(call.for_replica(b"", b"", after_peer))
        if self.by != "cookie":
            return b", ".join(found)
        for line in found:
            value = self._value.search(line)
            if value is not None:
                return value[1].strip()
        return b""

    def cookie(self, value: bytes) -> bytes:
        """The field of an answer that lets its caller be told from others by `value`."""
        return b"set-cookie: " + self._name + b"=" + value + _ATTRIBUTES


class Stick:
    """How one endpoint keeps callers together."""

    __slots__ = ("_endpoint", "_lanes", "_telling")

    def __init__(self, endpoint: str, rule: Stickiness, cohorts: Cohorts, lanes: Mapping[str, Lane]) -> None:
        self._endpoint = endpoint
        self._telling = Telling(rule.by, rule.name)
        self._lanes: list[Lane | None] = [None] * PARTS
        for name, parts in cohorts.items():
            lane = lanes.get(name)
            if lane is not None and lane.weight > 0:
                for part in parts:
                    self._lanes[part] = lane

    def lane_of(self, call: Call, after_peer: bytes, peer: bytes) -> Lane | None:
        """The deployment of whoever makes `call` from the address `peer`; None: split it."""
        caller = self._telling.caller(call, after_peer, peer)
        return self._lanes[part_of(self._endpoint, caller)] if caller else None

    def cookie(self, lane: Lane, request_id: bytes) -> bytes:
        """The field of the answer that keeps a caller who had no cookie at `lane`; empty where nothing does."""
        if self._telling.by != "cookie" or lane not in self._lanes:
            return b""
        number = 0  # a value is as good as another: the first whose hundredth is the deployment's
        while self._lanes[part_of(self._endpoint, value := b"%b-%d" % (request_id, number))] is not lane:
            number += 1
        return self._telling.cookie(value)

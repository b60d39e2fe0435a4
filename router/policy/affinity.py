"""Which replica has had a request's like before: consistent hashing with bounded loads.

Each replica has 128 points on a ring that its id alone decides, so the ring is the same in every worker and after every
restart, and a replica that comes or goes moves its own share of the keys and nothing else (Karger and others, STOC 1997).
A key goes to the first replica from its point on that has fewer requests in flight than ⌈bound × mean⌉, the one to come
counted (Mirrokni, Thorup and Zadimoghaddam, SODA 2018): a key that everybody uses spreads as far as it must, no further.
"""

from __future__ import annotations

import math
import re
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from hashlib import blake2b

POINTS = 128
"""Per replica: shares of the ring differ by about 1/√128 = 9 %."""
MOST_STEPS = 64
"""Points that are tried for a request: at a bound of 1.25 nearly all find their replica within a few."""
_PER_DIGEST = 8
_WORDS = struct.Struct(">8Q")
LOOKED_AT_BYTES = 65_536
"""Of a body."""
_BLANKS = rb"[ \t\r\n]*"
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def hash_of(key: bytes) -> int:
    """Where `key` is on the ring: 64 bits."""
    return int.from_bytes(blake2b(key, digest_size=8, person=b"affinity").digest())


def points_of(replica: str) -> list[int]:
    """The points of a replica, in order."""
    name = replica.encode()
    found: list[int] = []
    for number in range(POINTS // _PER_DIGEST):
        found += _WORDS.unpack(blake2b(name, salt=number.to_bytes(2), person=b"replica").digest())
    return sorted(found)


def most(bound: float, in_flight: int, replicas: int) -> int:
    """Most requests in flight at one of `replicas`, of `in_flight` in all with the one to come."""
    return max(1, math.ceil(bound * in_flight / replicas - 1e-9))


class Ring:
    """The replicas on the ring. Never changed: `changed` makes another, at the cost of what differs."""

    __slots__ = ("_owners", "_points", "replicas")

    def __init__(self) -> None:
        self.replicas: frozenset[str] = frozenset()
        self._points: list[int] = []
        self._owners: dict[int, str] = {}

    def changed(self, replicas: Iterable[str]) -> Ring:
        """The ring of these replicas."""
        ring = Ring()
        ring.replicas = frozenset(replicas)
        if ring.replicas == self.replicas:
            return self
        owners = self._owners.copy()
        gone = {point for replica in self.replicas - ring.replicas for point in points_of(replica)}
        points = [point for point in self._points if point not in gone] if gone else self._points[:]
        for point in gone:
            owners.pop(point, None)
        for replica in ring.replicas - self.replicas:
            fresh = points_of(replica)
            owners.update(dict.fromkeys(fresh, replica))
            points += fresh
        points.sort()  # runs that are in order already: they are merged
        ring._points, ring._owners = points, owners
        return ring

    def from_point(self, key: int) -> Iterator[str]:
        """Replicas in the order in which the key prefers them, one for each point: some come again."""
        points, owners = self._points, self._owners
        count = len(points)
        at = bisect_left(points, key)
        for step in range(min(count, MOST_STEPS)):
            yield owners[points[(at + step) % count]]

    def owner(self, key: int) -> str:
        """The replica that the key prefers; the ring must have one."""
        at = bisect_left(self._points, key)
        return self._owners[self._points[at if at < len(self._points) else 0]]


class Prefix:
    """The first bytes of a body, or of the value of one of its JSON keys, without parsing it.

    A value's bytes as they were sent, from its first one on: of a string up to its closing quote, of anything else
    `prefix_bytes` of whatever follows. The key is the first in the body that is written so, at whatever depth.
    """

    __slots__ = ("_bytes", "_field")

    def __init__(self, json_field: str, prefix_bytes: int) -> None:
        self._bytes = prefix_bytes
        field = rb'"' + re.escape(json_field.encode()) + rb'"' + _BLANKS + rb":" + _BLANKS + rb"(?=[^ \t\r\n])"
        self._field = re.compile(field) if json_field else None

    def of(self, body: bytes) -> tuple[bytes, bool]:
        """(what tells the request apart, empty where nothing does; whether more of the body would not change it)."""
        if self._field is None:
            value = body[: self._bytes]
            return value, len(value) == self._bytes
        found = self._field.search(body, 0, LOOKED_AT_BYTES)
        if found is None:
            return b"", len(body) >= LOOKED_AT_BYTES
        value = body[found.end() : found.end() + self._bytes]
        whole = _STRING.match(value)
        if whole is not None:
            return whole[0], True
        return value, len(value) == self._bytes

"""Requests that go where their like went before, as one worker sees them (`policy.affinity`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.contract.choosing import PREFIX_BYTES
from router.gateway.sticking import Telling
from router.policy.affinity import LOOKED_AT_BYTES, POINTS, Prefix, Ring, hash_of, most

if TYPE_CHECKING:
    from collections.abc import Mapping

    from router.contract.choosing import Affinity
    from router.gateway.exchange import Exchange
    from router.gateway.replicas import Replicas
    from router.gateway.tally import Tally
    from router.gateway.target import Target

WAIT_NS = 100_000_000
"""For the bytes of a body that tell requests apart: most clients send them right behind the head, in a packet of their own."""
_TRIES = 4 * POINTS
"""Values of a cookie that are tried for one that leads to a replica, per replica."""


class Nearness:
    """Which replica of one deployment suits a request."""

    __slots__ = ("_bound", "_prefix", "_replicas", "_tally", "_targets", "_telling", "ring")

    def __init__(self, replicas: Replicas, tally: Tally, rule: Affinity) -> None:
        self._replicas = replicas
        self._tally = tally
        self._bound = rule.bound
        self._telling = Telling(rule.by, rule.name)
        self._prefix: Prefix | None = None
        if rule.by == "body":
            self._prefix = Prefix(rule.json_field, rule.prefix_bytes or PREFIX_BYTES)
        self._targets: dict[str, Target] = {}
        self.ring = Ring()

    def renew(self, ready: list[Target], before: Nearness | None) -> None:
        """These are ready now. One that is left alone keeps its part of the ring, for when it is back."""
        self._targets = {target.id: target for target in ready}
        self.ring = (before or self).ring.changed(self._targets)

    def lacks(self, exchange: Exchange) -> bool:
        """Whether bytes that are still to come could say where `exchange` belongs."""
        if self._prefix is None or exchange.request.complete or exchange.call.expects_continue:
            return False
        body = exchange.request.begun()
        return len(body) < LOOKED_AT_BYTES and not self._prefix.of(body)[1]

    def key(self, exchange: Exchange) -> bytes:
        """What tells `exchange` apart; empty where nothing does."""
        if self._prefix is not None:
            return self._prefix.of(exchange.request.begun())[0]
        return exchange.told_by(self._telling)

    def claim(self, key: bytes, shares: Mapping[str, float] | None) -> Target | None:
        """A place at the first replica that the key prefers and that carries less than it may; None: at none of those tried.

        `shares`: of replicas that are new, where some are; they may carry that much of what the others may.
        """
        replicas = self._replicas
        concurrency = replicas.concurrency
        limit = most(self._bound, self._tally.present_everywhere(), len(replicas.usable))
        last: Target | None = None
        for replica in self.ring.from_point(hash_of(key)):
            target = self._targets[replica]
            if target is last or target.standing.out is not None:
                continue
            last = target
            mine = limit if shares is None else max(1, int(limit * shares[replica]))
            mine = min(mine, concurrency)
            if target.load() < mine and target.claim(mine):
                return target
        return None

    def cookie(self, target: Target, request_id: bytes) -> bytes:
        """The field of the answer that brings a caller without the cookie to `target` again; empty without cookies."""
        if self._telling.by != "cookie":
            return b""
        value = request_id
        for number in range(_TRIES * len(self._targets)):  # a value is as good as another: the first that leads there
            value = b"%b-%d" % (request_id, number)
            if self.ring.owner(hash_of(value)) == target.id:
                break
        return self._telling.cookie(value)

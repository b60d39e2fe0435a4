"""How a replica is picked where the deployment asks for more than the less loaded of two.

A deployment without such a wish has no chooser. Whatever is wished for, a request that could be sent does not wait: when those
that suit it are full, any replica with a place will do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.gateway.affinity import Nearness
from router.gateway.nearby import Nearby
from router.gateway.warmth import Warmth
from router.policy.balancing import least_loaded, two_of
from router.policy.warming import lighter, two_by_share

if TYPE_CHECKING:
    from router.contract.parts import DeploymentExtras
    from router.gateway.exchange import Exchange
    from router.gateway.replicas import Replicas
    from router.gateway.state import State
    from router.gateway.tally import Tally
    from router.gateway.target import Target


def chooser_for(state: State, replicas: Replicas, tally: Tally, extras: DeploymentExtras) -> Chooser | None:
    """What `extras` wish for; None where that is nothing."""
    if not extras.slow_start_seconds and extras.affinity is None and not state.settings.zone:
        return None
    chooser = Chooser(state, replicas, tally, extras)
    chooser.renew(replicas.chooser)
    return chooser


class Chooser:
    """The wishes of one deployment, in one worker."""

    __slots__ = ("_nearby", "_nearness", "_replicas", "_state", "_warmth")

    def __init__(self, state: State, replicas: Replicas, tally: Tally, extras: DeploymentExtras) -> None:
        self._state = state
        self._replicas = replicas
        self._warmth = Warmth(extras.slow_start_seconds)
        self._nearby = Nearby(state.settings.zone) if state.settings.zone else None
        self._nearness = Nearness(replicas, tally, extras.affinity) if extras.affinity is not None else None

    def renew(self, before: Chooser | None) -> None:
        """Take the present replicas, and what is known about them from the chooser `before`."""
        ready = self._replicas.ready
        self._warmth.renew(ready, before._warmth if before is not None else None)
        if self._nearness is not None:
            self._nearness.renew(ready, before._nearness if before is not None else None)

    def lacks(self, exchange: Exchange) -> bool:
        """Whether it takes more of the request's body to know where it belongs."""
        return self._nearness is not None and self._nearness.lacks(exchange)

    def claim(self, exchange: Exchange) -> Target | None:
        """A place for `exchange`; None where every replica is full."""
        replicas, nearness = self._replicas, self._nearness
        usable = replicas.usable
        if len(usable) < 2:
            return replicas.claim()
        uneven = self._warmth.is_uneven(usable)
        key = nearness.key(exchange) if nearness is not None else b""
        if nearness is not None and key:
            target = nearness.claim(key, self._warmth.share_of if uneven else None)
            return target if target is not None else self._least_loaded(usable)
        target = self._near_by(usable)
        if target is None:
            target = self._by_share(usable, self._warmth) if uneven else None
        target = target if target is not None else replicas.claim()
        if nearness is not None and target is not None:
            exchange.reply.add_cookie(nearness.cookie(target, exchange.request_id))
        return target

    def _near_by(self, usable: list[Target]) -> Target | None:
        """A place in the zone whose turn it is, the gateway's own as far as that carries it; None where none is free."""
        nearby, state = self._nearby, self._state
        found = nearby.group(usable, self._warmth, state.chance()) if nearby is not None else None
        if found is None:
            return None
        near, warmth = found
        concurrency = self._replicas.concurrency
        if len(near) == 1:
            return near[0] if near[0].claim(concurrency) else None
        if warmth.is_uneven(near):
            target = self._by_share(near, warmth)
        else:
            one, other = two_of(len(near), state.chance(), state.chance())
            target = near[one] if near[one].load() <= near[other].load() else near[other]
            target = target if target.claim(concurrency) else None
        return target if target is not None else self._least_loaded(near)

    def _least_loaded(self, usable: list[Target]) -> Target | None:
        """Its load is never above the mean, so it is within any bound."""
        best = least_loaded([target.load() for target in usable], self._replicas.concurrency)
        return usable[best] if best is not None and usable[best].claim(self._replicas.concurrency) else None

    def _by_share(self, usable: list[Target], warmth: Warmth) -> Target | None:
        """A place at one of two drawn by their shares."""
        chance, concurrency = self._state.chance, self._replicas.concurrency
        one, other = two_by_share(warmth.sums, chance(), chance())
        first, second = usable[one], usable[other]
        if not lighter(first.load(), warmth.shares[one], second.load(), warmth.shares[other]):
            first, second = second, first
        if first.claim(concurrency):
            return first
        return second if second.claim(concurrency) else None

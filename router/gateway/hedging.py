"""Requests that are slow to be answered and are sent to a second replica too; the first head wins (`policy.hedging`).

Only what is at hand whole is sent twice, where another replica has a place that nobody waits for, and once. The second
replica's place is its own, the request counts once: in the record, in demand, in admission. Who loses is cut off
without blame. When one of the two fails before either has answered, the other goes on alone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from router.gateway.demand import bucket_of_ns
from router.policy.balancing import two_of
from router.policy.hedging import Allowance, Typical
from router.policy.retrying import Failure

if TYPE_CHECKING:
    from router.contract.choosing import Hedging
    from router.gateway.ends import Far
    from router.gateway.exchange import Exchange
    from router.gateway.lane import Lane
    from router.gateway.state import State
    from router.gateway.target import Target


class Second:
    """The second try of one request."""

    __slots__ = ("exchange", "over", "target", "up")

    def __init__(self, exchange: Exchange, target: Target) -> None:
        self.exchange = exchange
        self.target = target
        self.up: Far | None = None
        self.over = False


class Hedges:
    """Of one lane. It stays when a revision asks for no more of them: those under way are still to be ended."""

    __slots__ = ("_allowance", "_fixed_ns", "_lane", "_rule", "_seconds", "_state", "_typical")

    def __init__(self, state: State, lane: Lane) -> None:
        self._state = state
        self._lane = lane
        self._rule: Hedging | None = None
        self._fixed_ns = 0
        self._typical: Typical | None = None
        self._allowance = Allowance(0)
        self._seconds: dict[Exchange, Second] = {}

    def follow(self, rule: Hedging | None) -> None:
        """What the deployment asks for from now on."""
        if rule == self._rule:
            return
        self._rule = rule
        self._fixed_ns = int((rule.after_ms or 0) * 1e6) if rule is not None else 0
        self._typical = Typical(rule.percentile) if rule is not None and rule.percentile is not None else None
        self._allowance = Allowance(rule.budget_percent if rule is not None else 0)

    # Before an answer -----------------------------------------------------------------------------------------------

    def look(self, exchange: Exchange, now: int) -> None:
        """The whole request is at its replica: send it to a second one if it is time, else when it is."""
        delay = self._typical.delay_ns if self._typical is not None else self._fixed_ns
        if self._rule is None or not delay or exchange in self._seconds or not exchange.request.is_at_hand():
            return
        if exchange.call.websocket is not None:  # what begins a conversation is sent once
            return
        due = max(exchange.dispatched, exchange.request.whole) + delay
        if now >= due:
            self._begin(exchange)
        elif due < exchange.down.deadline:
            self._state.wheel.arm(exchange.down, due)

    def _begin(self, exchange: Exchange) -> None:
        lane = self._lane
        others = [target for target in lane.replicas.usable if target is not exchange.target]
        if not others or lane.queue.waiting or not self._allowance.spend():
            return
        target = others[0]
        if len(others) > 1:
            one, other = two_of(len(others), self._state.chance(), self._state.chance())
            target = others[one] if others[one].load() <= others[other].load() else others[other]
        if not target.claim(lane.replicas.concurrency):
            return
        second = self._seconds[exchange] = Second(exchange, target)
        self._state.counters.hedged += 1
        place = target.take()
        if place is not None:
            self._send(second, place)
        else:
            task = asyncio.get_running_loop().create_task(self._connect(second), name=f"connect {target.id}")
            target.keep(task)

    async def _connect(self, second: Second) -> None:
        if not await second.target.knock():
            second.target.standing.unreachable()
        place = second.target.take() if not second.over else None
        if place is not None:
            self._send(second, place)
        elif not second.over:
            self._end(second)

    @staticmethod
    def _send(second: Second, place: Far) -> None:
        second.up = place
        second.exchange.repeat(place)

    # How it ends ----------------------------------------------------------------------------------------------------

    def settle(self, exchange: Exchange, up: Far, now: int) -> None:
        """`up` has answered first: the other one is cut off."""
        self._allowance.earn()
        if self._typical is not None:
            self._typical.add(bucket_of_ns(now - max(exchange.dispatched, exchange.request.whole)), now)
        second = self._seconds.pop(exchange, None)
        if second is None or second.over:
            return
        if second.up is up:
            self._state.counters.hedges_won += 1
            self._promote(second)
        else:
            self._end(second)

    def cancel(self, exchange: Exchange) -> None:
        """The request is over without an answer of a replica."""
        second = self._seconds.pop(exchange, None)
        if second is not None and not second.over:
            self._end(second)

    def outlives(self, exchange: Exchange, failure: Failure) -> bool:
        """One of the two replicas has failed, as whose connection carries nothing any more: whether the other goes on."""
        second = self._seconds.get(exchange)
        if second is None or second.over:
            self._seconds.pop(exchange, None)
            return False
        if second.up is not None and second.up.exchange is None:
            _blame(second.target, failure)
            self._end(second)
            return True
        if second.up is None:  # it is still being connected: the request has better ways to go on
            self.cancel(exchange)
            return False
        first = exchange.target
        self._promote(second)
        if first is not None:
            _blame(first, failure)
        return True

    def _promote(self, second: Second) -> None:
        """It is the request's replica from now on."""
        second.over = True
        assert second.up is not None
        self._lane.release(second.exchange.move_to(second.target, second.up))

    def _end(self, second: Second) -> None:
        second.over = True
        up, second.up = second.up, None
        if up is not None:
            up.exchange = None
            up.close()
        self._lane.release(second.target)


def _blame(target: Target, failure: Failure) -> None:
    if failure is Failure.DIED:
        target.standing.erred()
        target.standing.unreachable()

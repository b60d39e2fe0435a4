"""The replicas of one deployment as this worker sees them: which are ready, which get requests, which have to leave.

`ready` and `usable` are made anew for each change: who works something out from one sees by that when it is out of date. A replica
that is gone from the snapshots stays until what it has in flight has ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from router.contract.events import Replica, ReplicaState
from router.gateway.board import Quantity
from router.gateway.comparing import Comparison
from router.gateway.http2.target import Http2Target
from router.gateway.standing import Out
from router.gateway.target import Target
from router.gateway.tunnel import leave_draining
from router.policy.balancing import least_loaded, two_of

if TYPE_CHECKING:
    from router.contract.specs import DeploymentExtras, RequestSettings
    from router.gateway.choosing import Chooser
    from router.gateway.exchange import Exchange
    from router.gateway.lane import Lane
    from router.gateway.state import State


class Replicas:
    """Of one lane, which hears of every change."""

    __slots__ = (
        "_closed", "_good_of_gone", "_lane", "_name", "_state", "_targets", "chooser", "comparison", "concurrency", "deployment",
        "drain_ns", "http2", "ready", "secure", "server_name", "usable",
    )  # fmt: skip

    def __init__(self, state: State, lane: Lane, name: str) -> None:
        """`name`: on the board."""
        self._state = state
        self._lane = lane
        self._name = name
        self.deployment = lane.name
        self._targets: dict[str, Target] = {}
        self.ready: list[Target] = []
        self.usable: list[Target] = []
        """Ready and not ejected."""
        self.chooser: Chooser | None = None
        """Where the deployment wishes for more than the less loaded of two replicas."""
        self.comparison = Comparison(self)
        self._good_of_gone = 0
        """Good answers of replicas that are gone."""
        self._closed = False

    def configure(self, settings: RequestSettings, extras: DeploymentExtras) -> None:
        """How they are spoken to; connections that there are stay as they are."""
        self.concurrency = settings.max_concurrent_requests_per_instance
        self.http2 = extras.protocol == "http2"
        """They speak HTTP/2, from the first they send."""
        self.secure = extras.scheme == "https"
        self.server_name = extras.server_name
        """The name in their certificates; None: their addresses."""
        self.drain_ns = int(extras.drain_seconds * 1e9)
        """Longest time that one is left to finish what it has."""

    # A place --------------------------------------------------------------------------------------------------------

    def claim_for(self, exchange: Exchange) -> Target | None:
        """A place for `exchange`, as the deployment wishes; None where every replica is full."""
        return self.claim() if self.chooser is None else self.chooser.claim(exchange)

    def claim(self) -> Target | None:
        """A place at the less loaded of two replicas, or at any that has one."""
        usable, concurrency = self.usable, self.concurrency
        count = len(usable)
        if count == 1:
            target = usable[0]
            return target if target.claim(concurrency) else None
        if not count:
            return None
        chance = self._state.chance
        one, other = two_of(count, chance(), chance())
        first, second = usable[one], usable[other]
        if second.load() < first.load():
            first, second = second, first
        if first.claim(concurrency):
            return first
        if second.claim(concurrency):
            return second
        best = least_loaded([target.load() for target in usable], concurrency) if count > 2 else None
        return usable[best] if best is not None and usable[best].claim(concurrency) else None

    # What the snapshots say -----------------------------------------------------------------------------------------

    def apply(self, replicas: Iterable[Replica]) -> None:
        """Take a new set, which counts from the next `refresh`. Whoever is gone finishes what it has in flight."""
        wanted = {replica.id: replica for replica in replicas}
        for replica_id in [one for one in self._targets if one not in wanted]:
            self._dismiss(self._targets[replica_id])
        self.ready = [self._apply_one(one) for one in wanted.values() if self._routable(one)]
        if self.chooser is not None:
            self.chooser.renew(self.chooser)

    def _routable(self, replica: Replica) -> bool:
        """Whether it may get requests; one that drains is told so."""
        if replica.state is ReplicaState.READY:
            return True
        target = self._targets.get(replica.id)
        if target is None and replica.state is ReplicaState.DRAINING:
            target = self._apply_one(replica)
        if target is not None:
            draining = replica.state is ReplicaState.DRAINING
            if draining and not target.draining:
                leave_draining(self._state.tunnels, target)
            target.draining = draining
            target.drop_idle()
            target.standing.trust_again()
        return False

    def _apply_one(self, replica: Replica) -> Target:
        address = (replica.host, replica.port)
        target = self._targets.get(replica.id)
        if target is None:
            column = self._state.board.column(self._column_name(replica.id), Quantity.GAUGE)
            kind = Http2Target if self.http2 else Target
            target = kind(self._state, self, replica.id, address, column)
            self._targets[replica.id] = target
        elif target.address != address:
            target.address = address
            target.drop_idle()
            target.standing.trust_again()
        elif target not in self.ready:
            target.standing.trust_again()
        target.present, target.draining, target.ready_ns = True, False, replica.ready_ns
        target.zone = replica.zone
        return target

    def _column_name(self, replica_id: str) -> str:
        return f"{self._name}/{replica_id}"

    # Who gets requests ----------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Recompute who may get requests, and tell the lane."""
        had = bool(self.usable)
        self.usable = [target for target in self.ready if target.standing.out is None]
        if not self.usable:
            for target in self.ready:
                target.standing.pardon()
            self.usable = [target for target in self.ready if target.standing.out is None]
        self._lane.replicas_changed(had=had)

    def left_alone(self, why: Out) -> None:
        """Count that a replica gets no requests for a while."""
        counters = self._state.counters
        if why is Out.UNREACHABLE:
            counters.unreachable += 1
        elif why is Out.ERRING:
            counters.erring += 1
        else:
            counters.lagging += 1

    @property
    def good(self) -> int:
        """Good answers since the start; asked for when something has gone wrong."""
        return self._good_of_gone + sum([target.good for target in self._targets.values()])

    # Who leaves -----------------------------------------------------------------------------------------------------

    def draining(self) -> list[tuple[str, int]]:
        """(replica, requests in flight here) of every replica that drains; all do whose deployment is gone."""
        targets = self._targets.values()
        return [(one.id, one.in_flight) for one in targets if self._closed or (one.draining and one.present)]

    def are_gone(self) -> bool:
        """Whether there is none any more, nor any that is left to finish."""
        return not self._targets

    def _dismiss(self, target: Target) -> None:
        target.present = False
        target.drop_idle()
        if not target.in_flight:
            self.retire(target)

    def retire(self, target: Target) -> None:
        """Forget a replica that is gone and has nothing in flight any more."""
        if self._targets.get(target.id) is target and not target.present:
            del self._targets[target.id]
            self._good_of_gone += target.good
            self.comparison.gone(target)
            target.close()
            self._state.board.let_go(self._column_name(target.id), Quantity.GAUGE)
            self._lane.end_if_over()

    def spare(self, most: int) -> int:
        """Close connections that carry nothing, those that have done so for longest, but not more; how many there were."""
        count = 0
        for target in self._targets.values():
            for connection in target.idle[: most - count]:
                connection.close()
                count += 1
        return count

    def close(self) -> None:
        """The deployment is gone: each goes once it carries nothing."""
        self._closed = True
        for target in list(self._targets.values()):
            self._dismiss(target)

    def abort(self) -> None:
        """Close every connection now."""
        for target in list(self._targets.values()):
            target.close()

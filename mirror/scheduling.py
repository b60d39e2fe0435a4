"""Which shadow goes to which replica next: one lane per candidate, bounded in flight and in waiting.

Decides with values only. A lane runs at most `per_replica` shadows on each ready replica; all lanes together stay within
the overall bounds, and while several lanes are busy none of them takes more than its equal share of what is left to take.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, TypeVar

from router.contract.events import Replica, ReplicaState

LaneKey = tuple[str, str]
"""(endpoint, lower-case candidate)."""
T = TypeVar("T", bound=Hashable)


class _Lane(Generic[T]):
    __slots__ = ("in_flight", "per_replica", "ready", "total", "waiting")

    def __init__(self) -> None:
        self.ready: tuple[Replica, ...] = ()
        self.per_replica = 1
        self.in_flight: dict[str, int] = {}
        """Replica id → shadows on it; only above zero."""
        self.waiting: dict[T, None] = {}
        """In order of arrival."""
        self.total = 0

    def pick(self) -> Replica | None:
        """The ready replica with the least in flight that has room."""
        best: Replica | None = None
        least = self.per_replica
        for replica in self.ready:
            load = self.in_flight.get(replica.id, 0)
            if load < least:
                best, least = replica, load
        return best


class Scheduler(Generic[T]):
    """Tickets come in by `submit`, leave by `start`, and end by `finish`; `withdraw` takes back one that still waits."""

    def __init__(self, max_concurrent: int, max_waiting: int) -> None:
        self._max_concurrent = max_concurrent
        self._max_waiting = max_waiting
        self._lanes: dict[LaneKey, _Lane[T]] = {}
        self._of_endpoint: dict[str, set[LaneKey]] = {}
        self._active: dict[_Lane[T], None] = {}
        """Lanes that want or hold something."""
        self._running = 0
        self._queued = 0

    def update(self, key: LaneKey, replicas: Sequence[Replica], per_replica: int) -> None:
        """Tell what stands behind a lane now."""
        lane = self._lane(key)
        lane.ready = tuple(replica for replica in replicas if replica.state is ReplicaState.READY)
        lane.per_replica = per_replica

    def remove(self, key: LaneKey) -> list[T]:
        """The candidate is gone: returns (and forgets) what waited for it. What is in flight may end."""
        lane = self._lanes.get(key)
        if lane is None:
            return []
        waiting = list(lane.waiting)
        self._queued -= len(waiting)
        lane.waiting.clear()
        lane.ready = ()
        self._settle(lane)
        if not lane.total:
            del self._lanes[key]
            lanes = self._of_endpoint[key[0]]
            lanes.discard(key)
            if not lanes:
                del self._of_endpoint[key[0]]
        return waiting

    def submit(self, key: LaneKey, ticket: T) -> str:
        """Queue a ticket; the answer is why not, or the empty string. Call `start` afterwards."""
        lane = self._lane(key)
        at_once = not lane.waiting and self._room(lane) and lane.pick() is not None
        share = max(1, self._max_waiting // self._busy(lane)) if self._max_waiting else 0
        if not at_once and (self._queued >= self._max_waiting or len(lane.waiting) >= share):
            return "queue_full"
        lane.waiting[ticket] = None
        self._queued += 1
        self._active[lane] = None
        return ""

    def withdraw(self, key: LaneKey, ticket: T) -> None:
        """A waiting ticket gave up; one that does not wait is ignored."""
        lane = self._lanes.get(key)
        if lane is not None and ticket in lane.waiting:
            del lane.waiting[ticket]
            self._queued -= 1
            self._settle(lane)

    def start(self) -> list[tuple[T, Replica]]:
        """Every ticket that may go now, with its replica; each counts as in flight until `finish`. Lanes take turns."""
        started: list[tuple[T, Replica]] = []
        if not self._queued:
            return started
        candidates = [lane for lane in self._active if lane.waiting]
        while candidates:
            still = []
            for lane in candidates:
                replica = lane.pick() if self._room(lane) else None
                if replica is None:
                    continue
                ticket = next(iter(lane.waiting))
                del lane.waiting[ticket]
                self._queued -= 1
                lane.in_flight[replica.id] = lane.in_flight.get(replica.id, 0) + 1
                lane.total += 1
                self._running += 1
                started.append((ticket, replica))
                if lane.waiting:
                    still.append(lane)
            candidates = still
        return started

    def finish(self, key: LaneKey, replica_id: str) -> None:
        """A started ticket ended."""
        lane = self._lanes[key]
        lane.total -= 1
        self._running -= 1
        lane.in_flight[replica_id] -= 1
        if not lane.in_flight[replica_id]:
            del lane.in_flight[replica_id]
        self._settle(lane)

    def lanes(self) -> Sequence[LaneKey]:
        """Every lane there is."""
        return tuple(self._lanes)

    def lanes_of(self, endpoint: str) -> Sequence[LaneKey]:
        """Those of one endpoint."""
        return tuple(self._of_endpoint.get(endpoint, ()))

    def ready(self, key: LaneKey) -> int:
        """Ready replicas of a lane."""
        return len(self._lanes[key].ready) if key in self._lanes else 0

    def queued(self, key: LaneKey) -> int:
        """Tickets that wait in a lane."""
        return len(self._lanes[key].waiting) if key in self._lanes else 0

    def oldest(self, key: LaneKey) -> T | None:
        """The ticket that has waited longest in a lane."""
        return next(iter(self._lanes[key].waiting), None) if key in self._lanes else None

    def in_flight(self, key: LaneKey) -> Mapping[str, int]:
        """Replica id → shadows on it."""
        return self._lanes[key].in_flight if key in self._lanes else {}

    def _lane(self, key: LaneKey) -> _Lane[T]:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane()
            self._of_endpoint.setdefault(key[0], set()).add(key)
        return lane

    def _room(self, lane: _Lane[T]) -> bool:
        share = max(1, self._max_concurrent // self._busy(lane))
        return self._running < self._max_concurrent and lane.total < share

    def _busy(self, lane: _Lane[T]) -> int:
        return len(self._active) + (lane not in self._active)

    def _settle(self, lane: _Lane[T]) -> None:
        if not lane.total and not lane.waiting:
            self._active.pop(lane, None)

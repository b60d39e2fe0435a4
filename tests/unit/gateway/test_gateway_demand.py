"""Who is reported when: where something happens with each turn, all others in rounds of a bounded rate."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from router.contract.codec import decode_demand
from router.contract.events import DemandReport, DeploymentReplicas, EndpointReplicas, Replica, ReplicaState
from router.gateway.demand import BEATS_PER_SECOND, MOST_AT_ONCE, Reporter
from router.gateway.routes import Endpoint
from router.gateway.state import Counters

pytestmark = pytest.mark.interpreted  # the worker is a stand-in
PERIOD_NS = 100_000_000
SECOND = 1_000_000_000
ONE = {"blue": DeploymentReplicas(1, 1, replicas=(Replica("r", "127.0.0.1", 1, ReplicaState.READY, "template"),))}


class Worker:
    """Endpoints without deployments, their reporter, and what it says; time moves by hand."""

    writer = "boot"

    def __init__(self, count: int, *, with_replicas: bool = True) -> None:
        self.awake: dict[Endpoint, None] = {}
        board = SimpleNamespace(cells=[], steps=[])
        self._state: Any = SimpleNamespace(log=self, counters=Counters(), ledgers=[], awake=self.awake, board=board)
        self.endpoints: dict[str, Endpoint] = {}
        self.leaving: dict[str, Endpoint] = {}
        self.said: list[DemandReport] = []
        self.now = SECOND
        self.reporter = Reporter(self, lambda *_: None, self.awake)  # type: ignore[arg-type]  # append is all it needs
        for number in range(count):
            endpoint = self.add(f"e{number}")
            endpoint.apply_replicas(EndpointReplicas(endpoint.name, 1, 1, 0, ONE if with_replicas else {}))

    def add(self, name: str) -> Endpoint:
        endpoint = self.endpoints[name] = Endpoint(self._state, name)
        return endpoint

    def append(self, topic: str, key: str, value: bytes) -> int:
        assert (topic, key) == ("demand", decode_demand(value).endpoint)
        self.said.append(decode_demand(value))
        return len(self.said)

    def turn(self) -> list[DemandReport]:
        self.said.clear()
        self.now += PERIOD_NS
        for some in self.reporter.due():
            self.reporter.tell(some, self.endpoints, self.leaving, self.now)
        self.reporter.beat(self.endpoints, self.leaving, self.now)
        return list(self.said)

    def seconds(self, count: float) -> list[list[DemandReport]]:
        return [self.turn() for _ in range(round(count * SECOND / PERIOD_NS))]


def test_what_has_changed_is_reported_once_and_then_only_now_and_then() -> None:
    worker = Worker(3)
    assert {one.endpoint for one in worker.turn()} == {"e0", "e1", "e2"}
    worker.seconds(3)
    worker.endpoints["e1"].wake()
    assert "e1" in {one.endpoint for one in worker.turn()}
    turns = worker.seconds(10)
    for name in worker.endpoints:
        words = [one for turn in turns for one in turn if one.endpoint == name]
        assert 9 <= len(words) <= 11, "about once per second"
        assert all(0 < later.end_ns - one.end_ns < 2 * SECOND for one, later in pairwise(words))
        assert all(one.replicas_version == 1 and one.start_ns < one.end_ns for one in words)


def test_where_somebody_is_inside_every_turn_tells_it() -> None:
    worker = Worker(2)
    worker.turn()
    inside: Any = SimpleNamespace(draining=list)
    worker.endpoints["e0"].leaving.append(inside)
    worker.endpoints["e0"].wake()
    assert all("e0" in {one.endpoint for one in turn} for turn in worker.seconds(3))
    worker.endpoints["e0"].leaving.remove(inside)
    assert "e0" in {one.endpoint for one in worker.turn()}, "nobody is inside any more: that is told at once"
    assert sum("e0" in {one.endpoint for one in turn} for turn in worker.seconds(3)) <= 4


def test_many_idle_endpoints_are_spread_evenly_and_none_is_silent_for_ten_seconds() -> None:
    worker = Worker(10_000)
    first = worker.seconds(5)
    assert max(len(turn) for turn in first) <= MOST_AT_ONCE + BEATS_PER_SECOND // 5
    turns = worker.seconds(20)
    assert max(len(turn) for turn in turns) <= BEATS_PER_SECOND // 5
    heard: dict[str, int] = {}
    for turn in turns:
        for one in turn:
            assert one.end_ns - heard.get(one.endpoint, one.end_ns) < 9 * SECOND
            heard[one.endpoint] = one.end_ns
    assert len(heard) == 10_000
    assert all(worker.now - one.last_report_ns < 9 * SECOND for one in worker.endpoints.values())


def test_of_endpoints_without_replicas_little_is_said() -> None:
    worker = Worker(100, with_replicas=False)
    worker.seconds(2)
    assert not any(worker.seconds(50))
    assert sum(len(turn) for turn in worker.seconds(20)) == 100
    endpoint = worker.endpoints["e7"]
    endpoint.apply_replicas(EndpointReplicas("e7", 2, 1, 0, ONE))
    assert [(one.endpoint, one.replicas_version) for one in worker.turn()] == [("e7", 2)]


def test_more_busy_endpoints_than_one_turn_reports_take_turns() -> None:
    worker = Worker(3 * MOST_AT_ONCE)
    worker.seconds(2)
    inside: Any = SimpleNamespace(draining=list)
    for endpoint in worker.endpoints.values():
        endpoint.leaving.append(inside)
        endpoint.wake()
    for _ in range(3):
        turns = worker.seconds(0.3)
        assert {len(turn) for turn in turns} == {MOST_AT_ONCE}
        assert len({one.endpoint for turn in turns for one in turn}) == len(worker.endpoints)


def test_nothing_is_said_of_what_is_gone_or_was_made_anew() -> None:
    worker = Worker(2)
    worker.seconds(2)
    old = worker.endpoints["e0"]
    new = worker.add("e0")
    new.apply_replicas(EndpointReplicas("e0", 1, 1, 0, ONE))
    del worker.endpoints["e1"]
    old.wake()
    assert {one.endpoint for turn in worker.seconds(3) for one in turn} == {"e0"}
    assert new.last_report_ns > old.last_report_ns
    assert not worker.awake

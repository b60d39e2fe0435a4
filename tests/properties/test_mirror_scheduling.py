"""Whatever comes and goes: bounds hold, every ticket has one end, and nothing that could run is left waiting alone."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mirror.scheduling import LaneKey, Scheduler
from router.contract.events import Replica, ReplicaState

LANES = [("shop", "green"), ("shop", "red"), ("bank", "green")]
lanes = st.sampled_from(LANES)
MAX_CONCURRENT, MAX_WAITING = 5, 7


class Scheduling(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler[int](MAX_CONCURRENT, MAX_WAITING)
        self.waiting: dict[LaneKey, list[int]] = {lane: [] for lane in LANES}
        self.running: list[tuple[LaneKey, str]] = []
        self.ready = dict.fromkeys(LANES, 0)
        self.limit = dict.fromkeys(LANES, 1)
        self.tickets = 0

    def started(self) -> None:
        for ticket, replica in self.scheduler.start():
            lane = next(lane for lane, waiting in self.waiting.items() if ticket in waiting)
            assert self.waiting[lane].pop(0) == ticket, "first come, first served"
            assert replica.state is ReplicaState.READY
            self.running.append((lane, replica.id))
            assert self.running.count((lane, replica.id)) <= self.limit[lane]

    @rule(lane=lanes, ready=st.integers(0, 3), limit=st.integers(1, 3), draining=st.integers(0, 2))
    def update(self, lane: LaneKey, ready: int, limit: int, draining: int) -> None:
        self.ready[lane], self.limit[lane] = ready, limit
        states = [ReplicaState.READY] * ready + [ReplicaState.DRAINING] * draining
        group = [Replica(f"r{index}", "h", 1, state, "t") for index, state in enumerate(states)]
        self.scheduler.update(lane, group, limit)
        self.started()

    @rule(lane=lanes)
    def submit(self, lane: LaneKey) -> None:
        self.tickets += 1
        refusal = self.scheduler.submit(lane, self.tickets)
        if refusal:
            assert refusal == "queue_full"
        else:
            self.waiting[lane].append(self.tickets)
        self.started()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        lane, replica = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.scheduler.finish(lane, replica)
        self.started()

    @rule(lane=lanes, data=st.data())
    def withdraw(self, lane: LaneKey, data: st.DataObject) -> None:
        ticket = data.draw(st.integers(0, self.tickets))
        self.scheduler.withdraw(lane, ticket)
        if ticket in self.waiting[lane]:
            self.waiting[lane].remove(ticket)
        self.started()

    @rule(lane=lanes)
    def remove(self, lane: LaneKey) -> None:
        assert self.scheduler.remove(lane) == self.waiting[lane]
        self.waiting[lane].clear()
        self.ready[lane] = 0
        self.started()

    @invariant()
    def bounds_hold(self) -> None:
        assert len(self.running) <= MAX_CONCURRENT
        assert sum(map(len, self.waiting.values())) <= MAX_WAITING
        for lane in LANES:
            assert self.scheduler.queued(lane) == len(self.waiting[lane])
            assert self.scheduler.oldest(lane) == next(iter(self.waiting[lane]), None)
            in_flight = self.scheduler.in_flight(lane)
            assert sum(in_flight.values()) == sum(1 for owner, _ in self.running if owner == lane)

    @invariant()
    def nothing_waits_beside_an_idle_replica_of_a_quiet_mirror(self) -> None:
        if not self.running:
            for lane in LANES:
                assert not (self.waiting[lane] and self.ready[lane])


Scheduling.TestCase.settings = settings(max_examples=150, deadline=None)
TestScheduling = Scheduling.TestCase

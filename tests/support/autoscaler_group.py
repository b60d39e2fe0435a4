"""Several autoscalers that share endpoints, each a reconciler with a backend, on one log; time is moved by hand."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from autoscaler.backends.base import DeploymentPlan, Observation, ObservedReplica, Plan
from autoscaler.control.reconciler import Reconciler, Turn
from autoscaler.policy.demand import Heard
from router.contract.events import (
    Decision,
    DemandReport,
    DemandRow,
    DeploymentReplicas,
    EndpointReplicas,
    EndpointRevision,
    EndpointSnapshot,
    ReplicaState,
)
from tests.support.autoscaler_fleet import SECOND, START, deployment

PARTITIONS = 4


def partition_of(endpoint: str) -> int:
    """The digit at the end of the name."""
    return int(endpoint[-1])


def specs(endpoint: str, number: int = 1, **changes: Any) -> EndpointRevision:
    """An endpoint with one deployment called blue."""
    body = {**deployment(**changes), "endpoint_name": endpoint, "name": "blue"}
    return EndpointRevision(endpoint, number, START, {"name": endpoint, "auth_mode": "key"}, {"blue": body})


@dataclass
class Ground:
    """What a backend runs. Several machines may stand on the same one."""

    replicas: dict[str, ObservedReplica] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    refused: list[Plan] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    slow: bool = False
    made: int = 0

    def apply(self, plan: Plan, prefix: str) -> set[str]:
        """Make it so; returns the endpoints for which somebody newer has acted."""
        endpoints = {endpoint for endpoint, _ in plan.deployments}
        late = {one for one in endpoints if plan.generation < self.generations.get(one, 0)}
        if late:
            self.refused.append(plan)
        for (endpoint, _), wish in plan.deployments.items():
            if endpoint not in late:
                self.generations[endpoint] = plan.generation
                self._make(wish, prefix)
        return late

    def _make(self, wish: DeploymentPlan, prefix: str) -> None:
        self.removed += sorted(wish.remove & self.replicas.keys())
        for name in wish.remove:
            self.replicas.pop(name, None)
        target = (wish.endpoint, wish.deployment, wish.template)
        have = [one for one in self.replicas.values() if (one.endpoint, one.deployment, one.template) == target]
        for _ in range(wish.count - len(have)):
            self.made += 1
            name = f"{prefix}-{self.made}"
            state = ReplicaState.STARTING if self.slow else ReplicaState.READY
            made = ObservedReplica(name, *target, state, prefix, 1000 + self.made, created_ns=self.made)
            self.replicas[name] = made

    def make_ready(self) -> None:
        """Everything that starts is ready."""
        for name, one in self.replicas.items():
            self.replicas[name] = replace(one, state=ReplicaState.READY)


@dataclass
class Machine:
    """One autoscaler."""

    name: str
    group: Group
    ground: Ground = field(default_factory=Ground)
    generation: int = 0
    """Of the share that was dealt last."""
    cut_off: bool = False
    """Hears and says nothing outside of itself; what it says waits."""
    waiting: list[EndpointReplicas] = field(default_factory=list)
    said: list[EndpointReplicas] = field(default_factory=list)
    """In this life."""
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A new process that knows what stands on the log."""
        self.said = []
        self.reconciler = Reconciler(
            backends=["memory"],
            default_backend="memory",
            silent_seconds=10,
            partition_of=partition_of,
            sharing=True,
            folder=self.name,
        )
        for revision in self.group.specs.values():
            self.reconciler.take_specs(revision)
        for event in self.group.words:
            self.reconciler.take_replicas(event)
        self.look()

    def look(self) -> None:
        """See what the backend runs."""
        self.reconciler.take_observation("memory", Observation(tuple(self.ground.replicas.values())))

    def settle(self, partitions: Collection[int], generation: int, *, confirmed: bool = True) -> None:
        """Take a share over, as the service does."""
        reconciler, group, self.generation = self.reconciler, self.group, generation
        reconciler.drop(reconciler.territory.followed - frozenset(partitions))
        new = frozenset(partitions) - reconciler.territory.followed
        reconciler.follow(partitions, group.snapshots)
        for heard in group.heard:
            if partition_of(heard.report.endpoint) in new:
                reconciler.take_demand(heard)
        reconciler.adopt(frozenset(partitions), generation, group.now_ns, confirmed=confirmed)

    def turn(self) -> Turn:
        """Turns until the backend has nothing new to do."""
        while True:
            turn = self.reconciler.turn(self.group.now_ns)
            self.decisions += turn.decisions
            for event in turn.replicas:
                self.say(event)
            before = dict(self.ground.replicas)
            for plan in (one for plans in turn.plans.values() for one in plans):
                for endpoint in self.ground.apply(plan, self.name):
                    self.reconciler.fence(endpoint)
            if before == self.ground.replicas:
                return turn
            self.look()

    def say(self, event: EndpointReplicas) -> None:
        """Publish."""
        self.said.append(event)
        self.reconciler.take_replicas(event, own=True)
        if self.cut_off:
            self.waiting.append(event)
        else:
            self.group.publish(event, self)

    def reconnect(self) -> None:
        """What it said meanwhile reaches the others, and what they said reaches it."""
        self.cut_off = False
        words, self.waiting = self.waiting, []
        for event in self.group.words:
            self.reconciler.take_replicas(event, own=event in self.said, again=True)
        for event in words:
            self.group.publish(event, self)

    def acts_for(self, endpoint: str) -> bool:
        """Whether it thinks so."""
        return self.reconciler.territory.acts_for(endpoint)


@dataclass
class Group:
    """The log, the gateway, and the machines."""

    now_ns: int = START
    specs: dict[str, EndpointRevision] = field(default_factory=dict)
    words: list[EndpointReplicas] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    snapshots: dict[str, EndpointSnapshot] = field(default_factory=dict)
    machines: list[Machine] = field(default_factory=list)
    said: int = 0

    def machine(self, name: str, ground: Ground | None = None) -> Machine:
        """One more autoscaler."""
        made = Machine(name, self, ground or Ground())
        self.machines.append(made)
        return made

    def revise(self, *revisions: EndpointRevision) -> None:
        """The control plane speaks."""
        for revision in revisions:
            self.specs[revision.endpoint] = revision
            for machine in self.machines:
                machine.reconciler.take_specs(revision)

    def publish(self, event: EndpointReplicas, by: Machine) -> None:
        """Everybody who can hears `event`."""
        self.words.append(event)
        for machine in self.machines:
            if machine is not by and not machine.cut_off:
                machine.reconciler.take_replicas(event)

    def routed(self, endpoint: str) -> DeploymentReplicas:
        """What gateways go by: the newest version."""
        known = [one for one in self.words if one.endpoint == endpoint]
        return max(known, key=lambda one: one.version).deployments["blue"]

    def ids(self, endpoint: str, state: ReplicaState | None = None) -> set[str]:
        """Ids that gateways know, in `state`."""
        return {one.id for one in self.routed(endpoint).replicas if state in (None, one.state)}

    def newest(self, endpoint: str) -> EndpointReplicas:
        """The word that was said last."""
        return [one for one in self.words if one.endpoint == endpoint][-1]

    def keep(self, machine: Machine) -> None:
        """`machine` writes snapshots of all it acts for."""
        reconciler = machine.reconciler
        reconciler.fold()
        ours = [endpoint for endpoint in self.specs if machine.acts_for(endpoint)]
        for endpoint, state in reconciler.pictures(ours).items():
            generation = reconciler.territory.generation(endpoint)
            self.snapshots[endpoint] = EndpointSnapshot(
                endpoint, self.now_ns, generation, partition_of(endpoint), len(self.heard), state
            )

    def run(self, seconds: float, rows: dict[str, DemandRow] | None = None) -> None:
        """Let time pass: the gateway reports about every endpoint, routes by the newest version, machines turn."""
        for _ in range(round(seconds * 10)):
            self.now_ns += SECOND // 10
            for endpoint in self.specs:
                versions = [one.version for one in self.words if one.endpoint == endpoint]
                row = (rows or {}).get(endpoint)
                report = DemandReport(
                    endpoint,
                    self.now_ns - SECOND // 10,
                    self.now_ns,
                    1,
                    max(versions, default=0),
                    rows=(row,) if row else (),
                )
                self.said += 1
                heard = Heard("gateway", self.said, report)
                self.heard.append(heard)
                for machine in self.machines:
                    machine.reconciler.take_demand(heard)
            for machine in self.machines:
                machine.turn()

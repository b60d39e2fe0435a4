"""Specs, demand and observations for tests of the autoscaler, with a hand on the clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from autoscaler.backends.base import Condition, DeploymentPlan, Observation, ObservedReplica, Target
from autoscaler.control.reconciler import Reconciler, Turn
from autoscaler.policy.demand import Heard
from router.contract.events import (
    Decision,
    DemandReport,
    DemandRow,
    DeploymentReplicas,
    EndpointReplicas,
    EndpointRevision,
    ReplicaState,
)

SECOND = 10**9
START = 1_700_000_000 * SECOND
ENDPOINT = "tides"


def deployment(**changes: Any) -> dict[str, Any]:
    """A managed deployment's document; `tidegate` and `scale_settings` as given."""
    return {
        "name": "blue",
        "endpoint_name": ENDPOINT,
        "instance_type": "Standard_DS3_v2",
        "instance_count": 1,
        **changes,
    }


def scaling(low: int, high: int, **changes: Any) -> dict[str, Any]:
    """A Kubernetes-style rule for a managed document."""
    rule = {"type": "target_utilization", "min_instances": low, "max_instances": high, **changes}
    return {"scale_settings": rule, "type": "kubernetes", "tidegate": {"backend": "memory"}}


def revision(
    number: int, deployments: Mapping[str, Mapping[str, Any]], *, deleted: bool = False, **document: Any
) -> EndpointRevision:
    """An endpoint revision whose documents carry their own names."""
    named = {name: {**body, "name": name} for name, body in deployments.items()}
    whole = {"name": ENDPOINT, "auth_mode": "key", **document}
    restarts = whole.pop("restarts", {})
    return EndpointRevision(ENDPOINT, number, START, whole, named, deleted=deleted, restarts=restarts)


def report(*rows: DemandRow, end_ns: int, version: int = 0, window: float = 0.1, **changes: Any) -> DemandReport:
    """A gateway's report of the window that ends at `end_ns`."""
    return DemandReport(ENDPOINT, end_ns - round(window * SECOND), end_ns, 1, version, rows=rows, **changes)


@dataclass
class World:
    """A reconciler, one obedient backend, and gateways that all move when the clock does."""

    make: Callable[[], Reconciler] = lambda: Reconciler(
        backends=["memory"], default_backend="memory", silent_seconds=10
    )
    now_ns: int = START
    replicas: dict[str, ObservedReplica] = field(default_factory=dict)
    wishes: dict[Target, DeploymentPlan] = field(default_factory=dict)
    conditions: dict[Target, Condition] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    """Templates whose replicas never become ready."""
    slow: bool = False
    """Replicas become ready only by `make_ready`."""
    decisions: list[Decision] = field(default_factory=list)
    told: list[EndpointReplicas] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    sequences: dict[str, int] = field(default_factory=dict)
    gateways: tuple[str, ...] = ("gateway-0",)
    holding: dict[tuple[str, str], int] = field(default_factory=dict)
    """(gateway, replica) → requests it still has in flight there."""
    deaf: set[str] = field(default_factory=set)
    """Gateways that report but do not follow `replicas`."""
    silent: set[str] = field(default_factory=set)
    made: int = 0

    def __post_init__(self) -> None:
        self.reconciler = self.make()
        self.reconciler.follow({0}, {})
        self.heard_version: dict[str, int] = {}

    def begin(self) -> None:
        """The start of the autoscaler, after everything before was taken."""
        self.reconciler.take_observation("memory", self.observation())
        self.reconciler.adopt(frozenset({0}), self.reconciler.territory.highest + 1, self.now_ns)
        self.turn()

    def restart(self) -> None:
        """A new autoscaler that knows only what the log and the backend tell."""
        last = self.last()
        self.reconciler = self.make()
        self.reconciler.follow({0}, {})
        for event in self.told:
            self.reconciler.take_replicas(event)
        assert last is self.told[-1]

    def observation(self) -> Observation:
        """All that runs."""
        return Observation(tuple(self.replicas.values()), dict(self.conditions))

    def last(self) -> EndpointReplicas:
        """What the gateways know."""
        return self.told[-1]

    def shown(self, name: str = "blue") -> DeploymentReplicas:
        """What the gateways know about one deployment."""
        return self.last().deployments[name]

    def states(self, name: str = "blue") -> list[str]:
        """Published states, sorted."""
        return sorted(one.state.value for one in self.shown(name).replicas)

    def turn(self) -> Turn:
        """Turns until the backend has nothing new to do."""
        while True:
            turn = self.reconciler.turn(self.now_ns)
            self.told.extend(turn.replicas)
            self.decisions.extend(turn.decisions)
            before = dict(self.replicas)
            for target, wish in (
                (t, w) for plans in turn.plans.values() for p in plans for t, w in p.deployments.items()
            ):
                self._apply(target, wish)
            if before == self.replicas:
                return turn
            self.reconciler.take_observation("memory", self.observation())

    def _apply(self, target: Target, wish: DeploymentPlan) -> None:
        self.wishes[target] = wish
        for name in wish.remove:
            if self.replicas.pop(name, None) is not None:
                self.removed.append(name)
        have = [r for r in self.replicas.values() if (r.endpoint, r.deployment, r.template) == (*target, wish.template)]
        for _ in range(wish.count - len(have)):
            self.made += 1
            name = f"{target[1]}-{self.made}"
            ready = not self.slow and wish.template not in self.broken
            state = ReplicaState.READY if ready else ReplicaState.STARTING
            self.replicas[name] = ObservedReplica(
                name, target[0], target[1], wish.template, state, "127.0.0.1", 1000 + self.made, created_ns=self.made
            )

    def become(self, name: str, state: ReplicaState) -> None:
        """One replica changes its state."""
        from dataclasses import replace

        self.replicas[name] = replace(self.replicas[name], state=state)
        self.reconciler.take_observation("memory", self.observation())
        self.turn()

    def say(self, gateway: str, *rows: DemandRow, **changes: Any) -> bool:
        """One report of one gateway, now. It acknowledges the newest `replicas` unless it is deaf."""
        if gateway not in self.deaf and self.told:
            self.heard_version[gateway] = self.last().version
        version = self.heard_version.get(gateway, 0)
        number = self.sequences[gateway] = self.sequences.get(gateway, -1) + 1
        draining = tuple((name, count) for (who, name), count in self.holding.items() if who == gateway)
        body = report(*rows, end_ns=self.now_ns, version=version, draining=draining, **changes)
        return self.reconciler.take_demand(Heard(gateway, number, body))

    def run(self, seconds: float, *rows: DemandRow, period: float = 0.1) -> None:
        """Let time pass; every gateway that is not silent reports `rows` each period."""
        for _ in range(round(seconds / period)):
            self.now_ns += round(period * SECOND)
            for gateway in self.gateways:
                if gateway not in self.silent:
                    self.say(gateway, *rows)
            self.turn()


def load(in_flight: int = 0, queued: int = 0, name: str = "blue", **changes: Any) -> DemandRow:
    """A steady window: `in_flight` requests in service all the time."""
    values: dict[str, Any] = {"in_flight": in_flight, "queued": queued, "busy_seconds": in_flight * 0.1, **changes}
    return DemandRow(name, **values)

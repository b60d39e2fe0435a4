"""Counting what has changed comes to the same as counting everything."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autoscaler.backends.base import Condition, Observation, ObservedReplica
from autoscaler.control.reconciler import Reconciler
from router.contract.events import Decision, EndpointRevision, Phase, ReplicaState

SECOND = 10**9
NAMES = ("shop", "bank", "mill")


def revision(name: str, number: int, count: int, image: str, *, deleted: bool) -> EndpointRevision:
    document = {
        "name": "blue",
        "endpoint_name": name,
        "environment": {"image": image},
        "instance_type": "Standard_DS3_v2",
        "instance_count": count,
    }
    deployments = {} if deleted else {"blue": document}
    return EndpointRevision(name, number, 1, {"name": name, "traffic": {"blue": 100}}, deployments, deleted=deleted)


revisions = st.tuples(st.sampled_from(NAMES), st.integers(1, 3), st.sampled_from(("one", "two")), st.booleans())
states = st.lists(st.tuples(st.sampled_from(list(ReplicaState)[:3]), st.booleans()), max_size=4)
observations = st.fixed_dictionaries({name: st.tuples(states, st.booleans()) for name in NAMES})
steps = st.lists(st.one_of(revisions, observations), min_size=1, max_size=12)


def observed(told: dict[str, tuple[list[tuple[ReplicaState, bool]], bool]], reconciler: Reconciler) -> Observation:
    """Replicas of the newest template or of another one; a deployment may have failed."""
    replicas, conditions = [], {}
    for name, (some, failed) in told.items():
        sizing = reconciler.fleet.sizings.get((name, "blue"))
        newest = sizing.template if sizing else "none"
        for at, (state, current) in enumerate(some):
            replicas.append(ObservedReplica(f"{name}-{at}", name, "blue", newest if current else "old", state))
        if failed:
            conditions[name, "blue"] = Condition(Phase.FAILED, newest)
    return Observation(tuple(replicas), conditions)


class Checked(Reconciler):
    """Decides only from counts that are whole."""

    def _decide(self, now_ns: int) -> tuple[tuple[Decision, ...], int]:
        counted = self.fleet.standing
        self._uncounted = None
        self._count()
        for column in ("ready", "pending", "failed"):
            assert np.array_equal(getattr(counted, column), getattr(self.fleet.standing, column)), column
        return super()._decide(now_ns)


READY = ([(ReplicaState.READY, True)], False)


@given(steps)
@example([("shop", 1, "one", False), dict.fromkeys(NAMES, READY), ("shop", 1, "two", False)])
@settings(max_examples=200)
def test_decisions_are_made_from_counts_of_everything_although_only_changes_are_counted(some: list[object]) -> None:
    reconciler = Checked(backends=["memory"], default_backend="memory", silent_seconds=10)
    reconciler.follow({0}, {})
    reconciler.adopt(frozenset({0}), 1, SECOND)
    for at, one in enumerate(some, 2):
        if isinstance(one, dict):
            reconciler.take_observation("memory", observed(one, reconciler))
        elif isinstance(one, tuple):
            name, count, image, deleted = one
            reconciler.take_specs(revision(name, at, count, image, deleted=deleted))
        reconciler.turn(at * SECOND)
        assert not reconciler.fleet.unreadable
        reconciler.turn(at * SECOND + SECOND // 2)

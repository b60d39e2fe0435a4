"""A backend that cannot say what runs there: routing stays as it is, nothing is told to it, all others go on."""

from __future__ import annotations

from autoscaler.backends.base import Observation
from autoscaler.control.reconciler import Reconciler, Turn
from router.contract.events import DeploymentReplicas, EndpointReplicas, Phase, Replica, ReplicaState
from tests.support.autoscaler_fleet import ENDPOINT, SECOND, START, deployment, revision

AWAY = Observation(blind="the cluster cannot be reached")
GREEN = Replica("green-1", "10.0.0.1", 5001, ReplicaState.READY, "t")
PUBLISHED = EndpointReplicas(
    ENDPOINT, 7, 1, START, {"green": DeploymentReplicas(1, 1, Phase.READY, template="t", replicas=(GREEN,))}
)


class Scaler:
    """A reconciler that was just started; `blue` belongs on `memory`, `green` on `kubernetes`, where it runs."""

    def __init__(self, seen: Observation) -> None:
        self.reconciler = Reconciler(backends=["memory", "kubernetes"], default_backend="memory", silent_seconds=10)
        self.reconciler.follow({0}, {})
        self.reconciler.take_replicas(PUBLISHED)
        green = deployment(type="kubernetes", instance_count=1)
        self.reconciler.take_specs(revision(1, {"blue": deployment(), "green": green}))
        self.reconciler.take_observation("memory", Observation())
        self.reconciler.take_observation("kubernetes", seen)
        self.reconciler.adopt(frozenset({0}), 2, START)
        self.now_ns = START

    def turn(self) -> Turn:
        self.now_ns += SECOND
        return self.reconciler.turn(self.now_ns)


def test_what_was_published_stays_and_the_others_are_scaled() -> None:
    scaler = Scaler(AWAY)
    turn = scaler.turn()
    green = turn.replicas[-1].deployments["green"]
    assert green.replicas == (GREEN,)
    assert green.phase is Phase.READY
    assert green.message == "backend 'kubernetes' cannot say what runs there: the cluster cannot be reached"
    assert set(turn.plans) == {"memory"}
    assert [plan.deployments[ENDPOINT, "blue"].count for plan in turn.plans["memory"]] == [1]


def test_without_that_word_it_would_be_taken_at_its_word() -> None:
    assert Scaler(Observation()).turn().replicas[-1].deployments["green"].replicas == ()


def test_a_deployment_that_was_never_published_waits_and_says_why() -> None:
    scaler = Scaler(AWAY)
    named = {"new": deployment(type="kubernetes")}
    scaler.reconciler.take_specs(revision(2, named))
    new = scaler.turn().replicas[-1].deployments["new"]
    assert (new.phase, new.replicas) == (Phase.PENDING, ())
    assert "cannot be reached" in new.message


def test_once_it_can_see_it_is_told_what_is_wished() -> None:
    scaler = Scaler(AWAY)
    scaler.turn()
    scaler.reconciler.take_observation("kubernetes", Observation())
    turn = scaler.turn()
    assert [plan.deployments[ENDPOINT, "green"].count for plan in turn.plans["kubernetes"]] == [1]
    assert "cannot say" not in turn.replicas[-1].deployments["green"].message


def test_a_deployment_that_was_deleted_is_said_to_be_gone_everywhere() -> None:
    scaler = Scaler(Observation())
    scaler.turn()
    scaler.reconciler.take_specs(revision(2, {"blue": deployment()}))
    turn = scaler.turn()
    for name in ("memory", "kubernetes"):
        assert [plan.deployments[ENDPOINT, "green"].gone for plan in turn.plans[name]] == [True]

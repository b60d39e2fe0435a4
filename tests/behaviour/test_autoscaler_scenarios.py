"""What the autoscaler does over time, told with a clock moved by hand."""

from __future__ import annotations

from typing import Any

import pytest

from autoscaler.backends.base import Condition
from autoscaler.control.reconciler import Reconciler
from autoscaler.policy.decider import LATER
from router.contract.events import Phase, ReplicaState
from tests.support.autoscaler_fleet import ENDPOINT, SECOND, World, deployment, load, revision, scaling

TO_ZERO = {"tidegate": {"min_instances": 0, "idle_seconds": 5}}


def started(*deployments: dict[str, Any], **document: Any) -> World:
    world = World()
    names = ("blue", "green")[: len(deployments)]
    world.reconciler.take_specs(revision(1, dict(zip(names, deployments, strict=True)), **document))
    world.begin()
    return world


def test_a_fixed_deployment_gets_its_instance_count_and_is_ready() -> None:
    world = started(deployment(instance_count=3))
    assert world.states() == ["ready"] * 3
    assert (world.shown().phase, world.shown().desired, world.shown().revision) == (Phase.READY, 3, 1)


def test_an_idle_deployment_goes_to_zero_only_after_its_idle_time() -> None:
    world = started(deployment(**TO_ZERO))
    world.run(4.5)
    assert world.shown().desired == 1
    world.run(1.0)
    assert world.shown().desired == 0
    assert world.decisions[-1].reason.startswith("idle: no request for 5 s")


def test_a_request_in_flight_or_waiting_keeps_a_deployment_from_zero() -> None:
    world = started(deployment(**TO_ZERO))
    world.run(20, load(in_flight=1))
    assert world.shown().desired == 1
    world.run(6)
    assert world.shown().desired == 0


def test_one_reporter_of_two_with_traffic_is_enough_to_stay() -> None:
    world = started(deployment(**TO_ZERO))
    for _ in range(100):
        world.run(0.1)
        world.say("gateway-1", load(arrivals=1, completions=1))
    assert world.shown().desired == 1


def test_silence_is_not_idleness() -> None:
    world = started(deployment(**TO_ZERO))
    world.run(1, load(in_flight=1))
    world.silent.add("gateway-0")
    world.run(60)
    assert world.shown().desired == 1, "the only gateway fell silent while it held a request"


def test_a_waiting_request_starts_a_deployment_from_zero_at_once() -> None:
    world = started(deployment(**TO_ZERO))
    world.run(6)
    world.run(3)
    assert world.shown().desired == 0
    assert world.replicas == {}
    assert world.say("gateway-0", load(queued=1, arrivals=1)), "a request at zero must not wait for the tick"
    world.turn()
    assert world.shown().desired == 1
    assert len(world.replicas) == 1
    assert world.decisions[-1].reason == "from zero: 1 waiting, 0 in flight"


def test_requests_that_begin_to_queue_do_not_wait_for_the_next_poll() -> None:
    world = started(deployment(**scaling(1, 8, polling_interval=10, target_utilization_percentage=100)))
    world.run(11)
    assert not world.say("gateway-0", load(in_flight=1)), "nothing waits"
    assert world.say("gateway-0", load(in_flight=1, queued=2)), "somebody waits"
    assert not world.say("gateway-0", load(in_flight=1, queued=3)), "the queue is known already"
    world.turn()
    assert (world.decisions[-1].previous, world.decisions[-1].desired) == (1, 4)
    assert not world.say("gateway-0", load(in_flight=4))
    assert world.say("gateway-0", load(in_flight=4, queued=9)), "a queue that was gone and is there again"
    turn = world.turn()
    assert world.shown().desired == 4, "one growth for each polling interval"
    assert turn.due_ns == world.now_ns + 10 * SECOND
    world.now_ns = turn.due_ns
    world.say("gateway-0", load(in_flight=4, queued=9))
    assert world.turn().due_ns == LATER
    assert world.shown().desired == 8


def test_a_queue_in_one_gateway_is_news_whatever_the_other_has_said() -> None:
    world = started(deployment(**scaling(1, 8)))
    assert world.say("gateway-0", load(in_flight=1, queued=1))
    assert world.say("gateway-1", load(in_flight=1, queued=1))
    assert not world.say("gateway-0", load(in_flight=1, queued=1))


def test_without_a_queue_growth_waits_for_the_poll_that_is_due() -> None:
    world = started(deployment(**scaling(1, 8, polling_interval=10, target_utilization_percentage=100)))
    world.run(11)
    world.run(6, load(in_flight=4))
    assert world.shown().desired == 1
    due_ns = world.turn().due_ns
    assert world.now_ns < due_ns <= world.now_ns + 10 * SECOND
    world.run((due_ns - world.now_ns) / SECOND, load(in_flight=4))
    assert world.shown().desired > 1


def test_from_zero_a_crowd_gets_the_needed_count_at_once_within_bounds() -> None:
    extras = {"tidegate": {"min_instances": 0, "max_instances": 4, "idle_seconds": 5}}
    world = started(deployment(**extras))
    world.run(9)
    assert world.replicas == {}
    world.say("gateway-0", load(queued=200, arrivals=200))
    world.turn()
    assert world.shown().desired == 4


def test_a_deployment_that_never_became_ready_is_not_idle_yet() -> None:
    world = World(slow=True)
    world.reconciler.take_specs(revision(1, {"blue": deployment(**TO_ZERO)}))
    world.begin()
    world.run(30)
    assert world.shown().desired == 1
    world.become("blue-1", ReplicaState.READY)
    world.run(6)
    assert world.shown().desired == 0


def test_a_victim_that_is_wanted_again_is_taken_back_instead_of_starting_another() -> None:
    world = started(deployment(**TO_ZERO))
    world.deaf.add("gateway-0")
    world.run(6)
    assert world.states() == ["draining"]
    world.say("gateway-0", load(queued=1, arrivals=1))
    world.turn()
    assert world.states() == ["ready"]
    assert list(world.replicas) == ["blue-1"]


def test_load_scales_out_within_about_a_polling_interval_and_in_only_after_twenty() -> None:
    world = started(deployment(**scaling(1, 10)))
    world.run(2, load(in_flight=3))
    assert world.shown().desired == 5, "3 busy at 70 % need 5 places"
    world.run(15, load(in_flight=1))
    assert world.shown().desired == 5
    world.run(10, load(in_flight=1))
    assert world.shown().desired == 2, "1 busy at 70 % needs 2"


def test_slow_starters_do_not_multiply() -> None:
    world = World(slow=True)
    world.reconciler.take_specs(revision(1, {"blue": deployment(**scaling(1, 50))}))
    world.begin()
    world.run(60, load(in_flight=1, queued=2))
    assert world.shown().desired == 5
    assert len(world.replicas) == 5


def test_a_burst_is_not_booked_as_a_permanent_need_when_service_is_fast() -> None:
    world = started(deployment(**scaling(1, 100)))
    world.run(3, load(arrivals=10, completions=10, busy_seconds=0.05))
    before = world.shown().desired
    world.run(2, load(arrivals=100, completions=10, queued=90, busy_seconds=0.05))
    assert before <= world.shown().desired <= 10, "90 waiting × 5 ms of service are half a second of work"


def test_shadow_load_never_raises_a_live_deployment_but_starts_a_candidate() -> None:
    candidate = deployment(tidegate={"min_instances": 0, "max_instances": 2, "idle_seconds": 5})
    world = started(
        deployment(**scaling(1, 10)), candidate, traffic={"blue": 100, "green": 0}, mirror_traffic={"green": 10}
    )
    world.run(9, load(in_flight=0))
    assert world.shown("green").desired == 0
    world.say("mirror", load(queued=5, name="green", shadow=True), load(queued=99, name="blue"), shadow=True)
    world.turn()
    assert (world.shown("green").desired, world.shown("blue").desired) == (2, 1)


def test_shadow_load_of_a_deployment_that_is_no_candidate_counts_for_nothing() -> None:
    world = started(deployment(**TO_ZERO))
    world.run(9)
    world.say("mirror", load(queued=5, shadow=True), shadow=True)
    world.turn()
    assert world.shown().desired == 0


def test_a_changed_template_is_tried_out_at_zero() -> None:
    world = started(deployment(**TO_ZERO))
    world.run(9)
    assert world.replicas == {}
    world.reconciler.take_specs(revision(2, {"blue": deployment(environment_variables={"A": "1"}, **TO_ZERO)}))
    world.turn()
    assert world.shown().desired == 1
    world.run(9)
    assert world.shown().desired == 0


def test_new_bounds_act_at_once() -> None:
    world = started(deployment(instance_count=3))
    world.reconciler.take_specs(revision(2, {"blue": deployment(instance_count=1)}))
    world.turn()
    assert (world.shown().desired, world.shown().revision) == (1, 2)
    assert world.states() == ["draining", "draining", "ready"]


def test_flapping_spends_its_budget_and_then_stays_up() -> None:
    extras = {"tidegate": {"min_instances": 0, "idle_seconds": 0.2}}
    world = started(deployment(**extras))
    for _ in range(40):
        world.run(0.2, load(in_flight=1))
        world.run(0.6)
    falls = [one for one in world.decisions if one.desired == 0]
    assert 5 <= len(falls) <= 12
    assert world.shown().desired == 1


@pytest.mark.parametrize("surge", [1, 10])
def test_a_new_template_starts_beside_the_old_one_and_takes_over_replica_by_replica(surge: int) -> None:
    world = started(deployment(instance_count=surge))
    old = set(world.replicas)
    world.slow = True
    world.deaf.add("gateway-0")
    world.run(0.1)
    world.reconciler.take_specs(
        revision(2, {"blue": deployment(instance_count=surge, environment_variables={"A": "1"})})
    )
    world.turn()
    extra = {1: 1, 10: 2}[surge]
    assert len(world.replicas) == surge + extra
    assert world.states().count("ready") == surge
    assert world.shown().phase is Phase.STARTING
    world.deaf.clear()
    for _ in range(3 * surge):
        fresh = [one for one in world.replicas.values() if one.state is ReplicaState.STARTING]
        if fresh:
            world.become(fresh[0].id, ReplicaState.READY)
        assert world.states().count("ready") >= surge
        assert len(world.replicas) <= surge + extra
        world.run(0.3)
    assert not old & set(world.replicas)
    assert world.states() == ["ready"] * surge
    assert world.shown().phase is Phase.READY


def test_a_template_that_cannot_start_leaves_the_old_replicas_serving() -> None:
    world = started(deployment(instance_count=2))
    before = set(world.replicas)
    second = revision(2, {"blue": deployment(instance_count=2, environment_variables={"A": "1"})})
    world.slow = True
    world.reconciler.take_specs(second)
    world.turn()
    template = world.shown().template
    world.conditions[ENDPOINT, "blue"] = Condition(
        Phase.FAILED, template, "UserScriptInitFailed", "init() raised", "Traceback …"
    )
    world.reconciler.take_observation("memory", world.observation())
    world.run(30)
    assert before <= set(world.replicas)
    assert [one.id for one in world.shown().replicas if one.state is ReplicaState.READY] == sorted(before)
    shown = world.shown()
    assert (shown.phase, shown.reason, shown.log_tail) == (Phase.FAILED, "UserScriptInitFailed", "Traceback …")
    assert shown.revision == 2


def test_a_restart_replaces_replicas_of_the_same_template() -> None:
    world = started(deployment())
    first = set(world.replicas)
    world.reconciler.take_specs(revision(2, {"blue": deployment()}, restarts={"blue": 1}))
    world.turn()
    world.run(1)
    assert len(world.replicas) == 1
    assert not first & set(world.replicas)


def test_a_deleted_deployment_drains_and_is_then_absent() -> None:
    world = started(deployment(), deployment())
    world.holding["gateway-0", "green-2"] = 1
    template = world.wishes[ENDPOINT, "green"].template
    world.reconciler.take_specs(revision(2, {"blue": deployment()}))
    world.run(5)
    last = world.wishes[ENDPOINT, "green"]
    assert (last.count, last.template) == (0, template), "the backend has nothing new to prepare"
    assert (world.states("green"), world.shown("green").phase) == (["draining"], Phase.DELETING)
    world.holding.clear()
    world.run(0.5)
    assert sorted(world.last().deployments) == ["blue"]
    assert world.removed == ["green-2"]


def test_a_deleted_endpoint_ends_with_no_deployments() -> None:
    world = started(deployment(), deployment())
    world.reconciler.take_specs(revision(2, {}, deleted=True))
    world.run(1)
    assert world.last().deployments == {}
    assert world.replicas == {}


def test_a_backend_that_is_not_here_is_named_in_the_failure() -> None:
    world = started(deployment(tidegate={"backend": "ray"}))
    assert world.shown().phase is Phase.FAILED
    assert world.shown().message == "there is no backend 'ray' here; running backends: memory"


def test_a_deployment_written_for_kubernetes_runs_here_until_that_backend_is_here() -> None:
    world = started(deployment(type="kubernetes"))
    assert world.shown().phase is Phase.READY
    there = ["kubernetes", "memory"]
    both = World(lambda: Reconciler(backends=there, default_backend="memory", silent_seconds=10))
    both.reconciler.take_specs(revision(1, {"blue": deployment(type="kubernetes"), "green": deployment()}))
    both.begin()
    assert [both.reconciler.home_of((ENDPOINT, name)) for name in ("blue", "green")] == there


def test_every_decision_carries_its_inputs() -> None:
    world = started(deployment(**scaling(1, 10)))
    world.run(2, load(in_flight=3))
    out = world.decisions[-1]
    assert (out.previous, out.desired) == (1, 5) or out.desired == 5
    assert out.inputs["busy"] == pytest.approx(3, rel=0.11)
    assert out.inputs["target"] == 0.7
    assert "target 70%" in out.reason


def test_a_document_nobody_can_read_fails_alone_and_leaves_what_runs() -> None:
    world = started(deployment(), deployment())
    broken = {**deployment(), "instance_count": "many"}
    world.reconciler.take_specs(revision(2, {"blue": broken, "green": deployment(instance_count=2)}))
    world.turn()
    shown = world.shown("blue")
    assert (shown.phase, shown.reason, shown.revision) == (Phase.FAILED, "BadArgument", 2)
    assert "instance_count" in shown.message
    assert world.states("blue") == ["ready"]
    assert (world.shown("green").phase, world.shown("green").desired) == (Phase.READY, 2)

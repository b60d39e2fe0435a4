"""Scale-in loses nothing: the victim–drain–delete protocol, cause by cause, with a clock moved by hand."""

from __future__ import annotations

from router.contract.events import ReplicaState
from tests.support.autoscaler_fleet import World, deployment, load, revision


def with_a_victim(**extras: object) -> tuple[World, str]:
    """Two replicas, one of which has just become a victim that no gateway has acknowledged."""
    world = World()
    body = {"tidegate": extras} if extras else {}
    world.reconciler.take_specs(revision(1, {"blue": deployment(instance_count=2, **body)}))
    world.begin()
    world.run(1, load(in_flight=1))
    world.deaf.update(world.gateways)
    world.reconciler.take_specs(revision(2, {"blue": deployment(instance_count=1, **body)}))
    world.turn()
    (victim,) = [one.id for one in world.shown().replicas if one.state is ReplicaState.DRAINING]
    return world, victim


def test_a_victim_stays_until_every_gateway_acknowledged() -> None:
    world, victim = with_a_victim()
    world.gateways = ("gateway-0", "gateway-1")
    world.deaf.add("gateway-1")
    world.run(1)
    world.deaf.discard("gateway-0")
    world.run(5)
    assert victim in world.replicas, "gateway-1 has not acknowledged"
    world.deaf.clear()
    world.deaf.add("gateway-0")
    world.run(0.1)
    assert victim in world.removed


def test_a_number_that_nobody_here_said_acknowledges_nothing_and_is_outdone() -> None:
    world, victim = with_a_victim()
    named = world.last().version + 50
    world.heard_version["gateway-0"] = named
    world.run(5)
    assert victim in world.replicas, "it routes by the word of somebody else"
    assert world.last().version == named + 1
    world.run(5)
    assert world.last().version == named + 1, "once is enough"
    world.deaf.clear()
    world.run(0.1)
    assert world.removed == [victim]


def test_a_victim_stays_while_requests_are_in_flight_there() -> None:
    world, victim = with_a_victim()
    world.deaf.clear()
    world.holding["gateway-0", victim] = 2
    world.run(60)
    assert world.states() == ["draining", "ready"]
    world.holding.clear()
    world.run(0.1)
    assert world.removed == [victim]


def test_drain_seconds_end_the_wait_for_the_last_request() -> None:
    world, victim = with_a_victim(drain_seconds=20)
    world.deaf.clear()
    world.holding["gateway-0", victim] = 1
    world.run(19)
    assert victim in world.replicas
    world.run(2)
    assert world.removed == [victim]


def test_a_silent_gateway_stops_counting() -> None:
    world, victim = with_a_victim()
    world.silent.add("gateway-0")
    world.run(9)
    assert victim in world.replicas
    world.run(2)
    assert world.removed == [victim]


def test_a_gateway_that_died_long_before_holds_no_later_drain_up() -> None:
    world = World(gateways=("gateway-0", "killed"))
    world.reconciler.take_specs(revision(1, {"blue": deployment(instance_count=2)}))
    world.begin()
    world.run(1, load(in_flight=1))
    world.silent.add("killed")
    world.run(15, load(in_flight=1))
    world.reconciler.take_specs(revision(2, {"blue": deployment(instance_count=1)}))
    world.run(2, load(in_flight=1))
    assert len(world.removed) == 1


def test_a_silent_gateway_that_held_requests_counts_until_drain_seconds() -> None:
    world, victim = with_a_victim(drain_seconds=40)
    world.deaf.clear()
    world.holding["gateway-0", victim] = 1
    world.run(0.1)
    world.silent.add("gateway-0")
    world.run(38)
    assert victim in world.replicas
    world.run(3)
    assert world.removed == [victim]


def test_a_mirror_holds_a_drain_up_for_moments_only() -> None:
    world, victim = with_a_victim()
    world.deaf.clear()
    world.say("mirror", shadow=True)
    world.turn()
    world.deaf.add("mirror")
    world.holding["mirror", victim] = 5
    world.say("mirror", shadow=True)
    world.run(2)
    assert victim in world.replicas
    world.run(2)
    assert world.removed == [victim]


def test_a_gateway_that_never_spoke_of_the_endpoint_is_given_time() -> None:
    world, victim = with_a_victim()
    world.deaf.clear()
    world.reconciler.demand.spoke_ns["gateway-9"] = world.now_ns
    world.run(5)
    assert victim in world.replicas
    world.run(6)
    assert world.removed == [victim]


def test_a_replica_that_was_never_ready_goes_without_a_drain() -> None:
    world = World(slow=True)
    world.reconciler.take_specs(revision(1, {"blue": deployment(instance_count=2)}))
    world.begin()
    world.become("blue-2", ReplicaState.READY)
    world.reconciler.take_specs(revision(2, {"blue": deployment(instance_count=1)}))
    world.turn()
    assert world.removed == ["blue-1"]
    assert world.states() == ["ready"]


def test_the_newest_ready_replica_is_the_victim() -> None:
    _, victim = with_a_victim()
    assert victim == "blue-2"


def test_a_restart_in_the_middle_of_a_drain_continues_it() -> None:
    world, victim = with_a_victim()
    world.holding["gateway-0", victim] = 1
    world.deaf.clear()
    world.run(1)
    told = world.last().version
    world.restart()
    world.reconciler.take_specs(revision(2, {"blue": deployment(instance_count=1)}))
    world.say("gateway-0")
    world.begin()
    assert world.last().version == told, "nothing has changed, so nothing new is said"
    world.run(5)
    assert world.states() == ["draining", "ready"]
    world.holding.clear()
    world.run(0.1)
    assert world.removed == [victim]
    assert world.last().version > told


def test_after_a_restart_nothing_shrinks_before_the_known_reporters_were_heard() -> None:
    world = World(gateways=("gateway-0", "gateway-1"))
    specs = revision(1, {"blue": deployment(tidegate={"min_instances": 0, "idle_seconds": 5})})
    world.reconciler.take_specs(specs)
    world.begin()
    world.run(3)
    world.restart()
    world.reconciler.take_specs(specs)
    for gateway in world.gateways:
        world.say(gateway)
    world.begin()
    world.silent.add("gateway-1")
    world.run(9)
    assert world.shown().desired == 1
    world.run(2)
    assert world.shown().desired == 0


def test_a_restart_keeps_the_count_that_was_decided() -> None:
    world = World()
    body = deployment(tidegate={"min_instances": 1, "max_instances": 9})
    world.reconciler.take_specs(revision(1, {"blue": body}))
    world.begin()
    world.run(3, load(in_flight=4))
    desired = world.shown().desired
    assert desired == 6
    world.restart()
    world.reconciler.take_specs(revision(1, {"blue": body}))
    world.say("gateway-0", load(in_flight=4))
    world.begin()
    world.run(3, load(in_flight=4))
    assert world.shown().desired == desired
    assert len(world.replicas) == desired
    assert world.removed == []

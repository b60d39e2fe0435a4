"""Several autoscalers share the endpoints: taking over, letting go, and what a late one can still do: nothing."""

from __future__ import annotations

import pytest

from autoscaler.control import versions
from autoscaler.control.versions import LIFE
from router.contract.events import ReplicaState
from tests.support.autoscaler_fleet import load
from tests.support.autoscaler_group import Ground, Group, Machine, specs

READY, DRAINING = ReplicaState.READY, ReplicaState.DRAINING


def two(*, shared: bool = False) -> tuple[Group, Machine, Machine]:
    """Two machines; the first owns all four partitions and runs two replicas of each of two endpoints."""
    group = Group()
    group.revise(specs("tides-0", instance_count=2), specs("winds-1", instance_count=2))
    ground = Ground()
    first = group.machine("first", ground)
    second = group.machine("second", ground if shared else None)
    first.settle({0, 1, 2, 3}, 1)
    second.settle(set(), 1)
    group.run(1)
    assert len(group.ids("tides-0", READY)) == 2
    return group, first, second


def hand_over(group: Group, first: Machine, second: Machine, generation: int = 2) -> None:
    """`tides-0` goes to the second."""
    group.keep(first)
    first.settle({1, 2, 3}, generation)
    second.settle({0}, generation)


def lose_one(machine: Machine) -> None:
    """A replica of `tides-0` dies there, and the machine sees it."""
    name = next(one.id for one in machine.ground.replicas.values() if one.endpoint == "tides-0")
    del machine.ground.replicas[name]
    machine.look()
    machine.turn()


def test_each_acts_for_its_own_alone() -> None:
    group = Group()
    group.revise(specs("tides-0"), specs("winds-1"))
    first, second = group.machine("first"), group.machine("second")
    first.settle({0, 2}, 1)
    second.settle({1, 3}, 1)
    group.run(1)
    assert {one.endpoint for one in first.ground.replicas.values()} == {"tides-0"}
    assert {one.endpoint for one in second.ground.replicas.values()} == {"winds-1"}
    assert {one.endpoint for one in first.decisions} == {"tides-0"}
    assert "winds-1" not in first.reconciler.demand.words, "what is said about another's endpoints is not even kept"


def test_a_share_that_shrinks_stops_the_acting_at_once() -> None:
    group, first, _ = two()
    group.revise(specs("tides-0", 2, instance_count=5), specs("winds-1", 2, instance_count=5))
    words = len(group.words)
    first.reconciler.hold(frozenset({1, 2, 3}))
    turn = first.reconciler.turn(group.now_ns)
    assert {one.endpoint for one in turn.decisions} == {"winds-1"}
    assert {target[0] for plans in turn.plans.values() for plan in plans for target in plan.deployments} == {"winds-1"}
    assert {one.endpoint for one in turn.replicas} == {"winds-1"}
    assert len(group.words) == words
    assert not first.reconciler.planner.may_apply("tides-0", 1), "nor is a plan of before handed to a backend"
    assert first.reconciler.planner.may_apply("winds-1", 1)


def test_a_new_owner_says_so_at_once_and_routing_loses_nothing() -> None:
    group, first, second = two()
    old, version = group.ids("tides-0"), group.newest("tides-0").version
    second.ground.slow = True
    hand_over(group, first, second)
    said = len(group.words)
    second.turn()
    word = group.words[said]
    assert (word.endpoint, word.generation, word.version) == ("tides-0", 2, version + LIFE)
    assert {one.id for one in word.deployments["blue"].replicas if one.state is READY} == old
    group.run(5)
    assert group.ids("tides-0", READY) == old, "they serve on until others are ready"
    assert first.ground.removed == []
    assert len(second.ground.replicas) == 2, "all at once: nothing has to make room"
    second.ground.make_ready()
    second.look()
    second.turn()
    assert len(group.ids("tides-0", READY)) == 2
    assert group.ids("tides-0", DRAINING) == old
    assert first.ground.removed == [], "what drains may still have requests"
    group.run(1)
    assert group.ids("tides-0") == set(second.ground.replicas)
    assert set(first.ground.removed) == old, "nobody routes to them any more, so they end"
    assert {one.endpoint for one in first.ground.replicas.values()} == {"winds-1"}


def test_requests_on_a_former_owner_s_replica_are_waited_for() -> None:
    group, first, second = two()
    old = group.ids("tides-0")
    hand_over(group, first, second)
    second.turn()
    assert group.ids("tides-0", DRAINING) == old
    second.turn()
    assert first.ground.removed == [], "no gateway has said yet that it knows"


def test_a_former_owner_that_comes_back_after_the_others_end_leaves_nothing_behind() -> None:
    group, first, second = two()
    hand_over(group, first, second)
    first.cut_off = True
    group.run(3)
    assert len(first.ground.replicas) == 4, "it has not heard of the new owner"
    first.begin()
    first.cut_off = False
    first.settle({1, 2, 3}, 3)
    group.run(1)
    assert {one.endpoint for one in first.ground.replicas.values()} == {"winds-1"}


def test_on_a_backend_that_both_share_the_replicas_simply_change_hands() -> None:
    group, first, second = two(shared=True)
    before = dict(first.ground.replicas)
    hand_over(group, first, second)
    second.look()
    group.run(3)
    assert first.ground.replicas == before
    assert first.ground.removed == []
    assert (group.newest("tides-0").generation, group.ids("tides-0", READY)) == (
        2,
        {one.id for one in before.values() if one.endpoint == "tides-0"},
    )
    assert second.ground.generations["tides-0"] == 2, "the takeover has fenced the former owner off"


def test_a_late_plan_of_a_zombie_is_refused_and_it_stops() -> None:
    group, first, second = two(shared=True)
    group.keep(first)
    first.cut_off = True
    second.settle({0}, 2)
    second.look()
    group.revise(specs("tides-0", 2, instance_count=3), specs("winds-1", 2, instance_count=3))
    second.turn()
    assert len([one for one in first.ground.replicas.values() if one.endpoint == "tides-0"]) == 3
    first.turn()
    assert first.ground.refused
    assert not first.acts_for("tides-0")
    assert first.acts_for("winds-1"), "only what somebody newer acts for"
    assert first.reconciler.planner.rivals.fenced == 1
    first.settle({0, 1, 2, 3}, 3)
    assert first.acts_for("tides-0"), "until the shares are dealt anew"


def test_a_higher_generation_fences_the_one_who_thinks_it_owns() -> None:
    group, first, second = two()
    group.keep(first)
    second.settle({0}, 2)
    second.turn()
    assert not first.acts_for("tides-0")
    assert first.reconciler.planner.rivals.fenced == 1
    words = len(group.words)
    group.revise(specs("tides-0", 2, instance_count=4))
    first.turn()
    assert len(group.words) == words


def test_late_words_of_a_former_owner_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "LIFE", 1)  # so that they have higher numbers
    group, first, second = two()
    group.keep(first)
    first.cut_off = True
    group.revise(specs("tides-0", 2, instance_count=3))
    for _ in range(3):
        lose_one(first)
    second.settle({0}, 2)
    second.turn()
    assert group.newest("tides-0").version < first.waiting[-1].version
    first.reconnect()
    second.turn()
    newest = group.newest("tides-0")
    assert newest.generation == 2
    assert newest.version == max(one.version for one in group.words if one.endpoint == "tides-0")
    assert second.reconciler.planner.rivals.outdone > 0
    assert not first.acts_for("tides-0")


def test_words_of_before_that_are_read_again_are_not() -> None:
    group, first, second = two()
    old = group.newest("tides-0")
    hand_over(group, first, second)
    group.run(1)
    words = len(group.words)
    second.reconciler.take_replicas(old, again=True)
    second.turn()
    assert len(group.words) == words
    second.reconciler.take_replicas(old)
    second.turn()
    assert len(group.words) == words + 1, "said late it would be what a compacted log keeps"


def test_of_two_with_one_generation_the_one_whose_share_is_confirmed_goes_on() -> None:
    group, first, second = two()
    group.keep(first)
    for machine, confirmed in ((first, False), (second, True)):
        machine.cut_off = True
        machine.begin()
        machine.settle({0}, 5, confirmed=confirmed)
        machine.turn()
    assert first.reconciler.territory.generation("tides-0") == 5
    assert second.waiting[-1].generation == 5
    lose_one(first)
    assert (first.waiting[-1].endpoint, first.waiting[-1].generation) == ("tides-0", 5)
    second.reconnect()
    first.reconnect()
    assert not first.acts_for("tides-0")
    second.turn()
    assert second.acts_for("tides-0")
    assert group.newest("tides-0").generation == 6


def test_a_remembered_share_raises_no_generation_and_announces_nothing() -> None:
    group, first, _ = two()
    group.keep(first)
    words, generation = len(group.words), group.newest("tides-0").generation
    first.begin()
    first.settle({0, 1, 2, 3}, generation, confirmed=False)
    group.run(1)
    assert len(group.words) == words
    assert first.reconciler.territory.generation("tides-0") == generation
    assert len(first.ground.replicas) == 4


def test_a_restart_does_not_take_its_own_dead_replicas_for_a_former_owner_s() -> None:
    group, first, _ = two()
    group.keep(first)
    dead = next(iter(group.ids("tides-0")))
    del first.ground.replicas[dead]
    first.begin()
    first.settle({0, 1, 2, 3}, 2)
    first.turn()
    assert dead not in group.ids("tides-0")
    assert len(group.ids("tides-0", READY)) == 2


def test_a_restart_in_the_middle_of_a_takeover_keeps_the_former_owner_s_replicas() -> None:
    group, first, second = two()
    old = group.ids("tides-0")
    second.ground.slow = True
    hand_over(group, first, second)
    group.run(1)
    group.keep(second)
    second.begin()
    second.settle({0}, 3)
    group.run(1)
    assert group.ids("tides-0", READY) == old
    second.ground.make_ready()
    second.look()
    group.run(2)
    assert group.ids("tides-0") == set(second.ground.replicas)


def test_what_was_known_survives_the_change_of_owner() -> None:
    group, first, second = two()
    rule = {"min_instances": 1, "max_instances": 9}
    group.revise(specs("tides-0", 2, instance_count=1, tidegate=rule))
    group.run(3, {"tides-0": load(in_flight=4, arrivals=2)})
    desired = first.reconciler.fleet.desired(("tides-0", "blue"))
    assert desired > 3
    before = first.reconciler.fleet.histories_of("tides-0")
    hand_over(group, first, second)
    second.turn()
    assert second.reconciler.fleet.desired(("tides-0", "blue")) == desired
    assert second.reconciler.fleet.histories_of("tides-0")["blue"].grown_ns == before["blue"].grown_ns
    group.run(10, {"tides-0": load(in_flight=4, arrivals=2)})
    assert second.reconciler.fleet.desired(("tides-0", "blue")) == desired


def test_a_kept_share_goes_on_without_a_word_through_a_new_deal() -> None:
    group, first, second = two()
    group.run(2)
    words = [one for one in group.words if one.endpoint == "winds-1"]
    hand_over(group, first, second)
    group.run(2)
    assert [one for one in group.words if one.endpoint == "winds-1"] == words
    assert first.reconciler.territory.generation("winds-1") == 2, "a late owner of the deal before is outdone"


def test_nothing_shrinks_after_a_takeover_before_the_gateways_have_spoken() -> None:
    group, first, second = two()
    rule = {"min_instances": 0, "max_instances": 9, "idle_seconds": 1}
    group.revise(specs("tides-0", 2, instance_count=1, tidegate=rule))
    group.run(0.5, {"tides-0": load(in_flight=4, arrivals=2)})
    hand_over(group, first, second)
    group.now_ns += 9 * 10**9
    second.turn()
    assert second.decisions == []
    group.run(2)
    assert second.reconciler.fleet.desired(("tides-0", "blue")) == 0


def test_an_endpoint_that_is_deleted_while_nobody_owns_it_ends_with_its_next_owner() -> None:
    group, first, second = two()
    hand_over(group, first, second)
    first.reconciler.drop({0})
    second.begin()
    gone = specs("tides-0", 3)
    group.revise(type(gone)(gone.endpoint, 3, gone.at_ns, gone.document, {}, deleted=True))
    second.settle({0}, 3)
    group.run(15)
    assert group.newest("tides-0").deployments == {}
    assert {one.endpoint for one in first.ground.replicas.values()} == {"winds-1"}
    assert second.ground.replicas == {}

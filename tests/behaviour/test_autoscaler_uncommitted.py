"""Words that were told directly and never committed: their numbers stand for them for ever, whoever comes after."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from autoscaler.control import versions
from router.contract.codec import encode_specs
from router.contract.events import SPECS, EndpointReplicas
from tests.support.autoscaler_fleet import World, deployment, load, revision
from tests.support.autoscaler_group import specs
from tests.support.autoscaler_shared_log import Scaler, until
from tests.support.autoscaler_talk import Gateway, talking

ENDPOINT = "tides-0"


def of_two_meanings(words: list[EndpointReplicas]) -> list[tuple[int, int]]:
    """(generation, version) that stand for more than one word."""
    meanings: dict[tuple[int, int], list[Any]] = defaultdict(list)
    for one in words:
        known = meanings[one.generation, one.version]
        if dict(one.deployments) not in known:
            known.append(dict(one.deployments))
    return [number for number, found in meanings.items() if len(found) > 1]


def lose_what_is_appended(scaler: Scaler) -> None:
    """From now on its disk takes nothing; it is killed before that changes."""
    scaler.log.append = lambda *_: 0  # type: ignore[method-assign]  # as a log that accepts and never commits


async def tell_and_die(first: Scaler, gateway: Gateway) -> EndpointReplicas:
    """With the broker away, tell the gateway of more replicas directly, and be killed with nothing committed."""
    async with first.running(ready=False, kill=True):
        first.member.deal([0, 2], 7)
        await until("two run", lambda: len(gateway.ready(ENDPOINT)) == 2)
        gateway.direct_to = [first]
        first.log.in_reach.clear()
        first.member.reachable = False
        committed = gateway.version(ENDPOINT)
        lose_what_is_appended(first)
        gateway.log.append(SPECS, ENDPOINT, encode_specs(specs(ENDPOINT, 2, instance_count=4)))
        await until("told of four", lambda: len(gateway.ready(ENDPOINT)) == 4)
        gateway.direct_to = []
    told = gateway.word(ENDPOINT)
    assert told is not None
    assert told.version > committed
    return told


async def test_one_killed_before_it_committed_and_restarted_without_a_broker_uses_no_number_twice(
    tmp_path: Path,
) -> None:
    async with talking(tmp_path / "log", ENDPOINT) as gateway:
        gateway.log.append(SPECS, ENDPOINT, encode_specs(specs(ENDPOINT, instance_count=2)))
        first = Scaler(tmp_path, tmp_path / "log", "first")
        told = await tell_and_die(first, gateway)
        dead = min(first.world.replicas)
        del first.world.replicas[dead]
        async with first.running(ready=False):
            first.log.in_reach.clear()
            gateway.direct_to = [first]
            await until("acts from memory", lambda: first.acts_for(ENDPOINT))
            await until("it is believed", lambda: gateway.ready(ENDPOINT) == set(first.world.replicas))
            assert first.autoscaler.reconciler.territory.generation(ENDPOINT) == told.generation == 7
            word = gateway.word(ENDPOINT)
            assert word is not None
            assert word.version > told.version
            assert len(word.deployments["blue"].replicas) == 4
            assert dead not in {one.id for one in word.deployments["blue"].replicas}
            gateway.log.append(SPECS, ENDPOINT, encode_specs(specs(ENDPOINT, 3, instance_count=1)))
            await until("and scales in", lambda: len(first.world.replicas) == len(gateway.ready(ENDPOINT)) == 1)
        assert of_two_meanings(gateway.words) == []


async def test_with_nothing_to_change_a_word_that_nobody_knows_is_outdone_all_the_same(tmp_path: Path) -> None:
    async with talking(tmp_path / "log", ENDPOINT) as gateway:
        gateway.log.append(SPECS, ENDPOINT, encode_specs(specs(ENDPOINT, instance_count=2)))
        first = Scaler(tmp_path, tmp_path / "log", "first")
        told = await tell_and_die(first, gateway)
        async with first.running(ready=False):
            first.log.in_reach.clear()
            gateway.direct_to = [first]
            await until("outdone", lambda: gateway.version(ENDPOINT) > told.version)
            await until("the same four", lambda: gateway.ready(ENDPOINT) == set(first.world.replicas))
        assert of_two_meanings(gateway.words) == []


@pytest.mark.parametrize("before_the_first_turn", [True, False])
def test_planning_goes_above_what_a_reporter_names_whenever_it_is_heard(
    monkeypatch: pytest.MonkeyPatch, before_the_first_turn: bool
) -> None:
    monkeypatch.setattr(versions, "LIFE", 1)  # so that nothing else keeps the numbers apart
    world = World()
    world.reconciler.take_specs(revision(1, {"blue": deployment(instance_count=2)}))
    world.begin()
    world.run(1, load(in_flight=1))
    world.heard_version["gateway-0"] = named = world.last().version + 7
    world.deaf.add("gateway-0")
    world.restart()
    world.reconciler.take_specs(revision(2, {"blue": deployment(instance_count=3)}))
    if before_the_first_turn:
        world.say("gateway-0", load(in_flight=1))
    said = len(world.told)
    world.begin()
    if before_the_first_turn:
        assert world.told[said].version == named + 1
    world.run(0.2, load(in_flight=1))
    assert world.last().version > named
    assert of_two_meanings(world.told) == []

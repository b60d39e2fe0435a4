"""Two whole services on one log: death and takeover, handing over, a broker that is away, and a restart meanwhile."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from autoscaler.backends.memory import MemoryWorld
from autoscaler.control import keeping
from autoscaler.control.versions import LIFE
from router.contract.codec import encode_specs
from router.contract.errors import Unavailable
from router.contract.events import SPECS, ReplicaState
from router.runtime.log.base import Share
from tests.support.autoscaler_fleet import SECOND, load
from tests.support.autoscaler_group import specs
from tests.support.autoscaler_shared_log import Scaler, until
from tests.support.autoscaler_talk import Gateway, talking

ENDPOINT = "tides-0"
OTHER = "winds-1"


@pytest.fixture
async def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    monkeypatch.setattr(keeping, "KEEP_NS", SECOND // 5)
    async with talking(tmp_path / "log", ENDPOINT, OTHER) as made:
        for event in (specs(ENDPOINT, instance_count=2), specs(OTHER, instance_count=2)):
            made.log.append(SPECS, event.endpoint, encode_specs(event))
        yield made


def scaler(tmp_path: Path, name: str, world: MemoryWorld | None = None) -> Scaler:
    return Scaler(tmp_path, tmp_path / "log", name, world)


async def test_when_one_dies_the_other_takes_over_and_routing_loses_nothing(tmp_path: Path, gateway: Gateway) -> None:
    first, second = scaler(tmp_path, "first"), scaler(tmp_path, "second")
    async with second.running(ready=False):
        second.member.deal([1], 1)
        async with first.running(ready=False, kill=True):
            first.member.deal([0, 2, 3], 1)
            await until("both run", lambda: len(gateway.ready(ENDPOINT)) == len(gateway.ready(OTHER)) == 2)
            before = gateway.word(ENDPOINT)
            assert before is not None
        said = len(gateway.words)
        second.member.deal([0, 1, 2, 3], 2)
        await until("taken over", lambda: any(one.endpoint == ENDPOINT for one in gateway.words[said:]))
        word = next(one for one in gateway.words[said:] if one.endpoint == ENDPOINT)
        assert (word.generation, word.version) == (2, before.version + LIFE)
        assert {one.id for one in before.deployments["blue"].replicas} <= {
            one.id for one in word.deployments["blue"].replicas
        }
        mine = {one.id for one in second.world.replicas.values() if one.endpoint == ENDPOINT}
        await until(
            "ours serve", lambda: gateway.ready(ENDPOINT) and gateway.ready(ENDPOINT) <= second.world.replicas.keys()
        )
        await until("ours alone", lambda: len(gateway.ready(ENDPOINT)) == 2)
        assert mine <= second.world.replicas.keys()
        for one in gateway.words[said:]:
            states = [replica.state for replica in one.deployments["blue"].replicas]
            assert ReplicaState.READY in states, "at no moment was there nobody to route to"
        stats = second.autoscaler.intake.stats
        assert stats.restored >= 1, "it began with the first one's snapshot"


async def test_a_former_owner_ends_its_replicas_once_nobody_routes_to_them(tmp_path: Path, gateway: Gateway) -> None:
    first, second = scaler(tmp_path, "first"), scaler(tmp_path, "second")
    async with second.running(ready=False), first.running(ready=False):
        second.member.deal([], 1)
        first.member.deal([0, 1, 2, 3], 1)
        await until("both run", lambda: len(gateway.ready(ENDPOINT)) == len(gateway.ready(OTHER)) == 2)
        first.member.deal([1, 2, 3], 2)
        second.member.deal([0], 2)
        await until("the second runs", lambda: gateway.ready(ENDPOINT) <= second.world.replicas.keys())
        await until("the first ends", lambda: {one.endpoint for one in first.world.replicas.values()} == {OTHER})
        assert len(gateway.ready(OTHER)) == 2
        assert not first.acts_for(ENDPOINT)
        assert ENDPOINT not in first.autoscaler.reconciler.demand.words


async def test_a_zombie_on_a_shared_backend_is_refused_and_lives_on(tmp_path: Path, gateway: Gateway) -> None:
    world = MemoryWorld()
    first, second = scaler(tmp_path, "first", world), scaler(tmp_path, "second", world)
    async with second.running(ready=False), first.running(ready=False) as zombie:
        first.member.deal([0, 1, 2, 3], 1)
        await until("both run", lambda: len(gateway.ready(ENDPOINT)) == len(gateway.ready(OTHER)) == 2)
        world.generations[ENDPOINT] = 2
        event = specs(ENDPOINT, 2, instance_count=4)
        gateway.log.append(SPECS, ENDPOINT, encode_specs(event))
        await until("fenced", lambda: zombie.autoscaler.intake.stats.fenced == 1)
        assert (first.acts_for(ENDPOINT), first.acts_for(OTHER)) == (False, True)
        assert len([one for one in world.replicas.values() if one.endpoint == ENDPOINT]) == 2
        second.member.deal([0], 3)
        await until("the owner does it", lambda: len(gateway.ready(ENDPOINT)) == 4)


async def test_while_the_broker_is_away_scaling_goes_on_both_ways(tmp_path: Path, gateway: Gateway) -> None:
    rule = {"min_instances": 0, "max_instances": 9, "idle_seconds": 1}
    event = specs(ENDPOINT, 2, instance_count=1, tidegate=rule)
    gateway.log.append(SPECS, ENDPOINT, encode_specs(event))
    first = scaler(tmp_path, "first")
    async with first.running(ready=False):
        first.member.deal([0, 1, 2, 3], 1)
        gateway.rows[ENDPOINT] = (load(in_flight=1, arrivals=1),)
        await until("one runs", lambda: len(gateway.ready(ENDPOINT)) == 1)
        gateway.direct_to = [first]
        first.log.in_reach.clear()
        first.member.reachable = False
        gateway.rows[ENDPOINT] = (load(in_flight=4, arrivals=4),)
        await until("out", lambda: len(gateway.ready(ENDPOINT)) == 6)
        gateway.rows[ENDPOINT] = ()
        await until("in", lambda: gateway.word(ENDPOINT) and not gateway.ready(ENDPOINT))
        first.log.in_reach.set()
        first.member.reachable = True
        stats = first.autoscaler.intake.stats
        await until("the log catches up", lambda: first.autoscaler.intake.stats.echoes > 20)
        assert stats.direct >= stats.echoes
        assert stats.duplicates == 0


async def test_a_restart_while_the_broker_is_away_goes_on_with_the_last_share(tmp_path: Path, gateway: Gateway) -> None:
    first = scaler(tmp_path, "first")
    async with first.running(ready=False):
        first.member.deal([0, 2], 7)
        await until("it runs", lambda: len(gateway.ready(ENDPOINT)) == 2)
    assert json.loads((first.data.root / "autoscaler.share").read_text())["partitions"] == [0, 2]
    gateway.direct_to = [first]
    async with first.running(ready=False):
        first.log.in_reach.clear()
        await until("acts from memory", lambda: first.acts_for(ENDPOINT))
        assert not first.acts_for(OTHER)
        assert first.autoscaler.reconciler.territory.generation(ENDPOINT) == 7
        gateway.log.append(SPECS, ENDPOINT, encode_specs(specs(ENDPOINT, 2, instance_count=3)))
        await until("scales", lambda: len(gateway.ready(ENDPOINT)) == 3)
        word = gateway.word(ENDPOINT)
        assert word is not None
        assert word.generation == 7, "what is only remembered outdoes nobody"
        first.log.in_reach.set()
        first.member.deal([1], 9)
        await until("the new share", lambda: first.acts_for(OTHER))
        assert not first.acts_for(ENDPOINT)


async def test_who_has_no_share_is_ready_and_does_nothing(
    tmp_path: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoscaler.control.service.SHARE_SECONDS", 0.1)
    first = scaler(tmp_path, "first")
    async with first.running():
        with pytest.raises(Unavailable):
            first.autoscaler._taken([])
        first.member.deal([], 3)
        await until("settled", lambda: first.autoscaler._settled.is_set())
        assert first.autoscaler._taken([]) == []
        assert first.world.replicas == {}
        assert gateway.words == []
    assert first.member.closed


async def test_a_share_lost_while_it_is_being_taken_over_is_not_acted_for(tmp_path: Path, gateway: Gateway) -> None:
    first = scaler(tmp_path, "first")
    async with first.running(ready=False):
        first.log.in_reach.clear()
        first.member.deal([0], 1)
        await until("reading", lambda: first.autoscaler.reconciler.territory.followed == {0})
        first.member.deal([1], 2)
        first.log.in_reach.set()
        await until("the other", lambda: first.acts_for(OTHER))
        assert not first.acts_for(ENDPOINT)
        await until("it runs", lambda: len(gateway.ready(OTHER)) == 2)
    assert {one.endpoint for one in gateway.words} == {OTHER}
    assert first.member.share == Share(frozenset({1}), 2)

"""A cluster's bad weather: what runs is left alone and stays known, what was wished comes true afterwards, no hot loops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from loadtests.kubernetes import image
from loadtests.kubernetes.cluster.cluster import Cluster
from router.contract.events import Phase, ReplicaState
from tests.support.backend_rigs import TARGET, fetch, ids, plan, ready, until, wish
from tests.support.kubernetes_cluster import running_cluster
from tests.support.kubernetes_rig import KubernetesRig


@pytest.fixture(scope="module")
def stormy(node_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of two nodes whose parts tests may kill and freeze, if they let them run again."""
    yield from running_cluster(Cluster(tmp_path_factory.mktemp("stormy"), nodes=2))


@pytest.fixture
async def stormy_rig(stormy: Cluster, tmp_path: Path) -> AsyncIterator[KubernetesRig]:
    """A rig in it."""
    async with stormy.namespace() as namespace:
        made = KubernetesRig(stormy, namespace, await image.image(stormy), tmp_path)
        yield made
        await made.clean()
        if stormy.control.api_server.pid is None:
            await stormy.control.api_server.start()


# The controllers of a cluster whose API server was away need up to half a minute: that comes last.


async def test_replicas_on_a_node_that_is_lost_are_out_of_routing_and_replaced(stormy_rig: KubernetesRig) -> None:
    rig = stormy_rig
    backend = rig.backend(rig.settings(lost_node_seconds=1))
    await backend.start()
    await backend.apply(plan(wish(rig.document, 1)))
    (one,) = (await until(backend, ready(1))).replicas
    (pod,) = await rig.list("pods")
    node = next(node for node in rig.cluster.node if node.name == pod["spec"]["nodeName"])
    await node.kubelet.freeze()
    try:
        seen = await until(backend, lambda o: all(r.state is not ReplicaState.READY for r in o.replicas))
        assert all(r.id != one.id or r.state is ReplicaState.UNREADY for r in seen.replicas)
        assert one.id not in ids(await until(backend, ready(1)))
    finally:
        await node.kubelet.thaw()
        await node.until_ready()


async def test_an_api_server_that_is_away_changes_nothing_and_gets_what_it_missed(stormy_rig: KubernetesRig) -> None:
    rig, server = stormy_rig, stormy_rig.cluster.control.api_server
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 2)))
    two = await until(backend, ready(2))
    await server.kill()
    seen = await until(backend, lambda o: "cannot be reached" in o.conditions[TARGET].message)
    assert seen.conditions[TARGET].phase is Phase.READY
    assert ready(2)(seen)
    assert ids(seen) == ids(two)
    for one in seen.replicas:
        assert await fetch(one, "/") == "ok"
    before = sum(backend.cluster.requests.values())
    await backend.apply(plan(wish(rig.document, 3)))
    seen = await until(backend, lambda o: o.conditions[TARGET].phase is Phase.SCALING)
    assert "is asked again" in seen.conditions[TARGET].message
    await asyncio.sleep(5)
    assert sum(backend.cluster.requests.values()) - before < 60  # five seconds of four watches and one write
    await server.start()
    three = await until(backend, lambda o: ready(3)(o) and not o.conditions[TARGET].message)
    assert ids(two) < ids(three)


async def test_who_starts_while_the_server_is_away_knows_that_he_knows_nothing(stormy_rig: KubernetesRig) -> None:
    rig, server = stormy_rig, stormy_rig.cluster.control.api_server
    first = rig.backend()
    await first.start()
    await first.apply(plan(wish(rig.document, 1)))
    one = ids(await until(first, ready(1)))
    await first.close(end_replicas=False)
    await server.kill()
    following = rig.backend()
    await following.start()
    seen = await until(following, lambda o: "cannot be reached" in o.blind)
    assert seen.replicas == ()
    with pytest.raises(Exception, match="cannot be reached"):
        await following.apply(plan(wish(rig.document, 1), generation=2))
    await server.start()
    assert ids(await until(following, lambda o: not o.blind and ready(1)(o))) == one
    await following.apply(plan(wish(rig.document, 1), generation=2))


async def test_half_of_all_pods_deleted_by_hand_come_back(rig: KubernetesRig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 6)))
    six = ids(await until(backend, ready(6)))
    gone = set(sorted(six)[:3])
    for name in gone:
        await rig.cluster.api.delete(rig.path("pods", name))
    assert ids(await until(backend, lambda o: ready(6)(o) and gone.isdisjoint(ids(o)))) & six == six - gone

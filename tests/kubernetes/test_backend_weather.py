"""A cluster's bad weather: what runs is left alone and stays known, what was wished comes true afterwards, no hot loops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from loadtests.kubernetes import image
from loadtests.kubernetes.cluster.cluster import Cluster
from router.contract.events import Phase, ReplicaState
from tests.support.backend_rigs import TARGET, fetch, ids, plan, ready, until, wish
from tests.support.kubernetes_rig import KubernetesRig


@pytest.fixture
async def own_rig(own_cluster: Cluster, tmp_path: Path) -> AsyncIterator[KubernetesRig]:
    """A rig on a cluster that the test may do anything to."""
    async with own_cluster.namespace() as namespace:
        made = KubernetesRig(own_cluster, namespace, await image.image(own_cluster), tmp_path)
        yield made
        await made.clean()


async def test_an_api_server_that_is_away_changes_nothing_and_gets_what_it_missed(own_rig: KubernetesRig) -> None:
    rig, server = own_rig, own_rig.cluster.control.api_server
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


async def test_who_starts_while_the_server_is_away_knows_that_he_knows_nothing(own_rig: KubernetesRig) -> None:
    rig, server = own_rig, own_rig.cluster.control.api_server
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


@pytest.fixture
async def two_nodes(node_here: None, tmp_path: Path) -> AsyncIterator[KubernetesRig]:
    """A rig on a cluster of two nodes."""
    cluster = Cluster(tmp_path / "two", nodes=2)
    await cluster.start()
    try:
        async with cluster.namespace() as namespace:
            made = KubernetesRig(cluster, namespace, await image.image(cluster), tmp_path)
            yield made
            await made.clean()
    finally:
        await cluster.stop()


async def test_replicas_on_a_node_that_is_lost_are_out_of_routing_and_replaced(two_nodes: KubernetesRig) -> None:
    rig = two_nodes
    backend = rig.backend(rig.settings(lost_node_seconds=1))
    await backend.start()
    await backend.apply(plan(wish(rig.document, 1)))
    (one,) = (await until(backend, ready(1))).replicas
    (pod,) = await rig.list("pods")
    node = next(node for node in rig.cluster.node if node.name == pod["spec"]["nodeName"])
    await node.kubelet.freeze()
    seen = await until(backend, lambda o: all(r.state is not ReplicaState.READY for r in o.replicas), 120)
    assert all(r.id != one.id or r.state is ReplicaState.UNREADY for r in seen.replicas)
    assert one.id not in ids(await until(backend, ready(1), 120))
    await node.kubelet.thaw()


async def test_half_of_all_pods_deleted_by_hand_come_back(own_rig: KubernetesRig) -> None:
    rig = own_rig
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 6)))
    six = ids(await until(backend, ready(6)))
    for name in sorted(six)[:3]:
        await rig.cluster.api.delete(rig.path("pods", name))
    assert len(ids(await until(backend, ready(6))) & six) == 3

"""The API server dies, forgets the past, or loses our kinds of objects: pods serve on, and what was missed is caught up with."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from loadtests.kubernetes.cluster.cluster import Cluster
from tests.support.kubernetes_faults import Shop, created, document, opened
from tests.support.kubernetes_faults_gate import USER, Gate, gate
from tests.support.kubernetes_objects import Kubectl, define, deployment, endpoint, says

pytestmark = pytest.mark.asyncio(loop_scope="module")
KNOCKS_PER_SECOND = 20
"""Six watches that are tried again and one write, each after half a second at first and less and less often."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gated(faulty_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Shop, Gate]]:
    """An endpoint of a Tidegate that reaches the API server through a gate alone, and that follows objects too.

    Each test begins with as many replicas as it wants.
    """
    folder = tmp_path_factory.mktemp("gated")
    await define(faulty_cluster)
    async with contextlib.AsyncExitStack() as ends:
        way = await ends.enter_async_context(gate(faulty_cluster, folder))
        flags = "--kubernetes-objects"
        shop = await ends.enter_async_context(opened(faulty_cluster, folder, flags, kubeconfig=way.kubeconfig))
        await shop.open(2)
        yield shop, way


async def test_an_api_server_that_is_killed_loses_no_request_and_gets_what_was_decided_meanwhile(
    gated: tuple[Shop, Gate],
) -> None:
    """SIGKILL for the API server; while it is away a third replica is asked for.

    Counted: every request that was sent, none may be lost; connections that Tidegate tried to make while the server was
    away, of which a loop without pauses would make thousands; pods that were ever made: the third one.
    """
    shop, way = gated
    server = shop.cluster.control.api_server
    two = set(await shop.at(2))
    before = created(shop.cluster)
    async with shop.traffic() as traffic:
        await shop.from_all(traffic, two)
        await server.kill()
        knocked, since = way.knocks, time.monotonic()
        try:
            await shop.deploy(document(3))
            await shop.until_counts(desired=3, observed=2, ready=2)
            await shop.more(traffic, 400)
            knocks, seconds = way.knocks - knocked, time.monotonic() - since
        finally:
            await server.start()
        await shop.until_ready(3)
        three = set(await shop.until_pods(3))
        await shop.from_all(traffic, three)
    traffic.nothing_lost()
    assert 0 < knocks <= KNOCKS_PER_SECOND * seconds + 20, (knocks, seconds)
    assert two < three
    assert created(shop.cluster) - before == 1


async def test_a_watch_whose_past_was_compacted_begins_anew_and_loses_no_request(gated: tuple[Shop, Gate]) -> None:
    """The autoscaler is cut off, a pod is deleted and replaced behind its back, and etcd forgets that it ever happened.

    Counted: every request that was sent, none may be lost, also of those that were led to the pod that is gone; lists that the
    autoscaler asked for because its watch could not go on; pods that were ever made: one, for the deleted one.
    """
    shop, way = gated
    cluster, server = shop.cluster, shop.cluster.control.api_server
    three = await shop.at(3)
    before = created(cluster)
    async with shop.traffic() as traffic:
        await shop.from_all(traffic, set(three))
        way.close()
        await shop.delete(three[0])
        now = set(await shop.until_pods(3))
        await shop.only_from(traffic, set(three[1:]))
        await cluster.compact()
        lists = listed(cluster)
        await server.kill()
        await server.start()
        way.reopen()
        await shop.from_all(traffic, now)
        await shop.until_ready(3)
    traffic.nothing_lost()
    assert listed(cluster) > lists
    assert set(await shop.until_pods(3)) == now
    assert created(cluster) - before == 1


def listed(cluster: Cluster) -> int:
    """How often the autoscaler behind the gate has listed pods."""
    asked = cluster.requests().items()
    return sum(count for one, count in asked if (one.user, one.verb, one.resource) == (USER, "list", "pods"))


async def test_deleting_our_kinds_of_objects_ends_no_pod_and_loses_no_request(gated: tuple[Shop, Gate]) -> None:
    """Objects adopt what serves; both definitions are deleted under them, made again, and the objects applied anew.

    Counted: every request that was sent, none may be lost; pods that were ever made: none until the objects ask for a third one.
    """
    shop, _ = gated
    two = set(await shop.at(2))
    kubectl, before = Kubectl(shop.cluster, shop.namespace), created(shop.cluster)
    async with shop.traffic() as traffic:
        await shop.from_all(traffic, two)
        await kubectl.applied(endpoint(traffic={"blue": 100}), deployment(**document(2)))
        await kubectl.until("od", "shop-blue", says("Ready"))
        await undefine(kubectl)
        await shop.more(traffic)
        await shop.until_ready(2)
        assert (set(await shop.names()), created(shop.cluster)) == (two, before)
        await define(shop.cluster)
        await kubectl.applied(endpoint(traffic={"blue": 100}), deployment(**document(3)))
        await shop.until_ready(3)
        three = set(await shop.until_pods(3))
        await shop.from_all(traffic, three)
        await undefine(kubectl)  # nothing of the namespace is to wait for whoever would let go of its objects
    traffic.nothing_lost()
    assert two < three
    assert created(shop.cluster) - before == 1


async def undefine(kubectl: Kubectl) -> None:
    """Delete both definitions, and with them every object."""
    said = await kubectl("delete", "crd", "--all", "--timeout=60s")
    assert said.code == 0, said.err

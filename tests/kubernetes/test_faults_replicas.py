"""Replicas come to harm under live traffic: a node falls silent, servers are killed, pods are deleted, a victim's autoscaler dies."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator

import psutil
import pytest
import pytest_asyncio

from loadtests.kubernetes.cluster.cluster import Cluster
from loadtests.kubernetes.cluster.node import Node
from tests.support.kubernetes_faults import SERVER, Shop, created, document, opened

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(faulty_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    """Four replicas on two nodes, for every test of this file; each begins with as many as it wants."""
    async with opened(faulty_cluster, tmp_path_factory.mktemp("replicas")) as made:
        await made.open(4)
        yield made


async def test_half_of_the_pods_deleted_at_once_lose_no_request(shop: Shop) -> None:
    """Two of four pods are deleted by hand with their normal grace.

    Counted: every request that was sent, of 8 callers without a pause, none may be lost; pods that were ever made: two, for the two.
    """
    four = await shop.at(4)
    before = created(shop.cluster)
    async with shop.traffic() as traffic:
        await shop.from_all(traffic, set(four))
        await shop.delete(*four[:2])
        now = set(await shop.until_pods(4))
        await shop.until_ready(4)
        await shop.until_gone(*four[:2])
        await shop.from_all(traffic, now)
    traffic.nothing_lost()
    assert now & set(four) == set(four[2:])
    assert created(shop.cluster) - before == 2


async def test_an_autoscaler_that_is_killed_while_a_victim_drains_finishes_with_that_victim(shop: Shop) -> None:
    """Three replicas become two; SIGKILL for the autoscaler once the victim drains, which a long request makes it do for seconds.

    Counted: every request that was sent, the long ones too, none may be lost; pods that went: the named victim and no other; pods that
    were ever made: none.
    """
    three = set(await shop.at(3))
    before = created(shop.cluster)
    async with shop.traffic(long=12, long_seconds=6.0) as traffic:
        await shop.from_all(traffic, three)
        await shop.deploy(document(2))
        victim = await shop.until_draining()
        (killed,) = shop.whole.pids("autoscaler")
        os.kill(killed, signal.SIGKILL)
        assert set(await shop.names()) == three, "killed too late: the victim is gone"
        await shop.until_ready(2)
        left = set(await shop.until_pods(2))
        assert shop.whole.pids("autoscaler") != [killed]
        await shop.from_all(traffic, left)
    traffic.nothing_lost()
    assert left == three - {victim}
    assert created(shop.cluster) == before


async def test_a_server_that_is_killed_with_all_it_does_loses_no_request_that_can_be_sent_again(shop: Shop) -> None:
    """SIGKILL for one of four servers, with requests under way in it.

    Counted: every request that was sent, none may be lost: all are short enough to be held, so that each may be sent once more. Once
    only: of servers that die at the same moment a request may meet two, and that it is not sent a third time is a rule of the gateway.
    """
    node, ill, well = await parted(shop)
    async with shop.traffic(long=4) as traffic:
        await shop.from_all(traffic, ill | well)
        before = await shop.restarts()
        os.kill(servers(node)[0], signal.SIGKILL)
        await shop.until_restarts(before + 1)
        await shop.until_ready(4)
        await shop.from_all(traffic, ill | well)
    traffic.nothing_lost()


async def test_a_kubelet_that_is_silent_takes_its_replicas_out_of_routing_and_loses_no_request(shop: Shop) -> None:
    """The kubelet of one of two nodes is frozen: its pods answer as ever, and nobody knows how long.

    Counted: every request that was sent, none may be lost: neither when its replicas leave the routing with requests under way, nor
    when they are back; answers of its replicas after they left: none.
    """
    node, ill, well = await parted(shop)
    async with shop.traffic(long=4) as traffic:
        await shop.from_all(traffic, ill | well)
        await node.kubelet.freeze()
        try:
            await shop.until_counts(ready=len(well))
            await shop.only_from(traffic, well)
        finally:
            await node.kubelet.thaw()
        await back(shop, node)
        await shop.from_all(traffic, set(await shop.names()))
    traffic.nothing_lost()


async def test_a_node_whose_wire_is_cut_loses_no_request_that_has_another_replica(shop: Shop) -> None:
    """Nothing reaches one of two nodes any more, and nothing comes back: no refusal, no end of a connection.

    Counted: every request that was sent, none may be lost: those under way on the node are sent again elsewhere, once it is sure that
    nobody is there; answers of its replicas after they left the routing: none.
    """
    node, ill, well = await parted(shop)
    async with shop.traffic(long=4) as traffic:
        await shop.from_all(traffic, ill | well)
        node.cut_off()
        try:
            await shop.only_from(traffic, well)
            await shop.until_counts(ready=len(well))
        finally:
            node.rejoin()
        await back(shop, node)
        await shop.from_all(traffic, set(await shop.names()))
    traffic.nothing_lost()


async def parted(shop: Shop) -> tuple[Node, set[str], set[str]]:
    """Four replicas over two nodes: the second node, the names of its pods, and those of the other's."""
    node = shop.cluster.node[1]
    for count in (4, 1, 4):  # where all are on one node, new ones spread
        await shop.at(count)
        where = {one["metadata"]["name"]: one["spec"]["nodeName"] for one in await shop.pods()}
        ill = {name for name, at in where.items() if at == node.name}
        well = where.keys() - ill
        if ill and well:
            return node, ill, well
    raise AssertionError(f"all replicas are on one node: {where}")


async def back(shop: Shop, node: Node) -> None:
    """Wait until a node is ready again, and so are four replicas."""
    await node.until_ready()
    await shop.until_pods(4)
    await shop.until_ready(4)


def servers(node: Node) -> list[int]:
    """Process ids of the model servers on a node."""
    source = SERVER.read_text()
    return [pid for pid in node.pids if source in psutil.Process(pid).cmdline()]

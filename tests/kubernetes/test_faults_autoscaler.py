"""There are two autoscalers at once, and a third of the past, under live traffic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from autoscaler.backends.kubernetes.backend import KubernetesBackend
from autoscaler.backends.kubernetes.settings import KubernetesSettings
from loadtests.kubernetes.cluster.api import ApiFailed
from loadtests.kubernetes.cluster.cluster import Cluster
from loadtests.tree import Tidegate
from loadtests.waiting import free_port
from router.contract.errors import Fenced
from router.runtime.kubernetes import ClusterSettings
from tests.support.backend_rigs import plan, wish
from tests.support.kubernetes_faults import (
    DEPLOYMENT,
    ENDPOINT,
    Shop,
    backend_flags,
    created,
    document,
)
from tests.support.kubernetes_faults_roles import Roles, roles
from tests.support.kubernetes_rig import TYPES
from tests.support.whole import DEADLINE_SECONDS, Whole, until


@pytest.fixture
async def two(faulty_cluster: Cluster, tmp_path: Path) -> AsyncIterator[tuple[Shop, Roles]]:
    """A control plane and a gateway around one data folder, and an autoscaler `one` that holds the Lease, beside a second, `other`."""
    async with faulty_cluster.namespace() as namespace, roles(tmp_path) as started:
        (tmp_path / "types.yaml").write_text(TYPES)
        gateway, control = free_port(), free_port()
        urls = f"http://127.0.0.1:{gateway}", f"http://127.0.0.1:{control}"
        await started.start("control", "control", f"--port={control}", f"--gateway-url={urls[0]}")
        await started.start("gateway", "gateway", f"--port={gateway}")
        words = (*backend_flags(faulty_cluster, tmp_path, namespace), f"--lease={namespace}")
        await started.start("one", "autoscaler", *words, TIDEGATE_HOLDER="one")
        await until_held(faulty_cluster, namespace, "one")
        await started.start("other", "autoscaler", *words, TIDEGATE_HOLDER="other")
        timeout = aiohttp.ClientTimeout(total=DEADLINE_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await asyncio.gather(*(until_serving(session, url) for url in urls))
            yield Shop(Whole(Tidegate(*urls), session, tmp_path), faulty_cluster, namespace), started


async def until_serving(session: aiohttp.ClientSession, url: str) -> None:
    """Wait until a role says that it is ready."""

    async def look() -> bool:
        async with session.get(f"{url}/readyz") as response:
            return response.status == 200

    await until(f"{url} to be ready", look)


async def until_held(cluster: Cluster, namespace: str, holder: str) -> None:
    """Wait until the Lease named after `namespace` has this holder."""

    async def look() -> bool:
        try:
            found = await cluster.api.get(f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{namespace}")
        except ApiFailed:
            return False
        return bool(found["spec"].get("holderIdentity") == holder)

    await until(f"{holder} to hold the Lease", look)


async def test_of_two_autoscalers_one_acts_and_the_other_follows_it_and_no_request_is_lost(
    faulty_cluster: Cluster, two: tuple[Shop, Roles], tmp_path: Path
) -> None:
    """One holds the Lease and acts; it is killed while a fourth replica is asked for, and the other one takes over.

    Counted: every request that was sent, none may be lost; pods that were ever made: the four that were wanted, though two autoscalers
    ran and a third, of an older ownership, asked for none to be left and was refused.
    """
    shop, started = two
    before = created(faulty_cluster)
    await shop.open(2)
    async with shop.traffic() as traffic:
        await shop.deploy(document(3))
        await shop.until_ready(3)
        three = set(await shop.until_pods(3))
        await refused(shop, three)
        assert started.running["other"].returncode is None
        await until_held(faulty_cluster, shop.namespace, "one")
        await started.kill("one")
        await shop.deploy(document(4))
        await shop.only_from(traffic, three)
        await until_held(faulty_cluster, shop.namespace, "other")
        await shop.until_ready(4)
        four = set(await shop.until_pods(4))
        await shop.from_all(traffic, four)
    traffic.nothing_lost()
    assert three < four
    assert created(faulty_cluster) - before == 4


async def refused(shop: Shop, pods: set[str]) -> None:
    """An autoscaler of an earlier ownership wants to end all of `pods`; not one is touched."""
    (template,) = {one["metadata"]["labels"]["tidegate.dev/template"] for one in await shop.pods()}
    settings = KubernetesSettings(ClusterSettings(kubeconfig=str(shop.cluster.kubeconfig)), namespace=shop.namespace)
    zombie = KubernetesBackend(settings)
    try:
        await zombie.start()
        nothing = wish(document(0), 0, template=template, remove=frozenset(pods), target=(ENDPOINT, DEPLOYMENT))
        with pytest.raises(Fenced):
            await zombie.apply(plan(nothing, generation=0))
    finally:
        await zombie.close(end_replicas=False)
    assert set(await shop.names()) == pods

"""A Lease on a real API server: one holder at a time, whatever ends, freezes or forgets to say goodbye."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from loadtests.kubernetes.cluster.cluster import Cluster as Bed
from router.runtime.clock import ManualClock, SystemClock
from router.runtime.kubernetes import Cluster, ClusterSettings
from router.runtime.kubernetes.leases import Lease, LeaseSettings, Lost, holder_of, keeping

SECONDS = 60.0
QUICK = LeaseSettings(duration_seconds=1.0, deadline_seconds=0.6, renew_seconds=0.1)
SLOW = LeaseSettings(duration_seconds=3600.0, deadline_seconds=3500.0, renew_seconds=0.05)
RULES = [
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "resourceNames": ["one"],
        "verbs": ["get", "patch"],
    },
]


@pytest.fixture
async def account(api_cluster: Bed, namespace: str) -> Path:
    """May do what the overlays allow, and no more."""
    return await api_cluster.account(namespace, "holder", RULES)


@contextlib.asynccontextmanager
async def connected(kubeconfig: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(ClusterSettings(kubeconfig=str(kubeconfig)))
    await cluster.open()
    try:
        yield cluster
    finally:
        await cluster.close()


async def spec_of(bed: Bed, namespace: str) -> dict[str, Any]:
    found = await bed.api.get(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/one")
    return dict(found["spec"])


async def test_the_first_one_holds_it_and_the_next_one_gets_it_when_it_is_released(
    api_cluster: Bed, namespace: str, account: Path
) -> None:
    async with connected(account) as cluster:
        one = Lease(cluster, namespace, "one", "one", SLOW)
        two = Lease(cluster, namespace, "one", "two", SLOW)
        await asyncio.wait_for(one.acquire(), SECONDS)
        assert (await spec_of(api_cluster, namespace))["holderIdentity"] == "one"
        waiting = asyncio.create_task(two.acquire())
        done, _ = await asyncio.wait({waiting}, timeout=0.5)
        assert not done
        await one.release()
        await asyncio.wait_for(waiting, SECONDS)
        spec = await spec_of(api_cluster, namespace)
        assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("two", 1)
        await one.release()
        assert (await spec_of(api_cluster, namespace))["holderIdentity"] == "two"


async def test_who_stops_renewing_is_followed_and_learns_of_it(namespace: str, account: Path) -> None:
    async with connected(account) as cluster:
        gone = Lease(cluster, namespace, "one", "gone", QUICK)
        await asyncio.wait_for(gone.acquire(), SECONDS)
        heir = Lease(cluster, namespace, "one", "heir", QUICK)
        await asyncio.wait_for(heir.acquire(), SECONDS)
        with pytest.raises(Lost):
            await asyncio.wait_for(gone.keep(), SECONDS)


async def test_while_it_is_renewed_nobody_else_gets_it(namespace: str, account: Path) -> None:
    async with connected(account) as cluster:
        one = Lease(cluster, namespace, "one", "one", QUICK)
        two = Lease(cluster, namespace, "one", "two", QUICK)
        await asyncio.wait_for(one.acquire(), SECONDS)
        renewing, waiting = asyncio.create_task(one.keep()), asyncio.create_task(two.acquire())
        done, _ = await asyncio.wait({waiting}, timeout=3 * QUICK.duration_seconds)
        # On a machine that stood still for longer than the Lease lasts, the first holder must know that it has lost it.
        if done:
            with pytest.raises(Lost):
                await asyncio.wait_for(renewing, SECONDS)
        else:
            assert not renewing.done()
        for task in (renewing, waiting):
            task.cancel()
        await asyncio.gather(renewing, waiting, return_exceptions=True)


async def test_of_many_that_want_it_at_once_one_gets_it(namespace: str, account: Path) -> None:
    async with connected(account) as cluster:
        wanting = [Lease(cluster, namespace, "one", f"holder {number}", SLOW) for number in range(8)]
        tasks = [asyncio.create_task(one.acquire()) for one in wanting]
        await asyncio.wait(tasks, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(tasks, timeout=0.5)
        assert sum(task.done() for task in tasks) == 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_containers_of_one_pod_hold_it_together(api_cluster: Bed, namespace: str, account: Path) -> None:
    async with connected(account) as one, connected(account) as two:
        same = [Lease(cluster, namespace, "one", "pod-0_uid", SLOW) for cluster in (one, two)]
        for lease in same:
            await asyncio.wait_for(lease.acquire(), SECONDS)
        assert (await spec_of(api_cluster, namespace))["leaseTransitions"] == 0
        await same[0].release()
        renewing = asyncio.create_task(same[1].keep())
        async with asyncio.timeout(SECONDS):
            while (await spec_of(api_cluster, namespace)).get("holderIdentity") != "pod-0_uid":
                await asyncio.sleep(0.02)
        assert not renewing.done()
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)


async def test_a_holder_that_cannot_reach_the_server_gives_up_before_anybody_else_may_begin(
    rough_control_plane: Bed,
) -> None:
    async with connected(rough_control_plane.kubeconfig) as cluster:
        clock = SystemClock()
        settings = LeaseSettings(duration_seconds=4.0, deadline_seconds=1.5, renew_seconds=0.1)
        lease = Lease(cluster, "default", "one", "one", settings)
        await asyncio.wait_for(lease.acquire(), SECONDS)
        lost = asyncio.Event()

        async def hold() -> None:
            async with keeping(lease, lost.set):
                await lost.wait()

        holding = asyncio.create_task(hold())
        await asyncio.sleep(0.3)
        await rough_control_plane.control.api_server.freeze()
        frozen = clock.monotonic()
        try:
            await asyncio.wait_for(lost.wait(), SECONDS)
            assert clock.monotonic() - frozen >= 1.0, "given up although the last renewal is not old"
        finally:
            await rough_control_plane.control.api_server.thaw()
        await asyncio.wait_for(holding, SECONDS)


async def test_a_server_that_denies_is_waited_for_and_named(
    api_cluster: Bed, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = await api_cluster.account(namespace, "nobody", [])
    async with connected(nobody) as cluster:
        waiting = asyncio.create_task(Lease(cluster, namespace, "one", "one", QUICK).acquire())
        async with asyncio.timeout(SECONDS):
            while "leases" not in caplog.text:
                await asyncio.sleep(0.02)
        assert "add the rule" in caplog.text
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_only_our_own_clock_decides_when_a_holder_is_gone(
    api_cluster: Bed, namespace: str, account: Path
) -> None:
    """What a holder wrote about time is for people: its clock may be hours away."""
    async with connected(account) as cluster:
        ancient = ManualClock(time_ns=1_000_000_000_000_000_000)
        one = Lease(cluster, namespace, "one", "one", SLOW, clock=ancient)
        await asyncio.wait_for(one.acquire(), SECONDS)
        assert (await spec_of(api_cluster, namespace))["renewTime"].startswith("2001-")
        waiting = asyncio.create_task(Lease(cluster, namespace, "one", "two", SLOW).acquire())
        done, _ = await asyncio.wait({waiting}, timeout=0.5)
        assert not done
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


def test_a_holder_is_its_pod_or_itself_alone() -> None:
    assert holder_of({"TIDEGATE_HOLDER": "pod_uid"}) == "pod_uid"
    assert holder_of({}) != holder_of({})

"""The same fleet and the same schedule under Kubernetes' own HorizontalPodAutoscaler, one for each Deployment.

Its controller runs in the cluster's controller manager with its own defaults (15 seconds between two looks). What it is
told is an external metric, served by this bench through the API server's aggregation as KEDA's is: it lets the bench say
exactly which count is due, and it costs the API server less than pods' resource metrics, so the comparison is the harder
one for us. The metric is 10 for every replica that is wanted, the target 10 each.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web

from loadtests.kubernetes.bench.fleet import METRICS, NAMESPACE
from loadtests.kubernetes.bench.playing import play

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from loadtests.kubernetes.bench.fleet import Fleet
    from loadtests.kubernetes.bench.schedule import Played, Schedule

GROUP, VERSION, METRIC = "external.metrics.k8s.io", "v1beta1", "load"
EACH = 10
"""Of the metric, for one replica."""
SYNC_SECONDS = 15.0
"""The controller's default."""
_AT_ONCE = 16
_READY_SECONDS = 900.0
_AUTOSCALERS = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers"


async def scheduled(fleet: Fleet, schedule: Schedule, say: Callable[[str], None]) -> tuple[float, Played]:
    """Make the HPAs, wait until each has been looked at, play the schedule.

    Returns the API server's CPU seconds per second while nothing changes, and what became of the schedule.
    """
    wanted = dict.fromkeys(fleet.names, schedule.low)
    async with _metrics(fleet, wanted):
        deployments = (await fleet.bed.api.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"))["items"]
        say(f"creating {len(deployments)} HorizontalPodAutoscalers")
        turns = asyncio.Semaphore(_AT_ONCE)

        async def create(deployment: dict[str, Any]) -> None:
            async with turns:
                await fleet.bed.api.post(_AUTOSCALERS, _autoscaler(deployment))

        async with asyncio.TaskGroup() as group:
            for one in deployments:
                group.create_task(create(one))
        await _until_active(fleet)
        await asyncio.sleep(SYNC_SECONDS)
        rest = await fleet.at_rest(2 * SYNC_SECONDS)
        say("every HorizontalPodAutoscaler has its metric; now the same schedule")

        def want(endpoint: str, count: int) -> int:
            wanted[endpoint] = count
            return time.time_ns()

        return rest, await play(fleet, schedule, want, say)


async def _until_active(fleet: Fleet) -> None:
    async with asyncio.timeout(_READY_SECONDS):
        while True:
            listed = (await fleet.bed.api.get(_AUTOSCALERS))["items"]
            waiting = [one for one in listed if not _is_active(one)]
            if len(listed) == len(fleet.names) and not waiting:
                return
            await asyncio.sleep(3)


def _is_active(found: Mapping[str, Any]) -> bool:
    conditions = found.get("status", {}).get("conditions", ())
    return any(one["type"] == "ScalingActive" and one["status"] == "True" for one in conditions)


def _autoscaler(deployment: Mapping[str, Any]) -> dict[str, Any]:
    name = deployment["metadata"]["name"]
    endpoint = deployment["metadata"]["labels"]["tidegate.dev/endpoint"]
    metric = {"name": METRIC, "selector": {"matchLabels": {"endpoint": endpoint}}}
    at_once = {"type": "Percent", "value": 100, "periodSeconds": 15}
    return {
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": 1,
            "maxReplicas": 100,
            "metrics": [
                {
                    "type": "External",
                    "external": {"metric": metric, "target": {"type": "AverageValue", "averageValue": str(EACH)}},
                }
            ],
            # Its default waits for five minutes before anything goes down; the schedule is to be the same.
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0, "policies": [at_once]}},
        },
    }


# ── the metrics API ──


@contextlib.asynccontextmanager
async def _metrics(fleet: Fleet, wanted: Mapping[str, int]) -> AsyncIterator[None]:
    """An external metrics API that the API server asks as one of its own, for as long as this is open."""
    serves = f"{METRICS}.{NAMESPACE}.svc"
    authority = fleet.bed.control.authority
    certificate, key = authority.issue(METRICS, user=METRICS, hosts=(f"DNS:{serves}",))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    runner = web.AppRunner(_application(wanted), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        port = runner.addresses[0][1]
        api, group = fleet.bed.api, "/apis/apiregistration.k8s.io/v1/apiservices"
        # A name instead of a cluster address: this cluster has no network, and the API server is on this machine.
        service = {"metadata": {"name": METRICS}, "spec": {"type": "ExternalName", "externalName": "localhost"}}
        await api.post(f"/api/v1/namespaces/{NAMESPACE}/services", service)
        spec = {
            "group": GROUP, "version": VERSION, "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": True, "service": {"name": METRICS, "namespace": NAMESPACE, "port": port},
        }  # fmt: skip
        name = f"{VERSION}.{GROUP}"
        await api.post(group, {"metadata": {"name": name}, "spec": spec})
        await api.until(group, name, _is_available, deadline_seconds=_READY_SECONDS)
        yield
        await api.delete(f"{group}/{name}")
    finally:
        await runner.cleanup()


def _is_available(found: Mapping[str, Any]) -> bool:
    conditions = found.get("status", {}).get("conditions", ())
    return any(one["type"] == "Available" and one["status"] == "True" for one in conditions)


def _application(wanted: Mapping[str, int]) -> web.Application:
    about = f"{GROUP}/{VERSION}"

    async def versions(_: web.Request) -> web.Response:
        resource = {"name": METRIC, "namespaced": True, "kind": "ExternalMetricValueList", "verbs": ["get"]}
        listed = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": about, "resources": [resource]}
        return web.json_response(listed)

    async def value(request: web.Request) -> web.Response:
        _, _, endpoint = request.query["labelSelector"].partition("=")
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        told = {"metricName": METRIC, "metricLabels": {}, "timestamp": now, "value": str(EACH * wanted[endpoint])}
        items = {"kind": "ExternalMetricValueList", "apiVersion": about, "metadata": {}, "items": [told]}
        return web.json_response(items)

    application = web.Application()
    application.router.add_get(f"/apis/{about}", versions)
    application.router.add_get(f"/apis/{about}/namespaces/{NAMESPACE}/{METRIC}", value)
    return application

"""The Kubernetes backend in numbers, as Prometheus scrapes them."""

from __future__ import annotations

from autoscaler.backends.kubernetes.figures import families
from router.runtime.exposition import text_of
from router.runtime.kubernetes import PODS, Cluster, ClusterSettings, Unreachable, Watched


def test_every_request_and_every_watch_has_its_series() -> None:
    cluster = Cluster(ClusterSettings())
    cluster.requests["patch", "deployments", "200"] += 2
    cluster.requests["list", "pods", "none"] += 1
    parts: dict[str, Watched[str]] = {
        name: Watched(cluster, PODS, "models", lambda *_: "", lambda *_: None) for name in ("new", "well", "behind")
    }
    parts["well"].synced.set()
    parts["behind"].synced.set()
    parts["behind"].trouble = Unreachable("away")
    lines = [line for line in text_of(families(cluster.requests, parts)).splitlines() if not line.startswith("#")]
    prefix = "tidegate_autoscaler_kubernetes"
    assert lines == [
        f'{prefix}_requests_total{{verb="list",resource="pods",code="none"}} 1',
        f'{prefix}_requests_total{{verb="patch",resource="deployments",code="200"}} 2',
        f'{prefix}_watched{{resource="new"}} 0',
        f'{prefix}_watched{{resource="well"}} 1',
        f'{prefix}_watched{{resource="behind"}} 0',
    ]

"""Instance types that the cluster itself has, as Azure's resource."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoscaler.backends.kubernetes.catalogue import Catalogue
from autoscaler.backends.kubernetes.instance_types import InstanceType
from autoscaler.backends.local.launch import Unlaunchable
from loadtests.kubernetes.cluster.cluster import Cluster as Bed
from router.runtime.clock import ManualClock
from router.runtime.kubernetes import Cluster, ClusterSettings
from tests.support.kubernetes_rig import TYPES

DEFINITION = {
    "metadata": {"name": "instancetypes.amlarc.azureml.com"},
    "spec": {
        "group": "amlarc.azureml.com",
        "names": {"kind": "InstanceType", "plural": "instancetypes"},
        "scope": "Cluster",
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


async def test_the_clusters_own_go_before_a_files(own_control_plane: Bed, tmp_path: Path) -> None:
    api, clock = own_control_plane.api, ManualClock()
    file = tmp_path / "types.yaml"
    file.write_text(TYPES)
    cluster = Cluster(ClusterSettings(kubeconfig=str(own_control_plane.kubeconfig)))
    await cluster.open()
    catalogue = Catalogue(cluster, clock)
    catalogue.read_file(file)
    await catalogue.refresh()  # the cluster does not know the resource
    assert {"small", "one-gpu"} <= catalogue.known.keys()
    edition = catalogue.edition

    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    await api.post(definitions, DEFINITION)
    await api.until(definitions, DEFINITION["metadata"]["name"], _established)  # type: ignore[index] # a dictionary
    group = "/apis/amlarc.azureml.com/v1alpha1/instancetypes"
    for name, cpu in (("small", "4"), ("fast", "8")):
        resources = {"requests": {"cpu": cpu, "memory": "1Gi"}, "limits": {"cpu": cpu, "memory": "1Gi"}}
        body = {"apiVersion": "amlarc.azureml.com/v1alpha1", "kind": "InstanceType", "metadata": {"name": name}}
        await api.post(group, {**body, "spec": {"resources": resources}})

    with pytest.raises(Unlaunchable):  # asked a moment ago
        await catalogue.choose({"instance_type": "fast"})
    clock.advance(31)
    found = await catalogue.choose({"instance_type": "fast"})
    assert found == InstanceType("fast", {}, {"cpu": "8", "memory": "1Gi"}, {"cpu": "8", "memory": "1Gi"})
    assert (await catalogue.choose({"instance_type": "small"})).requests["cpu"] == "4"
    assert catalogue.edition == edition + 1

    await api.delete(f"{group}/fast")
    await catalogue.refresh_if_old()
    assert "fast" in catalogue.known
    clock.advance(301)
    await catalogue.refresh_if_old()
    assert "fast" not in catalogue.known
    assert catalogue.known["small"].requests["cpu"] == "4"
    await cluster.close()


def _established(definition: dict[str, object]) -> bool:
    status = definition.get("status") or {}
    assert isinstance(status, dict)
    return any(one["type"] == "Established" and one["status"] == "True" for one in status.get("conditions") or ())

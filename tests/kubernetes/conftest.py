"""Tests on a real Kubernetes. What they stand on is built before, or by the first of them, which then may take its time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from loadtests.kubernetes import image
from loadtests.kubernetes.cluster import programs
from loadtests.kubernetes.cluster.cluster import Cluster
from tests.support.kubernetes_faults import faulty_cluster
from tests.support.kubernetes_objects import Objects, define, following
from tests.support.kubernetes_rig import KubernetesRig

__all__ = ["faulty_cluster"]  # fixtures are found in conftest files only

_HERE = Path(__file__).parent
EXTENDED = frozenset({"test_backend_weather.py", "test_cluster_node.py", "test_in_cluster_on_kafka.py"})
"""Files that take minutes each: `make test-kubernetes` runs them too, `make test` leaves them out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs pods, and what takes long. Where something is not built yet, a test may take as long as building does."""
    for item in items:
        if item.path.parent == _HERE and item.path.name in EXTENDED:
            item.add_marker(pytest.mark.extended)
        if item.path.parent == _HERE and "node_here" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.pods)
    if programs.built() and image.built():
        return
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.timeout(programs.BUILD_SECONDS))


@pytest.fixture
async def rig(cluster: Cluster, namespace: str, tidegate_image: str, tmp_path: Path) -> AsyncIterator[KubernetesRig]:
    """The Kubernetes backend in a namespace of the test's own, on a real node."""
    made = KubernetesRig(cluster, namespace, tidegate_image, tmp_path)
    yield made
    await made.clean()


@pytest.fixture
async def objects(api_cluster: Cluster, namespace: str, tmp_path: Path) -> AsyncIterator[Objects]:
    """A control plane that follows the objects of the test's namespace; what they describe runs at once."""
    await define(api_cluster)
    async with following(tmp_path, api_cluster, namespace) as made:
        yield made


@pytest.fixture
async def own_objects(own_control_plane: Cluster, tmp_path: Path) -> AsyncIterator[Objects]:
    """As `objects`, in a cluster that the test may do anything to."""
    await define(own_control_plane)
    async with own_control_plane.namespace() as name, following(tmp_path / "control", own_control_plane, name) as made:
        yield made


@pytest.fixture
async def rough_objects(rough_control_plane: Cluster, tmp_path: Path) -> AsyncIterator[Objects]:
    """As `objects`, in a cluster whose API server the test may be cruel to."""
    await define(rough_control_plane)
    async with (
        rough_control_plane.namespace() as name,
        following(tmp_path / "control", rough_control_plane, name) as made,
    ):
        yield made

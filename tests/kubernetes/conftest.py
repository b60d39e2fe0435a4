"""Tests on a real Kubernetes. What they stand on is built before, or by the first of them, which then may take its time."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.kubernetes import image
from loadtests.kubernetes.cluster import programs

# Fixtures are found in conftest files only.
from tests.support.kubernetes_cluster import (
    api_cluster,
    cluster,
    cluster_here,
    namespace,
    node_here,
    own_cluster,
    own_control_plane,
    tidegate_image,
)

__all__ = [
    "api_cluster",
    "cluster",
    "cluster_here",
    "namespace",
    "node_here",
    "own_cluster",
    "own_control_plane",
    "tidegate_image",
]

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where something is not built yet, a test may take as long as building does."""
    if programs.built() and image.built():
        return
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.timeout(programs.BUILD_SECONDS))

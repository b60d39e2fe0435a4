"""One set of hypothesis examples for everybody, so that a red run can be repeated.

`HYPOTHESIS_SEARCH=1 make test` draws new examples every time and more of them.
"""

from __future__ import annotations

import os

from hypothesis import settings

# Fixtures are found in conftest files only.
from tests.support.kafka_broker import kafka_broker, kafka_here, own_broker, prefix
from tests.support.kubernetes_cluster import (
    api_cluster,
    cluster,
    cluster_here,
    namespace,
    node_here,
    own_cluster,
    own_control_plane,
    rough_cluster,
    rough_control_plane,
    tidegate_image,
)

__all__ = [
    "api_cluster", "cluster", "cluster_here", "kafka_broker", "kafka_here", "namespace", "node_here", "own_broker",
    "own_cluster", "own_control_plane", "prefix", "rough_cluster", "rough_control_plane", "tidegate_image",
]  # fmt: skip

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=1000, deadline=None)
settings.load_profile("search" if os.environ.get("HYPOTHESIS_SEARCH") else "repeatable")

"""The instance types there are: a file's, and the cluster's own where it has the resource.

The cluster is asked at the start and every five minutes, and when a deployment names one that is not known, though not
more often than every half a minute.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from autoscaler.backends.kubernetes import instance_types
from autoscaler.backends.kubernetes.instance_types import InstanceType
from autoscaler.backends.local.launch import Unlaunchable
from router.contract.errors import InvalidSpec, Problem, TidegateError
from router.runtime.clock import Clock
from router.runtime.kubernetes import Cluster, KubernetesError

AGAIN_SECONDS = 30.0
OLD_SECONDS = 300.0

_LOG = logging.getLogger(__name__)


class Catalogue:
    """Name → instance type."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self.known: dict[str, InstanceType] = {}
        self.edition = 0
        """Counts up with every change of what is known."""
        self._cluster = cluster
        self._clock = clock
        self._filed: dict[str, InstanceType] = {}
        self._asked_at = -AGAIN_SECONDS

    def read_file(self, path: Path | None) -> None:
        """Take the types of a YAML file. Raises `InvalidSpec`."""
        if path is None:
            return
        try:
            found = instance_types.parse(yaml.safe_load_all(path.read_text(encoding="utf-8")), str(path))
        except (OSError, yaml.YAMLError) as error:
            raise InvalidSpec([Problem("kubernetes-instance-types", f"cannot be read: {error}", str(path))]) from error
        self._filed = {one.name: one for one in found}
        self._take({})

    async def refresh(self) -> None:
        """Ask the cluster. What it does not say or does not let us see changes nothing."""
        self._asked_at = self._clock.monotonic()
        found: list[InstanceType] = []
        try:
            resource = await self._cluster.knows(instance_types.RESOURCE)
            if resource is None:
                return
            async for page in self._cluster.pages(resource, ""):
                items = ({**item, "kind": "InstanceType"} for item in page.get("items") or ())
                found += instance_types.parse(items, "the cluster's InstanceType")
        except KubernetesError as error:
            _LOG.warning("the cluster's instance types cannot be listed: %s", error.message)
            return
        except TidegateError as error:
            _LOG.warning("%s", error.message)
        self._take({one.name: one for one in found})

    async def refresh_if_old(self) -> None:
        """Ask the cluster once in a while: its types may change."""
        if self._clock.monotonic() - self._asked_at > OLD_SECONDS:
            await self.refresh()

    async def choose(self, document: Mapping[str, Any]) -> InstanceType:
        """What `document` runs on. Raises `Unlaunchable`."""
        try:
            return instance_types.choose(document, self.known)
        except Unlaunchable:
            if self._clock.monotonic() - self._asked_at < AGAIN_SECONDS:
                raise
            await self.refresh()
            return instance_types.choose(document, self.known)

    def _take(self, clustered: Mapping[str, InstanceType]) -> None:
        known = {**self._filed, **clustered}
        if known != self.known:
            self.known = known
            self.edition += 1

"""The kinds of objects and their names. Pure."""

from __future__ import annotations

from dataclasses import dataclass

GROUP = "tidegate.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
FINALIZER = f"{GROUP}/drain"
"""Keeps an object until what it describes has drained and ended."""
WRITTEN = f"{GROUP}/written"
"""Annotation: hash of the spec as it was written back from a change made elsewhere. Gone once somebody applies again."""
ENDPOINT_LABEL = f"{GROUP}/endpoint"
DEPLOYMENT_LABEL = f"{GROUP}/deployment"
"""Labels of a replica's pod: what an OnlineDeployment's `status.selector` selects."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of custom resource."""

    kind: str
    plural: str
    short: tuple[str, ...]

    @property
    def singular(self) -> str:
        """As people type it."""
        return self.kind.lower()

    @property
    def crd(self) -> str:
        """Name of its CustomResourceDefinition."""
        return f"{self.plural}.{GROUP}"


ENDPOINT = Kind("OnlineEndpoint", "onlineendpoints", ("oe", "oep"))
DEPLOYMENT = Kind("OnlineDeployment", "onlinedeployments", ("od", "odep"))
KINDS = (ENDPOINT, DEPLOYMENT)

"""How many instances: Azure's two scale types."""

from __future__ import annotations

from dataclasses import dataclass

from router.contract.rules import field_rules, ranged, refuse, rule


@dataclass(frozen=True, slots=True)
class DefaultScale:
    """A fixed number of instances: the deployment's `instance_count`."""


@dataclass(frozen=True, slots=True)
class TargetUtilization:
    """Azure's rule for Kubernetes, offered on both backends: keep (busy + queued) / replicas near the target."""

    min_instances: int = ranged(0, 100_000, 1)
    max_instances: int = ranged(1, 100_000, 1)
    target_utilization_percentage: int = ranged(1, 100, 70)
    polling_interval: float = ranged(0.05, 3600, 1)
    """Seconds between decisions; scale-in looks at twenty of them."""

    def __post_init__(self) -> None:
        order = f"at least min_instances, which is {self.min_instances}"
        refuse(*field_rules(self))
        refuse(rule(self.max_instances >= self.min_instances, "max_instances", order, self.max_instances))

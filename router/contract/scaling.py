"""How many instances: Azure's two scale types."""

from __future__ import annotations

from dataclasses import dataclass

from router.contract.rules import range_rule, refuse, rule


@dataclass(frozen=True, slots=True)
class DefaultScale:
    """A fixed number of instances: the deployment's `instance_count`."""


@dataclass(frozen=True, slots=True)
class TargetUtilization:
    """Azure's rule for Kubernetes, offered on both backends: keep (busy + queued) / replicas near the target."""

    min_instances: int = 1
    max_instances: int = 1
    target_utilization_percentage: int = 70
    polling_interval: float = 1
    """Seconds between decisions; scale-in looks at twenty of them."""

    def __post_init__(self) -> None:
        order = f"at least min_instances, which is {self.min_instances}"
        refuse(
            range_rule("min_instances", self.min_instances, 0, 100_000),
            range_rule("max_instances", self.max_instances, 1, 100_000)
            or rule(self.max_instances >= self.min_instances, "max_instances", order, self.max_instances),
            range_rule("target_utilization_percentage", self.target_utilization_percentage, 1, 100),
            range_rule("polling_interval", self.polling_interval, 0.05, 3600),
        )

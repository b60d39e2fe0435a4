"""What an autoscaler does with demand that is handed to it, without the scaling: counts it, and tells the replicas."""

from __future__ import annotations

from collections.abc import Sequence

from router.contract.codec import decode_demand, encode_replicas
from router.contract.events import DemandReport, EndpointReplicas
from router.contract.handover import Handed


class Scaler:
    """Give `take` to `admin_site`."""

    def __init__(self) -> None:
        self.heard: dict[tuple[str, int], DemandReport] = {}
        """(writer, sequence) → the report."""
        self.published: dict[str, EndpointReplicas] = {}

    def take(self, messages: Sequence[Handed]) -> Sequence[tuple[str, bytes]]:
        """Count each message once; answer with what is newer than what the newest report names."""
        named: dict[str, int] = {}
        for one in messages:
            report = self.heard[one.writer, one.sequence] = decode_demand(one.value)
            assert one.key == report.endpoint
            named[one.key] = report.replicas_version
        known = ((self.published.get(endpoint), version) for endpoint, version in named.items())
        return [(one.endpoint, encode_replicas(one)) for one, version in known if one and one.version > version]

    def arrivals(self, endpoint: str) -> int:
        """Requests that arrived, over all reports."""
        reports = [one for one in self.heard.values() if one.endpoint == endpoint]
        return sum(row.arrivals for one in reports for row in one.rows)

    def newest(self, endpoint: str) -> DemandReport | None:
        """The report whose window ended last."""
        reports = [one for one in self.heard.values() if one.endpoint == endpoint]
        return max(reports, key=lambda one: one.end_ns, default=None)

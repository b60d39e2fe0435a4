"""The fleet as Prometheus metrics. Only deployments that exist get a series, so that cardinality is the operator's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from router.contract.events import BUCKETS, DECISIONS, DEMAND, REQUESTS, SHADOWS, bucket_seconds
from router.control.content import Standing
from router.control.fleet import Fleet, replica_counts
from router.control.gathering import merged, without_dropped
from router.control.rates import Demand, Totals
from router.control.traffic import OVERFLOW, Traffic
from router.control.views import mirror_percents
from router.runtime.log.base import Health
from router.runtime.log.spool_link import STATES

_LABELS = ("endpoint", "deployment")
_READ = (DEMAND, REQUESTS, SHADOWS, DECISIONS)
"""Topics whose messages this process counts."""
_EDGES = range(3, BUCKETS - 1, 4)
"""Every fourth of the histogram's edges: fifteen buckets per deployment from 1 ms to 7 min."""


def render(
    standings: Sequence[Standing], fleet: Fleet, now_ns: int, health: Health, others: Mapping[str, str | None]
) -> bytes:
    """The text that Prometheus scrapes. `others`: process of this data folder → the text it offers, None for no answer."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(standings, fleet, now_ns, without_dropped(health), merged(others, health)))
    return generate_latest(registry)


def _families(
    kind: type[CounterMetricFamily | GaugeMetricFamily], values: Mapping[tuple[str, str], float]
) -> Iterable[Metric]:
    """Families of (name, topic or '') → value."""
    for name in sorted({name for name, _ in values}):
        found = {topic: value for (other, topic), value in sorted(values.items()) if other == name}
        labels = ("topic",) if any(found) else ()
        family = kind(f"tidegate_{name}", "How this machine's way into the log is doing", labels=labels)
        for topic, value in found.items():
            family.add_metric((topic,) if labels else (), value)
        yield family


def _link(state: str) -> Iterable[Metric]:
    """The machine's way to the broker, as one gauge per possible state; nothing for a log without a broker."""
    if state:
        family = GaugeMetricFamily("tidegate_log_link", "State of this machine's way to the broker", labels=("state",))
        for one in STATES:
            family.add_metric((one,), one == state)
        yield family


class _Snapshot(Collector):
    """One scrape."""

    def __init__(
        self,
        standings: Sequence[Standing],
        fleet: Fleet,
        now_ns: int,
        health: Health,
        others: Iterable[Metric],
    ) -> None:
        self._standings = standings
        self._others = others
        self._fleet = fleet
        self._now_ns = now_ns
        self._health = health
        self._targets = [(one.endpoint, name) for one in standings for name in sorted(one.content.deployments)]
        self._counted = [*self._targets, *([OVERFLOW] if OVERFLOW in fleet.live else [])]

    def collect(self) -> Iterable[Metric]:
        """Every family."""
        yield from self._specs()
        yield from self._replicas()
        yield from self._counts()
        yield from self._times()
        yield from self._gauges()
        yield self._shadows()
        yield from self._traffic()
        yield from self._reading()
        yield from self._others_and_log()

    def _specs(self) -> Iterable[Metric]:
        revision = GaugeMetricFamily(
            "tidegate_endpoint_revision", "Newest revision of the endpoint", labels=("endpoint",)
        )
        weight = GaugeMetricFamily("tidegate_deployment_weight_percent", "Share of the live traffic", labels=_LABELS)
        mirror = GaugeMetricFamily("tidegate_deployment_mirror_percent", "Share mirrored to it", labels=_LABELS)
        for one in self._standings:
            revision.add_metric((one.endpoint,), one.revision)
            mirrored = mirror_percents(one.content.document)
            for name, share in one.content.traffic.items():
                weight.add_metric((one.endpoint, name), share)
                mirror.add_metric((one.endpoint, name), mirrored.get(name, 0))
        return revision, weight, mirror

    def _replicas(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "tidegate_replicas", "Replicas: observed, ready, desired", labels=(*_LABELS, "count")
        )
        for endpoint, name in self._targets:
            for count, value in replica_counts(self._fleet.replicas(endpoint).get(name)).items():
                family.add_metric((endpoint, name, count), value)
        yield family
        decisions = CounterMetricFamily("tidegate_scaling_decisions", "Changes of a desired count", labels=_LABELS)
        for target in self._targets:
            decisions.add_metric(target, self._fleet.decisions.get(target, 0))
        yield decisions

    def _totals(self) -> list[tuple[tuple[str, str], Totals]]:
        nothing = Demand()
        return [(target, self._fleet.live.get(target, nothing).totals) for target in self._counted]

    def _counts(self) -> Iterable[Metric]:
        for field, words in (
            ("arrivals", "Requests that arrived"),
            ("completions", "Requests that a replica answered"),
            ("errors", "Requests that the model or its replica failed"),
            ("rejected", "Requests that the gateway refused or gave up"),
            ("tokens", "Tokens streamed"),
        ):
            family = CounterMetricFamily(
                f"tidegate_{'requests' if field == 'arrivals' else field}", words, labels=_LABELS
            )
            for target, totals in self._totals():
                family.add_metric(target, getattr(totals, field))
            yield family

    def _traffic(self) -> Iterable[Metric]:
        endpoints = {one.endpoint for one in self._standings}
        targets = [*self._targets, *((endpoint, "") for endpoint in sorted(endpoints)), OVERFLOW]
        counted = [(target, found) for target in targets if (found := self._fleet.traffic.of(target)) is not None]
        for name, words, label in (
            ("requests_by_outcome", "Finished requests by how they ended", "outcome"),
            ("requests_by_status", "Finished requests by class of the status that the caller got", "status"),
        ):
            family = CounterMetricFamily(f"tidegate_{name}", words, labels=(*_LABELS, label))
            for target, traffic in counted:
                for kind, count in getattr(traffic, name.removeprefix("requests_")).items():
                    family.add_metric((*target, kind), count)
            yield family
        for field, name, words in (
            ("request_bytes", "request_bytes", "Bytes of request bodies"),
            ("response_bytes", "response_bytes", "Bytes of response bodies"),
            ("wait_seconds", "wait_seconds", "Sum of arrival to forwarded; of folded requests it is not known"),
            ("total_seconds", "duration_seconds", "Sum of arrival to last byte"),
            ("folded", "folded_requests", "Finished requests of which only counts came, because a spool was full"),
        ):
            family = CounterMetricFamily(f"tidegate_{name}", words, labels=_LABELS)
            for target, traffic in counted:
                family.add_metric(target, getattr(traffic, field))
            yield family
        yield from _further(counted)

    def _reading(self) -> Iterable[Metric]:
        skipped = CounterMetricFamily("tidegate_log_skipped_messages", "Messages of the log that could not be read")
        skipped.add_metric((), self._fleet.skipped)
        yield skipped
        ways = CounterMetricFamily(
            "tidegate_control_demand_messages", "Demand messages counted, by the way they came first", labels=("way",)
        )
        for way, count in self._fleet.demand_once.counted.items():
            ways.add_metric((way,), count)
        yield ways
        noticed = self._fleet.noticed()
        late = noticed.late_by_topic
        gaps = {topic: count + late.get(topic, 0) for topic, count in noticed.gaps_by_topic.items()}
        for name, words, counts in (
            ("gaps", "Messages that were missing when their followers came", gaps),
            ("late_messages", "Of those, the ones that came after all", late),
            ("duplicates", "Messages that came more than once", noticed.duplicates_by_topic),
        ):
            family = CounterMetricFamily(f"tidegate_log_{name}", words, labels=("topic",))
            for topic in _READ:
                family.add_metric((topic,), counts.get(topic, 0))
            yield family

    def _others_and_log(self) -> Iterable[Metric]:
        """A metric of both, such as the lag of readers, is told once, with the series of all."""
        families: dict[str, Metric] = {}
        for one in (
            *_families(CounterMetricFamily, self._health.counters),
            *_families(GaugeMetricFamily, self._health.gauges),
            *_link(self._health.state),
            *self._others,
        ):
            known = families.setdefault(one.name, one)
            if known is not one:
                known.samples.extend(one.samples)
        yield from families.values()

    def _times(self) -> Iterable[Metric]:
        latency = HistogramMetricFamily("tidegate_request_seconds", "Arrival to last byte", labels=_LABELS)
        words = "Arrival to forwarded, of requests that were forwarded"
        wait = HistogramMetricFamily("tidegate_queue_wait_seconds", words, labels=_LABELS)
        for target, totals in self._totals():
            latency.add_metric(target, _buckets(totals.latency), totals.latency_sum_seconds())
            wait.add_metric(target, _buckets(totals.wait), totals.wait_sum_seconds())
        return latency, wait

    def _gauges(self) -> Iterable[Metric]:
        in_flight = GaugeMetricFamily("tidegate_in_flight_requests", "Requests in flight", labels=_LABELS)
        queued = GaugeMetricFamily("tidegate_queued_requests", "Requests waiting for a replica", labels=_LABELS)
        for target in self._targets:
            view = self._fleet.demand(target, self._now_ns)
            if view is not None:
                in_flight.add_metric(target, view.in_flight)
                queued.add_metric(target, view.queued)
        return in_flight, queued

    def _shadows(self) -> Metric:
        family = CounterMetricFamily("tidegate_shadows", "Shadows by how they ended", labels=(*_LABELS, "result"))
        for target in self._targets:
            counts = self._fleet.shadow_counts(target)
            family.add_metric((*target, "equal"), counts.equal)
            family.add_metric((*target, "not_equal"), counts.compared - counts.equal)
            family.add_metric((*target, "dropped"), counts.dropped)
        return family


def _buckets(counts: Sequence[int]) -> list[tuple[str, float]]:
    below = [(str(bucket_seconds(edge)), float(sum(counts[: edge + 1]))) for edge in _EDGES]
    return [*below, ("+Inf", float(sum(counts)))]


def _further(counted: Sequence[tuple[tuple[str, str], Traffic]]) -> Iterable[Metric]:
    """Of finished requests: how large, how soon, and why the gateway refused."""
    for field, name, words in (
        ("first_byte", "first_byte_seconds", "Arrival to the first byte of the model's answer"),
        ("request_size", "request_size_bytes", "Body of a request"),
        ("response_size", "response_size_bytes", "Body of an answer"),
    ):
        family = HistogramMetricFamily(f"tidegate_{name}", words, labels=_LABELS)
        for target, traffic in counted:
            histogram = getattr(traffic, field)
            family.add_metric(target, histogram.cumulative(), histogram.sum)
        yield family
    words = "Requests answered in the gateway's own name, by the code of the answer"
    refused = CounterMetricFamily("tidegate_refused_requests", words, labels=(*_LABELS, "code"))
    for target, traffic in counted:
        for code, count in sorted(traffic.refused.items()):
            refused.add_metric((*target, code), count)
    yield refused

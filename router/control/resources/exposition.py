"""The controller as Prometheus metrics: what the API server is asked, how much is looked at, what is not well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class Figures:
    """What there is to show at one moment."""

    requests: Mapping[tuple[str, str, str], int]
    """(verb, resource, code) → how often the API server was asked."""
    rounds: int
    events_dropped: int
    objects: Mapping[tuple[str, str], int]
    """(kind, status of its Ready condition) → how many objects."""
    watched: Mapping[str, bool]
    """Resource → whether it is watched right now."""


def exposed(figures: Figures) -> bytes:
    """The text that Prometheus scrapes."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(figures))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        """Every family."""
        figures = self._figures
        labels = ("verb", "resource", "code")
        requests = CounterMetricFamily(
            "tidegate_control_kubernetes_requests", "Requests to the API server", labels=labels
        )
        for key, count in sorted(figures.requests.items()):
            requests.add_metric(key, count)
        yield requests
        yield _counter("tidegate_control_object_rounds", "Looks at one endpoint with its objects", figures.rounds)
        yield _counter("tidegate_control_object_events_dropped", "Events not written", figures.events_dropped)
        objects = GaugeMetricFamily(
            "tidegate_control_objects", "Objects by their Ready condition", labels=("kind", "ready")
        )
        for pair, count in sorted(figures.objects.items()):
            objects.add_metric(pair, count)
        yield objects
        watched = GaugeMetricFamily(
            "tidegate_control_objects_watched", "Whether they are watched", labels=("resource",)
        )
        for name, healthy in sorted(figures.watched.items()):
            watched.add_metric((name,), healthy)
        yield watched


def _counter(name: str, words: str, value: int) -> Metric:
    family = CounterMetricFamily(name, words)
    family.add_metric((), value)
    return family

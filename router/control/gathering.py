"""What the other processes of this data folder count about themselves, brought into one scrape.

Each offers Prometheus's text on a socket of its own (`router.runtime.vitals`). Series of several processes that belong to
one metric come together under it, told apart by the label `process`. What makes no sense is as good as no answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from router.runtime.log.base import Health
from router.runtime.vitals import PROCESS

CONTROL = "control"
_DROPPED = "log_dropped_messages"
"""The one number in a log's health that is about this process and not about the machine."""


def merged(texts: Mapping[str, str | None], health: Health) -> Iterable[Metric]:
    """Every family in `texts` (process → what it offers; None for one that does not answer), and whether each answers.

    `health`: of this process's own log, of which the dropped messages stand beside those of the others.
    """
    up = GaugeMetricFamily(
        "tidegate_process_up", "Whether the process answers when asked for its metrics", labels=(PROCESS,)
    )
    words = "Messages of a process that the log refused: its buffer, its spool or its disk was full"
    dropped = CounterMetricFamily(f"tidegate_{_DROPPED}", words, labels=(PROCESS, "topic"))
    for (name, topic), count in sorted(health.counters.items()):
        if name == _DROPPED:
            dropped.add_metric((CONTROL, topic), count)
    families: dict[str, Metric] = {dropped.name: dropped}
    for process, text in sorted(texts.items()):
        parsed = None if text is None else _parsed(text)
        up.add_metric((process,), parsed is not None)
        for family in parsed or ():
            known = families.setdefault(family.name, family)
            if known is not family:
                known.samples.extend(family.samples)
    return [up, *families.values()]


def without_dropped(health: Health) -> Health:
    """`health` but for what `merged` tells."""
    counters = {key: count for key, count in health.counters.items() if key[0] != _DROPPED}
    return Health(counters, health.gauges, health.state, health.message)


def _parsed(text: str) -> list[Metric] | None:
    try:
        return list(text_string_to_metric_families(text))
    except (ValueError, KeyError, IndexError):
        return None

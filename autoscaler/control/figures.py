"""The autoscaler in numbers, for Prometheus. Read when somebody asks; nothing is counted here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from autoscaler.backends.base import Backend
from autoscaler.control.door import Door
from autoscaler.control.intake import Intake, IntakeStats
from autoscaler.control.observers import Told
from autoscaler.control.ownership import Mandate
from autoscaler.control.reconciler import Reconciler
from autoscaler.control.territory import Territory
from router.contract.events import DEMAND
from router.runtime.exposition import Family, single, text_of
from router.runtime.log.base import OTHER_WRITERS, Health, Log, ReaderStats
from router.runtime.vitals import PROCESS, writer_families

_PREFIX = "tidegate_autoscaler"


class Figures:
    """The parts of one process whose numbers these are."""

    def __init__(
        self,
        log: Log,
        intake: Intake,
        reconciler: Reconciler,
        mandate: Mandate,
        *,
        door: Door,
        backends: Iterable[Backend],
    ) -> None:
        self.told = Told()
        """To be told of every turn."""
        self._log = log
        self._intake = intake
        self._reconciler = reconciler
        self._mandate = mandate
        self._door = door
        self._backends = tuple(backends)

    async def text(self) -> str:
        """As Prometheus scrapes it."""
        families = (*self._families(), *_log(await self._log.health()))
        return text_of(families, **{PROCESS: "autoscaler"})

    def _families(self) -> Iterator[Family]:
        yield from _demand(self._intake.stats, self._intake.noticed())
        yield from _share(self._reconciler.territory, self._mandate)
        yield from _work(self.told, self._intake.stats)
        yield from _reporters(self._reconciler)
        for backend in self._backends:
            yield from backend.figures()
        words = "Requests over TCP that showed no token, or another one"
        yield single(f"{_PREFIX}_refused_logins_total", "counter", words, self._door.refused)


def _demand(stats: IntakeStats, noticed: ReaderStats) -> Iterator[Family]:
    ways = [({"way": "log"}, float(stats.messages)), ({"way": "direct"}, float(stats.direct))]
    yield Family(f"{_PREFIX}_demand_messages_total", "counter", "Demand messages by the way they came", ways)
    kinds = {"again": stats.duplicates, "other_way": stats.echoes, "in_snapshot": stats.held}
    words = "Demand messages known already and not counted twice: come again the same way, the other way, or replayed"
    yield Family(f"{_PREFIX}_demand_repeats_total", "counter", words, _labelled("kind", kinds))
    for field, name, words in (
        (
            "gaps",
            "gaps",
            "Demand messages missing on the log when their followers came, by the writer that counted them",
        ),
        ("late", "late", "Of those, the ones that came after all"),
        ("duplicates", "duplicates", "Demand messages that the log brought again, by writer"),
    ):
        counts = {
            ("other" if writer == OTHER_WRITERS else writer): float(getattr(one, field))
            for (topic, writer), one in noticed.by_writer.items()
            if topic == DEMAND
        }
        # Always one series, so that there is a zero to compare with.
        counts.setdefault("other", 0.0)
        yield Family(f"{_PREFIX}_demand_{name}_total", "counter", words, _labelled("writer", counts))
    words = "Messages of a version or shape that this autoscaler does not know, left out"
    yield single(f"{_PREFIX}_skipped_messages_total", "counter", words, stats.skipped)


def _share(territory: Territory, mandate: Mandate) -> Iterator[Family]:
    held = {"followed": len(territory.followed), "acting": len(territory.acting)}
    words = "Partitions of the endpoints whose demand is folded, and for which it decides"
    yield Family(f"{_PREFIX}_partitions", "gauge", words, _labelled("share", held))
    words = "1 when whoever deals the shares confirms ours now, 0 when it acts from memory or has none"
    yield single(f"{_PREFIX}_share_confirmed", "gauge", words, mandate.confirmed)
    words = "Which dealing of the shares ours comes from; 0 where nothing is shared"
    yield single(f"{_PREFIX}_share_generation", "gauge", words, mandate.share.generation)
    words = "Highest generation heard of or acted with"
    yield single(f"{_PREFIX}_generation", "gauge", words, territory.highest)
    words = "Endpoints of our partitions left to a newer owner now"
    yield single(f"{_PREFIX}_fenced_endpoints", "gauge", words, len(territory.fenced))


def _work(told: Told, stats: IntakeStats) -> Iterator[Family]:
    for name, words, value in (
        ("turns", "Turns: fold, decide, plan", told.turns),
        ("turn_seconds", "Time spent in turns", told.turn_seconds),
        ("decisions", "Changes of a desired count", told.decisions),
        ("published_replicas", "Words about an endpoint's replicas put on the log", told.replicas),
        ("restored_endpoints", "Endpoints that began with what their snapshot held", stats.restored),
        ("unusable_snapshots", "Snapshots that could not be used", stats.snapshots_skipped),
        ("fenced", "Times an endpoint was left to a newer owner", stats.fenced),
        ("outdone", "Words of an earlier owner that came late and were answered", stats.outdone),
    ):
        yield single(f"{_PREFIX}_{name}_total", "counter", words, value)


def _reporters(reconciler: Reconciler) -> Iterator[Family]:
    mirrors = len(reconciler.demand.mirrors)
    counts = {"gateway": len(reconciler.demand.spoke_ns) - mirrors, "mirror": mirrors}
    words = "Processes whose demand was heard within the last hour"
    yield Family(f"{_PREFIX}_reporters", "gauge", words, _labelled("role", counts))


def _log(health: Health) -> Iterator[Family]:
    dropped = {topic: int(count) for (name, topic), count in health.counters.items() if name == "log_dropped_messages"}
    yield from writer_families(dropped, None)
    lag = {topic: count for (name, topic), count in health.gauges.items() if name == "log_lag_messages"}
    yield Family(
        "tidegate_log_lag_messages", "gauge", "Between a reader and the end of the topic", _labelled("topic", lag)
    )


def _labelled(label: str, counts: Mapping[str, float]) -> list[tuple[dict[str, str], float]]:
    return [({label: value}, float(count)) for value, count in sorted(counts.items())]

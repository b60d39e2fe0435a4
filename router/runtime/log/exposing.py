"""Numbers of this machine for Prometheus, served by its shipper: of its log, and of the processes that write to it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from router.runtime import exposition
from router.runtime.exposition import Family
from router.runtime.log.base import Health
from router.runtime.log.spool import Spool
from router.runtime.log.spool_desk import Desk
from router.runtime.log.spool_link import STATES
from router.runtime.vitals import PROCESS, gathered

_LABELS = {"log_producer_restarts": "reason"}
"""What the second part of a number's name means, where that is not the topic."""


def text_of(health: Health) -> str:
    """Prometheus's text format, one family after the other."""
    return exposition.text_of(families_of(health))


def families_of(health: Health) -> list[Family]:
    """The numbers of `health`, and its state as one gauge per possible state."""
    families: list[Family] = []
    for kind, numbers, suffix in (("counter", health.counters, "_total"), ("gauge", health.gauges, "")):
        for name in sorted({name for name, _ in numbers}):
            found = sorted((label, value) for (other, label), value in numbers.items() if other == name)
            samples = [({_LABELS.get(name, "topic"): label} if label else {}, value) for label, value in found]
            families.append(Family(f"tidegate_{name}{suffix}", kind, "", samples))
    states = [({"state": state}, float(state == health.state)) for state in STATES]
    return [*families, Family("tidegate_log_link", "gauge", "", states)]


class Exposing:
    """What the shipper's own listener tells: the log of its machine, and what the processes of its data folder offer."""

    def __init__(self, desk: Desk, vitals: Path | None, further: Iterable[Path] = ()) -> None:
        """`vitals`: folder of the sockets on which processes tell what they count; `further`: single such sockets."""
        self._desk = desk
        self._vitals = vitals
        self._further = tuple(further)

    async def text(self) -> str:
        """For Prometheus. Raises `Unavailable`."""
        log = text_of(await self._desk.ask(Spool.health))
        if self._vitals is None:
            return log
        texts = await gathered(self._vitals, self._further)
        answering = [({PROCESS: name}, float(text is not None)) for name, text in sorted(texts.items())]
        up = Family("tidegate_process_up", "gauge", "Whether the process answers when asked for its metrics", answering)
        return exposition.merged(
            [log, exposition.text_of([up]), *(text for text in texts.values() if text is not None)]
        )

"""What a turn tells the world: the `replicas` and `decisions` topics, one line per decision, and counts of all that."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from autoscaler.control.reconciler import Turn
from router.contract.codec import encode_decision, encode_replicas
from router.contract.events import DECISIONS, REPLICAS
from router.runtime.log.base import Log

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class Told:
    """How much this process has told."""

    turns: int = 0
    turn_seconds: float = 0.0
    """Folding, deciding and planning, over all turns."""
    decisions: int = 0
    replicas: int = 0

    def note(self, turn: Turn, seconds: float) -> None:
        """One more turn, which took so long."""
        self.turns += 1
        self.turn_seconds += seconds
        self.decisions += len(turn.decisions)
        self.replicas += len(turn.replicas)


def publish(log: Log, turn: Turn) -> None:
    """Append what `turn` decided and what gateways must know. Never waits."""
    for event in turn.replicas:
        log.append(REPLICAS, event.endpoint, encode_replicas(event))
    for decision in turn.decisions:
        log.append(DECISIONS, decision.endpoint, encode_decision(decision))
        _LOG.info(
            "%s/%s: %d to %d replicas: %s",
            decision.endpoint,
            decision.deployment,
            decision.previous,
            decision.desired,
            decision.reason,
        )

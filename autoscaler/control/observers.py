"""What a turn tells the world: the `replicas` and `decisions` topics, and one line per decision in the log file."""

from __future__ import annotations

import logging

from autoscaler.control.reconciler import Turn
from router.contract.codec import encode_decision, encode_replicas
from router.contract.events import DECISIONS, REPLICAS
from router.runtime.log.base import Log

_LOG = logging.getLogger(__name__)


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

"""A decision in words: one sentence per reason, with the numbers it was made from."""

from __future__ import annotations

from collections.abc import Mapping

from autoscaler.policy.decider import Decisions, Reason
from autoscaler.policy.sizing import SpecTable
from autoscaler.policy.windows import WINDOW_BUCKETS

SENTENCES: Mapping[Reason, str] = {
    Reason.UNCHANGED: "no change",
    Reason.CREATED: "created: starts with {desired:.0f} (bounds {low:.0f} to {high:.0f})",
    Reason.FIXED: "in use: fixed at {desired:.0f}",
    Reason.BOUNDS: "the bounds are now {low:.0f} to {high:.0f}",
    Reason.FROM_ZERO: "from zero: {queued:.0f} waiting, {in_flight:.0f} in flight",
    Reason.SCALE_OUT: (
        "scale out: {busy:.1f} busy and {queued:.0f} waiting are {utilization:.0%} of {capacity:.0f} places, "
        "target {target:.0%}"
    ),
    Reason.SCALE_IN: (
        "scale in: the largest load of the last {window_seconds:.0f} s was {peak:.1f}, which {desired:.0f} "
        "can carry at the target of {target:.0%}"
    ),
    Reason.IDLE: "idle: no request for {idle_limit_seconds:.0f} s, nothing in flight, nothing waiting",
    Reason.TRIAL: "a new template is tried out",
}


def inputs_of(decisions: Decisions, table: SpecTable, row: int) -> dict[str, float]:
    """The numbers row `row` was decided from, by name; utilization and target as 0–1 (and above)."""
    signals, standing = decisions.signals, decisions.standing
    previous = float(decisions.previous[row])
    places = previous * float(table.capacity[row])
    busy, queued = float(signals.busy[row]), float(signals.queued[row])
    return {
        "previous": previous,
        "desired": float(decisions.desired[row]),
        "busy": busy,
        "queued": queued,
        "in_flight": float(signals.in_flight[row]),
        "peak": float(signals.peak[row]),
        "need": float(signals.need[row]),
        "ready": float(standing.ready[row]),
        "pending": float(standing.pending[row]),
        "capacity": places,
        "utilization": (busy + queued) / places if places else 0.0,
        "target": float(table.target[row]),
        "low": float(table.low[row]),
        "high": float(table.high[row]),
        "window_seconds": float(table.polling_ns[row]) * WINDOW_BUCKETS / 1e9,
        "idle_limit_seconds": float(table.idle_ns[row]) / 1e9,
    }


def sentence(reason: Reason, inputs: Mapping[str, float]) -> str:
    """What happened and why, for a person."""
    return SENTENCES[reason].format(**inputs)

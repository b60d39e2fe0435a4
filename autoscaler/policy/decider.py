"""The decision: how many replicas each deployment should have, for the whole fleet at once, and why.

Two policies, Azure's: a fixed count, and target utilization = (busy + queued) / (replicas × concurrency), as azureml-fe
counts it. Out: eager, as soon as a polling interval says so; at once from zero, and when requests wait that the last
growth, a polling interval ago or more, did not provide for. In: after the largest load of the last twenty intervals would
fit, so never when load × N/(N-1) exceeded the target. To the lower bound when idle.
What waits is a backlog to be worked off, not a permanent need: with the service time known it asks for
queued × service time / time left instead of one place per request.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

from autoscaler.policy import damping
from autoscaler.policy.demand import LIVE, NEVER, SHADOW, Load
from autoscaler.policy.sizing import SpecTable
from autoscaler.policy.windows import Bools, Floats, Ints

LATER = 2**63 - 1
"""Nanoseconds: after everything."""


class Reason(enum.IntEnum):
    """Why a desired count is what it is."""

    UNCHANGED = 0
    CREATED = 1
    FIXED = 2
    BOUNDS = 3
    FROM_ZERO = 4
    SCALE_OUT = 5
    SCALE_IN = 6
    IDLE = 7
    TRIAL = 8


@dataclass(frozen=True, slots=True)
class Standing:
    """What was decided before and what came of it: one row per deployment."""

    desired: Ints
    """-1 for a deployment about which nothing was decided yet."""
    ready: Ints
    pending: Ints
    """Replicas that exist and are not ready yet."""
    failed: Bools
    """The newest template cannot start."""
    trial: Bools
    """Its template has changed since the last decision."""
    active_ns: Ints
    """Latest moment, besides requests, from which idleness counts."""
    polled_ns: Ints
    grown_ns: Ints
    zeroed_ns: Ints
    """When it was last sent to its lower bound for being idle."""
    turns: Floats
    turned_ns: Ints
    rising: Bools
    """The last change was a growth."""


def fresh_standing(rows: int) -> Standing:
    """Rows about which nothing is known."""
    never = np.full(rows, NEVER, np.int64)
    zeros = np.zeros(rows, np.int64)
    no = np.zeros(rows, np.bool_)
    return Standing(
        desired=np.full(rows, -1, np.int64),
        ready=zeros,
        pending=zeros,
        failed=no,
        trial=no,
        active_ns=never,
        polled_ns=never,
        grown_ns=never,
        zeroed_ns=never,
        turns=np.full(rows, damping.FLAP_BUDGET),
        turned_ns=never,
        rising=no,
    )


def taken(standing: Standing, rows: Ints) -> Standing:
    """The rows `rows` of `standing`, in that order; -1 stands for a new deployment."""
    padded = fresh_standing(1)
    columns = {
        column.name: np.concatenate([getattr(standing, column.name), getattr(padded, column.name)])[rows]
        for column in fields(Standing)
    }
    return Standing(**columns)


class History(NamedTuple):
    """One row of a `Standing` without what observations and specs tell anew: what has to outlive a restart."""

    desired: int
    active_ns: int
    polled_ns: int
    grown_ns: int
    zeroed_ns: int
    turns: float
    turned_ns: int
    rising: bool

    def after(self, desired: int, at_ns: int) -> History:
        """The same deployment once it had been decided to have `desired` replicas, around `at_ns`."""
        if desired == self.desired:
            return self
        if desired > self.desired:
            return self._replace(desired=desired, grown_ns=max(self.grown_ns, at_ns), rising=True)
        shrunk = self._replace(desired=desired, zeroed_ns=max(self.zeroed_ns, at_ns), rising=False)
        if not self.rising:
            return shrunk
        left = damping.turns_left(np.array([self.turns]), np.array([self.turned_ns]), at_ns)
        return shrunk._replace(turns=float(left[0]) - 1.0, turned_ns=at_ns)


def history_of(standing: Standing, row: int) -> History:
    """The history of row `row`."""
    return History(*(getattr(standing, name)[row].item() for name in History._fields))


def with_histories(standing: Standing, histories: Mapping[int, History]) -> Standing:
    """`standing` with the histories of some rows put in."""
    columns = {name: getattr(standing, name).copy() for name in History._fields}
    for row, history in histories.items():
        for name, column in columns.items():
            column[row] = getattr(history, name)
    return replace(standing, **columns)


@dataclass(frozen=True, slots=True)
class Signals:
    """The load that counts for each deployment: live, and shadow too where it is a candidate."""

    busy: Floats
    queued: Floats
    in_flight: Floats
    peak: Floats
    """Largest load of the scale-in window, what is in flight and waiting now included."""
    need: Floats
    """Concurrency to provide now."""
    activity_ns: Ints
    known: Bools


@dataclass(frozen=True, slots=True)
class Decisions:
    """The desired counts, why, what they were decided from, and the standing for next time."""

    desired: Ints
    previous: Ints
    reason: Ints
    signals: Signals
    standing: Standing
    due_ns: int
    """The first moment at which a row that needs more than it has, and may not grow yet, may; `LATER` without one."""


def signals_of(load: Load, table: SpecTable, rows: Ints) -> Signals:
    """Pick the rows of the fleet out of the demand state and add up what counts for each."""
    shadow = table.candidate.astype(np.float64)

    def both(plane: Floats) -> Floats:
        return np.asarray(plane[rows, LIVE] + shadow * plane[rows, SHADOW])

    busy, queued, in_flight = both(load.busy), both(load.queued), both(load.in_flight)
    seen = np.where(table.candidate, load.activity_ns[rows].max(axis=1), load.activity_ns[rows, LIVE])
    service = np.where(
        table.candidate & np.isnan(load.service_seconds[rows, LIVE]),
        load.service_seconds[rows, SHADOW],
        load.service_seconds[rows, LIVE],
    )
    return Signals(
        busy=busy,
        queued=queued,
        in_flight=in_flight,
        peak=np.maximum(both(load.busy_peak), np.maximum(busy, in_flight)) + queued,
        need=needed(busy, queued, both(load.rate), service, table),
        activity_ns=seen,
        known=load.known[rows],
    )


def needed(busy: Floats, queued: Floats, rate: Floats, service: Floats, table: SpecTable) -> Floats:
    """Concurrency to provide: Azure's busy + queued, or less where the service time shows that less will do.

    Little's law gives the steady part, rate × service; the backlog needs queued × service / time left, which at a
    utilization of `target` is that much × target of a place. Unknown service time: one place per waiting request.
    """
    azure = busy + queued
    steady = np.maximum(busy, rate * service)
    work = steady + queued * service / table.backlog_seconds * table.target
    return np.where(np.isnan(service), azure, np.minimum(azure, np.maximum(work, busy)))


def decide(signals: Signals, table: SpecTable, standing: Standing, now_ns: int, *, shrink: bool = True) -> Decisions:
    """The desired count of every row. `shrink=False` forbids every scale-in that the bounds do not force."""
    before = standing.desired
    new = before < 0
    previous = np.clip(np.where(new, table.initial, before), table.low, table.high)
    waiting = (signals.queued > 0) | (signals.in_flight > 0)
    active_ns = np.maximum(signals.activity_ns, _active(standing, new, now_ns))
    busy = waiting | (now_ns - active_ns < table.idle_ns)
    trusted = signals.known & shrink

    follows = table.fixed < 0
    polled = now_ns - standing.polled_ns >= table.polling_ns
    grows_ns = standing.polled_ns + table.polling_ns
    grows_ns = np.where(signals.queued > 0, np.minimum(grows_ns, standing.grown_ns + table.polling_ns), grows_ns)
    size = np.ceil(signals.need / (table.capacity * table.target) - 1e-9).astype(np.int64)
    keep = np.ceil(signals.peak / (table.capacity * table.target) - 1e-9).astype(np.int64)
    woken = (previous == 0) & (waiting | ((signals.activity_ns > standing.zeroed_ns) & busy)) & ~new
    idle = ~busy & trusted & (previous > table.low)

    turns = damping.turns_left(standing.turns, standing.turned_ns, now_ns)
    calm = damping.may_shrink(now_ns, standing.grown_ns, table.polling_ns) & ((turns >= 1.0) | ~standing.rising)
    full = np.where(follows, np.maximum(size, 1), np.maximum(table.fixed, 1))
    lacking = follows & (previous > 0) & (size > previous) & (previous < table.high)
    out = lacking & (grows_ns <= now_ns)
    inward = follows & polled & trusted & calm & (previous > 1) & (keep < previous)
    back = ~follows & busy & (previous > 0) & (previous != np.maximum(table.fixed, 1))
    idle &= ~follows | (table.low == 0)
    idle &= (turns >= 1.0) | ~standing.rising
    trial = standing.trial & (previous == 0)

    choices = [
        (new, previous, Reason.CREATED),
        (trial, full, Reason.TRIAL),
        (woken, full, Reason.FROM_ZERO),
        (idle, table.low, Reason.IDLE),
        (out, size, Reason.SCALE_OUT),
        (back, full, Reason.FIXED),
        (inward, np.maximum(keep, 1), Reason.SCALE_IN),
        (previous != before, previous, Reason.BOUNDS),
    ]
    asked = np.select([c[0] for c in choices], [c[1] for c in choices], previous)
    reason = np.select([c[0] for c in choices], [np.full(len(before), int(c[2])) for c in choices], 0)
    desired = np.clip(asked, table.low, table.high)
    reason = np.where((desired == before) & ~new, int(Reason.UNCHANGED), reason)
    after = _standing_after(
        standing, desired, active_ns=active_ns, turns=turns, polled=(polled & follows) | out, idle=idle, now_ns=now_ns
    )
    due_ns = int(np.min(grows_ns, where=lacking & ~out, initial=LATER))
    return Decisions(desired, np.maximum(before, 0), reason, signals, after, due_ns)


def _active(standing: Standing, new: Bools, now_ns: int) -> Ints:
    """A deployment that is new, changed or still starting is not idle, however little it is asked."""
    starting = (standing.pending > 0) & (standing.ready == 0) & ~standing.failed
    missing = (standing.desired > 0) & (standing.ready + standing.pending == 0) & ~standing.failed
    return np.where(new | standing.trial | starting | missing, now_ns, standing.active_ns)


def _standing_after(
    standing: Standing,
    desired: Ints,
    *,
    active_ns: Ints,
    turns: Floats,
    polled: Bools,
    idle: Bools,
    now_ns: int,
) -> Standing:
    before = standing.desired
    grew = desired > before
    shrank = desired < before
    turned = shrank & standing.rising
    return replace(
        standing,
        desired=desired,
        trial=np.zeros(len(desired), np.bool_),
        active_ns=np.where(grew & (before == 0), now_ns, active_ns),
        polled_ns=np.where(polled, now_ns, standing.polled_ns),
        grown_ns=np.where(grew, now_ns, standing.grown_ns),
        zeroed_ns=np.where(idle & shrank, now_ns, standing.zeroed_ns),
        turns=np.where(turned, turns - 1.0, standing.turns),
        turned_ns=np.where(turned, now_ns, standing.turned_ns),
        rising=np.where(grew, True, np.where(shrank, False, standing.rising)),
    )

"""The fold: what all reporters together say about each deployment. Event time, no clock.

Every message counts once, by (writer, endpoint, sequence), whichever way it came: by the log, which keeps order per
endpoint, or directly, where messages may be missing, repeated or late (`heard.py`). A reporter's gauges (in flight,
queued) are its last word: the newest report of an endpoint replaces them, one that comes late leaves them, silence lets
them expire. Live and shadow load stand in two planes that never mix here.
`fold` consumes the state it is given: only the returned one may be used afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import numpy as np

from autoscaler.policy import windows
from autoscaler.policy.heard import Ids, Verdict
from autoscaler.policy.windows import Bools, Floats, Ints, Ring
from router.contract.events import DemandReport, DemandRow

T = TypeVar("T")
Target = tuple[str, str]
"""(endpoint, lower-case deployment name)."""
LIVE, SHADOW = 0, 1
BUSY, ARRIVALS, COMPLETIONS = 0, 1, 2
"""Quantities of the ring; busy in request-seconds."""
DEFAULT_WIDTH_NS = 1_000_000_000
NEVER = -(2**62)


class Heard(NamedTuple):
    """One demand message: who said it, as its how-manieth, and what."""

    writer: str
    sequence: int
    report: DemandReport
    direct: bool = False
    """Handed over past the log, where the same message comes too, sooner or later."""


@dataclass(frozen=True, slots=True)
class Word:
    """The last a reporter said about an endpoint."""

    writer: str
    sequence: int
    at_ns: int
    replicas_version: int
    shadow: bool
    draining: Mapping[str, int]
    """Replica id → requests in flight there, for every draining replica the reporter knows of."""
    cells: tuple[int, ...] = ()


@dataclass(slots=True)
class DemandState:
    """Structure of arrays: `rows` by deployment, `cells` by (writer, deployment, plane)."""

    rows: dict[Target, int] = field(default_factory=dict)
    free_rows: list[int] = field(default_factory=list)
    ring: Ring = field(default_factory=lambda: windows.empty_ring(3, 0, 2, DEFAULT_WIDTH_NS))
    activity_ns: Ints = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """[row, plane]: when a request last arrived, waited or was in service."""
    newest_ns: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """[row]: end of the newest report that speaks of it."""
    heard_ns: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """[row]: end of the newest report of a gateway about its endpoint, whether it mentions the deployment or not."""
    endpoint_rows: dict[str, list[int]] = field(default_factory=dict)
    cells: dict[tuple[str, Target, int], int] = field(default_factory=dict)
    free_cells: list[int] = field(default_factory=list)
    cell_row: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    cell_plane: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    cell_gauges: Floats = field(default_factory=lambda: np.zeros((2, 0)))
    """[in flight | queued, cell]."""
    cell_ns: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    words: dict[str, dict[str, Word]] = field(default_factory=dict)
    """Endpoint → writer → its last word."""
    ids: dict[str, dict[str, Ids]] = field(default_factory=dict)
    """Endpoint → writer → which of its messages have been counted."""
    spoke_ns: dict[str, int] = field(default_factory=dict)
    """Writer → when it last said anything about anything."""
    mirrors: set[str] = field(default_factory=set)
    """Writers that are mirrors, not gateways."""
    duplicates: int = 0
    """Messages that came again the same way."""
    echoes: int = 0
    """Messages that had come by the other way already."""


@dataclass(slots=True)
class _Sums:
    """What a batch adds to the ring."""

    rows: list[int] = field(default_factory=list)
    planes: list[int] = field(default_factory=list)
    buckets: list[int] = field(default_factory=list)
    amounts: list[tuple[float, float, float]] = field(default_factory=list)


def row_of(state: DemandState, target: Target) -> int:
    """The row of `target`, made if it is new."""
    found = state.rows.get(target)
    if found is not None:
        return found
    if not state.free_rows:
        _grow_rows(state)
    row = state.free_rows.pop()
    state.rows[target] = row
    state.endpoint_rows.setdefault(target[0], []).append(row)
    for word in state.words.get(target[0], {}).values():
        if not word.shadow:
            state.heard_ns[row] = max(state.heard_ns[row], word.at_ns)
    return row


def set_width(state: DemandState, target: Target, width_ns: int) -> None:
    """Give `target` buckets of `width_ns`; a change forgets its window."""
    row = row_of(state, target)
    if state.ring.width_ns[row] != width_ns:
        windows.cleared(state.ring, row, width_ns)


def forget(state: DemandState, target: Target) -> None:
    """Let go of a deployment that is no more."""
    if target in state.rows:
        forget_all(state, (target,))


def forget_all(state: DemandState, targets: Collection[Target]) -> None:
    """Let go of deployments that have rows."""
    gone = set(targets)
    for key in [key for key in state.cells if key[1] in gone]:
        _drop_cell(state, key)
    for target in gone:
        row = state.rows.pop(target)
        windows.cleared(state.ring, row, DEFAULT_WIDTH_NS)
        state.activity_ns[row] = NEVER
        state.newest_ns[row] = state.heard_ns[row] = NEVER
        state.endpoint_rows[target[0]].remove(row)
        state.free_rows.append(row)


def fold(state: DemandState, batch: Iterable[Heard]) -> DemandState:
    """The state after `batch`. Consumes `state`."""
    sums = _Sums()
    for heard in batch:
        _take(state, heard, sums)
    if sums.rows:
        windows.add(
            state.ring,
            np.array(sums.rows, np.int64),
            np.array(sums.planes, np.int64),
            np.array(sums.buckets, np.int64),
            np.array(sums.amounts, np.float64).T,
        )
    return state


def _take(state: DemandState, heard: Heard, sums: _Sums) -> None:
    if not _is_new(state, heard):
        return
    report = heard.report
    by_writer = state.words.setdefault(report.endpoint, {})
    before = by_writer.get(heard.writer)
    if before is not None and heard.sequence < before.sequence:
        by_writer[heard.writer] = _late(state, before, report, sums)
    else:
        by_writer[heard.writer] = _newest(state, heard, before, sums)
    if report.shadow:
        state.mirrors.add(heard.writer)
    for row in () if report.shadow else state.endpoint_rows.get(report.endpoint, ()):
        state.heard_ns[row] = max(state.heard_ns[row], report.end_ns)
        state.newest_ns[row] = max(state.newest_ns[row], report.end_ns)
    state.spoke_ns[heard.writer] = max(state.spoke_ns.get(heard.writer, NEVER), report.end_ns)


def _is_new(state: DemandState, heard: Heard) -> bool:
    by_writer = state.ids.setdefault(heard.report.endpoint, {})
    ids = by_writer.get(heard.writer)
    if ids is None:
        ids = by_writer[heard.writer] = Ids()
    verdict = ids.direct(heard.sequence) if heard.direct else ids.logged(heard.sequence)
    state.duplicates += verdict is Verdict.AGAIN
    state.echoes += verdict is Verdict.ECHO
    return verdict is Verdict.NEW


def _newest(state: DemandState, heard: Heard, before: Word | None, sums: _Sums) -> Word:
    """The word of a report that nothing newer has come before: its gauges replace those of `before`."""
    report = heard.report
    for cell in before.cells if before else ():
        state.cell_gauges[:, cell] = 0.0  # absent from the newest report = nothing there
        state.cell_ns[cell] = report.end_ns
    cells = set(before.cells if before else ())
    for row in report.rows:
        cell = _cell_of(state, (heard.writer, *_place(report, row)), row_of(state, (report.endpoint, row.deployment)))
        state.cell_gauges[0, cell] += row.in_flight
        state.cell_gauges[1, cell] += row.queued
        state.cell_ns[cell] = report.end_ns
        cells.add(cell)
        _count(state, report, row, sums)
    return Word(
        heard.writer,
        heard.sequence,
        report.end_ns,
        report.replicas_version,
        report.shadow,
        dict(report.draining),
        tuple(sorted(cells)),
    )


def _late(state: DemandState, word: Word, report: DemandReport, sums: _Sums) -> Word:
    """Count what a report counted that comes after a newer one; what it knew of the moment is over, as `word` said."""
    cells = set(word.cells)
    for row in report.rows:
        cell = _cell_of(state, (word.writer, *_place(report, row)), row_of(state, (report.endpoint, row.deployment)))
        if cell not in cells:  # the newest report did not speak of it: nothing there
            state.cell_ns[cell] = word.at_ns
            cells.add(cell)
        _count(state, report, row, sums)
    return replace(word, cells=tuple(sorted(cells)))


def _place(report: DemandReport, row: DemandRow) -> tuple[Target, int]:
    """The deployment and the plane of `row`."""
    return (report.endpoint, row.deployment), SHADOW if report.shadow or row.shadow else LIVE


def _count(state: DemandState, report: DemandReport, row: DemandRow, sums: _Sums) -> None:
    target, plane = _place(report, row)
    at = row_of(state, target)
    if row.arrivals or row.in_flight or row.queued:
        state.activity_ns[at, plane] = max(state.activity_ns[at, plane], report.end_ns)
    state.newest_ns[at] = max(state.newest_ns[at], report.end_ns)
    busy = busy_seconds(row, (report.end_ns - report.start_ns) / 1e9)
    if busy or row.arrivals or row.completions:
        for bucket, share in windows.shares(report.start_ns, report.end_ns, int(state.ring.width_ns[at])):
            sums.rows.append(at)
            sums.planes.append(plane)
            sums.buckets.append(bucket)
            sums.amounts.append((busy * share, row.arrivals * share, row.completions * share))


def busy_seconds(row: DemandRow, window_seconds: float) -> float:
    """Request-seconds in service during the window, held to what is possible.

    No more requests can have been in service at once than ended in the window or are in flight at its end; a row
    without a figure counts those in flight for the whole window.
    """
    most = (row.completions + row.rejected + row.in_flight) * max(window_seconds, 0.0)
    return min(row.busy_seconds, most) if row.busy_seconds > 0 else row.in_flight * max(window_seconds, 0.0)


@dataclass(frozen=True, slots=True)
class Load:
    """What is known at one moment: every array is [row], gauges [row, plane]."""

    in_flight: Floats
    queued: Floats
    busy: Floats
    """Mean concurrency over the last polling interval."""
    busy_peak: Floats
    """The same, largest of the last twenty intervals."""
    rate: Floats
    """Arrivals per second over the last polling interval."""
    service_seconds: Floats
    """Mean time in service over the window; NaN while nothing has completed."""
    activity_ns: Ints
    known: Bools
    """[row]: some gateway's word is fresh, or was that nothing is there. No data is not zero."""


FRESH_NS = 1_000_000_000
"""Reports younger than this make the moment of the newest one the end of the window, so that the way through the
log does not look like a drop in load."""


def load_at(state: DemandState, now_ns: int, expire_ns: int) -> Load:
    """The load at `now_ns`. A reporter silent for `expire_ns` no longer counts: what it held is unknown, not zero."""
    rows = len(state.newest_ns)
    used = state.cell_row >= 0
    alive = used & (now_ns - state.cell_ns <= expire_ns)
    holding = state.cell_gauges.sum(axis=0) > 0
    gauges = _by_row(state, alive, rows)
    behind = now_ns - state.newest_ns
    at = np.where((behind >= 0) & (behind <= FRESH_NS), state.newest_ns, now_ns)
    last = windows.trailing(state.ring, at)
    whole = windows.window_sums(state.ring, at)
    seconds = (state.ring.width_ns / 1e9)[:, None]
    done = whole[COMPLETIONS]
    live = used & (state.cell_plane == LIVE)
    spoke = np.bincount(state.cell_row[live & (alive | ~holding)], minlength=rows)[:rows] > 0
    return Load(
        in_flight=gauges[0],
        queued=gauges[1],
        busy=last[BUSY] / seconds,
        busy_peak=windows.window_peak(state.ring, BUSY, at) / seconds,
        rate=last[ARRIVALS] / seconds,
        service_seconds=np.divide(whole[BUSY], done, out=np.full_like(done, np.nan), where=done >= 1.0),
        activity_ns=state.activity_ns,
        known=spoke | (now_ns - state.heard_ns <= expire_ns),
    )


def _by_row(state: DemandState, alive: Bools, rows: int) -> Floats:
    place = state.cell_row[alive] * 2 + state.cell_plane[alive]
    sums = [np.bincount(place, weights=gauge[alive], minlength=rows * 2) for gauge in state.cell_gauges]
    return np.stack([total[: rows * 2].reshape(rows, 2) for total in sums])


def prune(state: DemandState, before_ns: int) -> None:
    """Forget reporters that have said nothing since `before_ns`; they are dead processes."""
    gone = {writer for writer, at in state.spoke_ns.items() if at < before_ns}
    if not gone:
        return
    for writer in gone:
        del state.spoke_ns[writer]
        state.mirrors.discard(writer)
    for key in [key for key in state.cells if key[0] in gone]:
        _drop_cell(state, key)
    _let_go(state.words, gone)
    _let_go(state.ids, gone)


def _let_go(by_endpoint: dict[str, dict[str, T]], gone: set[str]) -> None:
    for endpoint in list(by_endpoint):
        left = {writer: kept for writer, kept in by_endpoint[endpoint].items() if writer not in gone}
        if left:
            by_endpoint[endpoint] = left
        else:
            del by_endpoint[endpoint]


def _cell_of(state: DemandState, key: tuple[str, Target, int], row: int) -> int:
    found = state.cells.get(key)
    if found is not None:
        return found
    if not state.free_cells:
        _grow_cells(state)
    cell = state.free_cells.pop()
    state.cells[key] = cell
    state.cell_row[cell] = row
    state.cell_plane[cell] = key[2]
    return cell


def _drop_cell(state: DemandState, key: tuple[str, Target, int]) -> None:
    cell = state.cells.pop(key)
    state.cell_row[cell] = -1
    state.cell_gauges[:, cell] = 0.0
    state.free_cells.append(cell)
    words = state.words.get(key[1][0], {})
    word = words.get(key[0])
    if word is not None:
        words[key[0]] = replace(word, cells=tuple(one for one in word.cells if one != cell))


def _grow_rows(state: DemandState) -> None:
    have = len(state.newest_ns)
    size = max(16, have * 2)
    state.ring = windows.grown(state.ring, size, DEFAULT_WIDTH_NS)
    more = size - have
    state.activity_ns = np.concatenate([state.activity_ns, np.full((more, 2), NEVER, np.int64)])
    state.newest_ns = np.concatenate([state.newest_ns, np.full(more, NEVER, np.int64)])
    state.heard_ns = np.concatenate([state.heard_ns, np.full(more, NEVER, np.int64)])
    state.free_rows.extend(range(size - 1, have - 1, -1))


def _grow_cells(state: DemandState) -> None:
    have = len(state.cell_ns)
    size = max(16, have * 2)
    more = size - have
    state.cell_row = np.concatenate([state.cell_row, np.full(more, -1, np.int64)])
    state.cell_plane = np.concatenate([state.cell_plane, np.zeros(more, np.int64)])
    state.cell_gauges = np.concatenate([state.cell_gauges, np.zeros((2, more))], axis=1)
    state.cell_ns = np.concatenate([state.cell_ns, np.full(more, NEVER, np.int64)])
    state.free_cells.extend(range(size - 1, have - 1, -1))

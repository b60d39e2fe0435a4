"""What the autoscaler remembers of one endpoint, as plain JSON and back.

Restoring a picture and folding what came after it gives the same state as having folded everything: numbers keep every
bit, times are absolute, so a window that grew old meanwhile simply is empty, and the ids of what was counted are inside,
so that whatever is read again counts no second time. What cannot be read is refused whole, with nothing changed.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from autoscaler.policy import demand, windows
from autoscaler.policy.decider import History
from autoscaler.policy.demand import DemandState, Word
from autoscaler.policy.heard import MOST_DIRECT, Ids
from autoscaler.policy.windows import EMPTY, SLOTS

SHAPE = 1
"""The version this code writes and reads."""
_LEAST, _MOST = -(2**63), 2**63 - 1
_PLANES = 2
_QUANTITIES = 3


class Unreadable(ValueError):
    """A picture of a version or shape that this code does not know: leave it out and read the log instead."""


class Cell(NamedTuple):
    """The last gauges of one reporter about one deployment, in one plane."""

    deployment: str
    plane: int
    in_flight: float
    queued: float
    at_ns: int


class Bucket(NamedTuple):
    """One slot of the ring: [quantity][plane]."""

    number: int
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class DeploymentPicture:
    """The window of one deployment."""

    width_ns: int
    buckets: tuple[Bucket, ...]
    activity_ns: tuple[int, ...]
    newest_ns: int
    heard_ns: int


@dataclass(frozen=True, slots=True)
class WriterPicture:
    """One reporter about this endpoint."""

    ids: Ids
    spoke_ns: int
    mirror: bool
    word: Word | None
    """Without its cells, which have no numbers before they are restored."""
    cells: tuple[Cell, ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """One endpoint."""

    deployments: Mapping[str, DeploymentPicture] = field(default_factory=dict)
    writers: Mapping[str, WriterPicture] = field(default_factory=dict)
    histories: Mapping[str, History] = field(default_factory=dict)
    """Deployment → what was decided about it before."""
    folder: str = ""
    """Which data folder's autoscaler drew it."""
    inherited: frozenset[str] = frozenset()
    """Ids of published replicas that run elsewhere than on that one's own backends."""


# drawing ------------------------------------------------------------------------------------------------------------


def draw(
    state: DemandState,
    endpoints: Collection[str],
    histories: Mapping[str, Mapping[str, History]],
    *,
    folder: str = "",
    inherited: Mapping[str, Collection[str]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Endpoint → its picture as JSON. `histories` and `inherited` are by endpoint."""
    rows: dict[str, dict[str, int]] = {endpoint: {} for endpoint in endpoints}
    for (endpoint, deployment), row in state.rows.items():
        if endpoint in rows:
            rows[endpoint][deployment] = row
    return {
        endpoint: {
            "shape": SHAPE,
            "folder": folder,
            "inherited": sorted((inherited or {}).get(endpoint, ())),
            "deployments": {name: _deployment(state, row) for name, row in sorted(named.items())},
            "writers": {
                writer: _writer(state, endpoint, writer, named) for writer in sorted(state.ids.get(endpoint, ()))
            },
            "histories": {name: history._asdict() for name, history in sorted(histories.get(endpoint, {}).items())},
        }
        for endpoint, named in rows.items()
    }


def _deployment(state: DemandState, row: int) -> dict[str, Any]:
    ring = state.ring
    numbers = ring.buckets[row].tolist()
    values = ring.values[:, row].transpose(2, 0, 1).tolist()
    held = [(number, one) for number, one in zip(numbers, values, strict=True) if number != EMPTY]
    return {
        "width_ns": int(ring.width_ns[row]),
        "buckets": [[number, *one] for number, one in sorted(held)],
        "activity_ns": state.activity_ns[row].tolist(),
        "newest_ns": int(state.newest_ns[row]),
        "heard_ns": int(state.heard_ns[row]),
    }


def _writer(state: DemandState, endpoint: str, writer: str, named: Mapping[str, int]) -> dict[str, Any]:
    ids = state.ids[endpoint][writer]
    drawn: dict[str, Any] = {
        "until": ids.until,
        "beyond": list(_runs(ids.beyond)),
        "spoke_ns": state.spoke_ns.get(writer, demand.NEVER),
        "mirror": writer in state.mirrors,
    }
    word = state.words.get(endpoint, {}).get(writer)
    if word is not None:
        drawn["word"] = [word.sequence, word.at_ns, word.replicas_version, word.shadow, dict(word.draining)]
        drawn["cells"] = [
            [name, plane, *state.cell_gauges[:, cell].tolist(), int(state.cell_ns[cell])]
            for name in sorted(named)
            for plane in range(_PLANES)
            if (cell := state.cells.get((writer, (endpoint, name), plane))) is not None
        ]
    return drawn


def _runs(numbers: Iterable[int]) -> Iterator[list[int]]:
    """Ascending numbers as [first, step, count]: reports come in a steady rhythm, so thousands become a few."""
    run: list[int] = []
    for number in numbers:
        if len(run) == 3 and run[2] == 1:
            run[1] = number - run[0]
        if run and number == run[0] + run[1] * run[2]:
            run[2] += 1
            continue
        if run:
            yield run
        run = [number, 1, 1]
    if run:
        yield run


# reading ------------------------------------------------------------------------------------------------------------


def read(body: Mapping[str, Any]) -> Picture:
    """Inverse of `draw` for one endpoint. Raises `Unreadable`."""
    if body.get("shape") != SHAPE:
        raise Unreadable(f"only shape {SHAPE} is known, not {body.get('shape')!r:.20}")
    try:
        return Picture(
            deployments={_text(name): _read_deployment(one) for name, one in body["deployments"].items()},
            writers={_text(name): _read_writer(name, one) for name, one in body["writers"].items()},
            histories={_text(name): _read_history(one) for name, one in body["histories"].items()},
            folder=_text(body["folder"]),
            inherited=frozenset(_text(one) for one in body["inherited"]),
        )
    except Unreadable:
        raise
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise Unreadable(f"it makes no sense: {error!r:.200}") from error


def _read_deployment(body: Mapping[str, Any]) -> DeploymentPicture:
    buckets = tuple(_read_bucket(*one) for one in body["buckets"])
    if len({one.number % SLOTS for one in buckets}) != len(buckets):
        raise Unreadable("two buckets want one slot")
    width = _whole(body["width_ns"])
    if width < 1:
        raise Unreadable(f"a bucket cannot be {width} ns wide")
    activity = tuple(_whole(one) for one in body["activity_ns"])
    if len(activity) != _PLANES:
        raise Unreadable(f"{len(activity)} planes of activity")
    return DeploymentPicture(width, buckets, activity, _whole(body["newest_ns"]), _whole(body["heard_ns"]))


def _read_bucket(number: Any, *values: Any) -> Bucket:
    read = tuple(tuple(_real(one) for one in planes) for planes in values)
    if len(read) != _QUANTITIES or any(len(planes) != _PLANES for planes in read):
        raise Unreadable("a bucket has other quantities")
    return Bucket(_whole(number), read)


def _read_writer(name: str, body: Mapping[str, Any]) -> WriterPicture:
    beyond = array("q")
    for first, step, count in body["beyond"]:
        if _whole(step) < 1 or not 0 < _whole(count) <= MOST_DIRECT - len(beyond):
            raise Unreadable("ids in no order, or too many")
        beyond.extend(range(_whole(first), first + step * count, step))
    until = _whole(body["until"])
    if any(later <= earlier for earlier, later in pairwise((until, *beyond))):
        raise Unreadable("ids in no order")
    said = body.get("word")
    return WriterPicture(
        Ids(until, beyond),
        _whole(body["spoke_ns"]),
        _truth(body["mirror"]),
        None if said is None else _read_word(name, said),
        tuple(_read_cell(*one) for one in body.get("cells", ())),
    )


def _read_word(writer: str, said: Any) -> Word:
    sequence, at_ns, version, shadow, draining = said
    held = {_text(name): _whole(count) for name, count in draining.items()}
    return Word(writer, _whole(sequence), _whole(at_ns), _whole(version), _truth(shadow), held)


def _read_cell(deployment: Any, plane: Any, in_flight: Any, queued: Any, at_ns: Any) -> Cell:
    if _whole(plane) not in range(_PLANES):
        raise Unreadable(f"there is no plane {plane}")
    return Cell(_text(deployment), plane, _real(in_flight), _real(queued), _whole(at_ns))


def _read_history(body: Mapping[str, Any]) -> History:
    return History(
        desired=_whole(body["desired"]),
        active_ns=_whole(body["active_ns"]),
        polled_ns=_whole(body["polled_ns"]),
        grown_ns=_whole(body["grown_ns"]),
        zeroed_ns=_whole(body["zeroed_ns"]),
        turns=_real(body["turns"]),
        turned_ns=_whole(body["turned_ns"]),
        rising=_truth(body["rising"]),
    )


def _whole(value: Any) -> int:
    if type(value) is not int or not _LEAST <= value <= _MOST:
        raise Unreadable(f"{value!r:.40} is no whole number")
    return value


def _real(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise Unreadable(f"{value!r:.40} is no finite number")
    return float(value)


def _truth(value: Any) -> bool:
    if type(value) is not bool:
        raise Unreadable(f"{value!r:.40} is neither true nor false")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise Unreadable(f"{value!r:.40} is no text")
    return value


# restoring ----------------------------------------------------------------------------------------------------------


def restore(state: DemandState, endpoint: str, picture: Picture) -> None:
    """Put what `picture` knows of demand into `state`, which knows nothing of `endpoint` but the widths of its windows.

    A deployment whose window has another width by now keeps that one, empty, as after any change of it.
    """
    for name, one in picture.deployments.items():
        known = (endpoint, name) in state.rows
        row = demand.row_of(state, (endpoint, name))
        if not known:
            windows.cleared(state.ring, row, one.width_ns)
        state.activity_ns[row] = one.activity_ns
        state.newest_ns[row], state.heard_ns[row] = one.newest_ns, one.heard_ns
        for bucket in one.buckets if state.ring.width_ns[row] == one.width_ns else ():
            slot = bucket.number % SLOTS
            state.ring.buckets[row, slot] = bucket.number
            state.ring.values[:, row, :, slot] = bucket.values
    for writer, told in picture.writers.items():
        _restore_writer(state, endpoint, writer, told)
    gateways = [told.word.at_ns for told in picture.writers.values() if told.word and not told.word.shadow]
    drawn = {state.rows[endpoint, name] for name in picture.deployments}
    for row in set(state.endpoint_rows.get(endpoint, ())) - drawn:  # newer than the picture
        state.heard_ns[row] = max([int(state.heard_ns[row]), *gateways])


def _restore_writer(state: DemandState, endpoint: str, writer: str, told: WriterPicture) -> None:
    state.ids.setdefault(endpoint, {})[writer] = Ids(told.ids.until, told.ids.beyond[:])
    state.spoke_ns[writer] = max(state.spoke_ns.get(writer, demand.NEVER), told.spoke_ns)
    if told.mirror:
        state.mirrors.add(writer)
    if told.word is None:
        return
    cells = []
    for one in told.cells:
        target = (endpoint, one.deployment)
        cell = demand._cell_of(state, (writer, target, one.plane), demand.row_of(state, target))
        state.cell_gauges[:, cell] = one.in_flight, one.queued
        state.cell_ns[cell] = one.at_ns
        cells.append(cell)
    word = told.word
    state.words.setdefault(endpoint, {})[writer] = Word(
        writer, word.sequence, word.at_ns, word.replicas_version, word.shadow, word.draining, tuple(sorted(cells))
    )


def drop(state: DemandState, endpoints: Collection[str]) -> None:
    """Forget everything about `endpoints`: somebody else knows better from now on."""
    gone = set(endpoints)
    for endpoint in gone:
        state.words.pop(endpoint, None)
        state.ids.pop(endpoint, None)
    demand.forget_all(state, [target for target in state.rows if target[0] in gone])
    for endpoint in gone:
        state.endpoint_rows.pop(endpoint, None)

"""Small plots for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LEVELS = " ▁▂▃▄▅▆▇█"


def timeline(samples: Sequence[tuple[float, Mapping[str, int]]], width: int = 56) -> list[str]:
    """One line per name: the largest value in each of `width` equal slices of time, as block characters.

    `samples` are (seconds, name → value) in order of time.
    """
    if not samples:
        return []
    names = list(dict.fromkeys(name for _, values in samples for name in values))
    first, last = samples[0][0], samples[-1][0]
    span = max(last - first, 1e-9)
    peak = max((value for _, values in samples for value in values.values()), default=0) or 1
    label = max(len(name) for name in names)
    lines = []
    for name in names:
        slices: list[int | None] = [None] * width
        for at, values in samples:
            index = min(width - 1, int((at - first) / span * width))
            slices[index] = max(slices[index] or 0, values.get(name, 0))
        row, current = [], 0
        for value in slices:
            current = current if value is None else value
            row.append(_LEVELS[-(-current * (len(_LEVELS) - 1) // peak)])
        lines.append(f"{name:>{label}} │{''.join(row)}│ peak {max(v or 0 for v in slices)}")
    lines.append(f"{'':>{label}} └{'─' * width}┘ {span:.0f} s")
    return lines

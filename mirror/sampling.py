"""Which requests are mirrored: exact, evenly spread, without chance.

A target with fraction f has been taken ⌊f·n + phase⌋ times after n requests, so |taken − f·n| < 1 at every prefix, for
ever: the arithmetic is on integers (every float is a ratio of two), and the gap to the next request takes one of two
neighbouring values, as in Bresenham's line. Targets start at different phases, so that equal fractions fall on
different requests as long as there is room.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

_GOLDEN = 0.6180339887498949
"""Multiples of the golden ratio modulo 1 stay well apart, however many there are (three-distance theorem)."""
_NEVER = 1 << 62


class _Line:
    """One target: the number of the next request it takes, and how to step from there to the one after."""

    __slots__ = ("_credit", "_gap", "_numerator", "_rest", "bit", "due")

    def __init__(self, fraction: float, phase: float, bit: int) -> None:
        if not 0 <= fraction <= 1:
            raise ValueError(f"a fraction from 0 to 1, not {fraction}")
        self.bit = bit
        numerator, denominator = Fraction(fraction).as_integer_ratio()
        self._numerator = numerator
        self._gap, self._rest = divmod(denominator, numerator) if numerator else (_NEVER, 0)
        credit = int(Fraction(phase) * denominator)
        self.due = -((credit - denominator) // numerator) if numerator else _NEVER
        self._credit = credit + self.due * numerator - denominator

    def step(self) -> None:
        """Move `due` on. The credit left after a hit is below the numerator, so the gap is ⌊1/f⌋ or one more."""
        if self._credit >= self._rest:
            self._credit -= self._rest
            self.due += self._gap
        else:
            self._credit += self._numerator - self._rest
            self.due += self._gap + 1


class Sampler:
    """Picks mirror targets for one request after another.

    `fractions` are the targets' shares, each 0 to 1; `phase` (0 ≤ phase < 1) shifts all of them, so that several
    samplers of the same fractions (one per worker) do not act in step. Raises `ValueError` on anything else.
    """

    __slots__ = ("_left", "_lines")

    def __init__(self, fractions: Sequence[float], phase: float = 0.5) -> None:
        if not 0 <= phase < 1:
            raise ValueError(f"a phase from 0 to below 1, not {phase}")
        self._lines = [_Line(share, (phase + i * _GOLDEN) % 1.0, 1 << i) for i, share in enumerate(fractions)]
        self._left = min((line.due for line in self._lines), default=_NEVER)

    def sample(self) -> int:
        """The targets of the next request, as a bit mask: bit i stands for `fractions[i]`."""
        self._left -= 1
        if self._left:
            return 0
        return self._hit()

    def _hit(self) -> int:
        lines = self._lines
        if len(lines) == 1:
            line = lines[0]
            now = line.due
            line.step()
            self._left = line.due - now
            return 1
        now = min(line.due for line in lines)
        mask = 0
        for line in lines:
            if line.due == now:
                mask |= line.bit
                line.step()
        self._left = min(line.due for line in lines) - now
        return mask

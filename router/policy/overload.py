"""How hard a worker is pressed, by one measure at a time, with hysteresis: a level is left only well below where it began."""

from __future__ import annotations

import enum
from collections import deque
from typing import Final

EASE: Final = 0.9
"""Of a mark, below which its level ends."""
STEADY: Final = 3
"""Measures in a row that must agree: one long pause (a large snapshot, a machine that slept) is no overload."""


class Level(enum.IntEnum):
    """What is to be done about it."""

    CALM = 0
    PRESSED = 1
    """Refuse the lowest class; where memory or connections are short, end connections with their answers."""
    OVERLOADED = 2
    """Refuse whatever comes new."""


class Marks:
    """From which values on a measure presses and overloads, and where it stands."""

    __slots__ = ("_overloaded", "_pressed", "level")

    def __init__(self, pressed: float, overloaded: float) -> None:
        self._pressed = pressed
        self._overloaded = overloaded
        self.level = Level.CALM

    def take(self, value: float) -> Level:
        """The level by a new value."""
        if value >= self._overloaded or (self.level is Level.OVERLOADED and value >= self._overloaded * EASE):
            self.level = Level.OVERLOADED
        elif value >= self._pressed or (self.level is not Level.CALM and value >= self._pressed * EASE):
            self.level = Level.PRESSED
        else:
            self.level = Level.CALM
        return self.level


class Steady:
    """The least of the last few values."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: deque[float] = deque((0.0,) * STEADY, maxlen=STEADY)

    def take(self, value: float) -> float:
        """With a new value."""
        self._values.append(value)
        return min(self._values)

"""When a worker is pressed, and when it is calm again."""

from __future__ import annotations

from router.policy.overload import Level, Marks, Steady

CALM, PRESSED, OVERLOADED = Level


def test_levels_begin_at_their_marks_and_end_well_below() -> None:
    marks = Marks(0.5, 1.0)
    values = [0.49, 0.5, 0.46, 0.44, 0.5, 0.99, 1.0, 0.91, 0.89, 0.46, 0.44]
    assert [marks.take(value) for value in values] == [
        CALM, PRESSED, PRESSED, CALM, PRESSED, PRESSED, OVERLOADED, OVERLOADED, PRESSED, PRESSED, CALM
    ]  # fmt: skip


def test_it_goes_from_calm_to_overloaded_and_back_at_once() -> None:
    marks = Marks(0.5, 1.0)
    assert [marks.take(value) for value in (2.0, 0.1)] == [OVERLOADED, CALM]


def test_what_never_is_reached_is_never_a_level() -> None:
    marks = Marks(0.9, float("inf"))
    assert [marks.take(value) for value in (0.95, 5.0, 0.0)] == [PRESSED, PRESSED, CALM]


def test_one_long_pause_is_no_overload() -> None:
    steady = Steady()
    assert [steady.take(value) for value in (9.0, 0.0, 3.0, 2.0, 4.0, 1.0)] == [0, 0, 0, 0, 2.0, 1.0]

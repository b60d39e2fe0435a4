"""What was handed over is there for a moment, in order and once, for whoever asks from where it was."""

from __future__ import annotations

import pytest

from autoscaler.control import passing
from autoscaler.control.passing import Passing
from router.contract.handover import Handed, decode_passed, encode_passed


def some(*numbers: int, size: int = 1) -> list[Handed]:
    return [Handed("w", number, 0, "shop", b"x" * size) for number in numbers]


def test_who_asks_from_the_last_place_gets_what_came_since() -> None:
    kept = Passing()
    place, found = kept.after(0)
    assert found == []
    kept.put(some(0, 1))
    place, found = kept.after(place)
    assert found == some(0, 1)
    assert kept.after(place) == (place, [])
    kept.put(some(2))
    assert kept.after(place)[1] == some(2)
    assert kept.after(0)[1] == some(0, 1, 2), "who is new gets what there is"


def test_the_oldest_go_and_one_who_asks_too_late_misses_just_those(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passing, "KEPT_BYTES", 5_000)
    kept = Passing()
    place, _ = kept.after(0)
    kept.put(some(*range(100), size=100))
    end, found = kept.after(place)
    assert found == some(*range(100 - len(found), 100), size=100)
    assert 10 < len(found) < 50
    assert end == place + 100


def test_what_does_not_fit_into_one_answer_comes_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passing, "REQUEST_BYTES", 2_000)
    kept = Passing()
    place, _ = kept.after(0)
    kept.put(some(*range(50), size=100))
    answers = []
    while True:
        place, found = kept.after(place)
        if not found:
            break
        answers.append(found)
    assert [one for found in answers for one in found] == some(*range(50), size=100)
    assert len(answers) > 5


def test_a_place_of_an_earlier_life_means_everything_and_one_of_the_future_nothing() -> None:
    kept = Passing()
    kept.put(some(0))
    end, _ = kept.after(0)
    assert kept.after(end - 10**9)[1] == some(0)
    assert kept.after(end + 10**9) == (end, [])


def test_an_answer_is_read_as_it_was_written() -> None:
    assert decode_passed(encode_passed(7, some(1, 2))) == (7, some(1, 2))

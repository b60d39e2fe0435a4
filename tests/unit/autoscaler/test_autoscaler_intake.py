"""Where demand stood is noted, so that a restart replays minutes."""

from __future__ import annotations

from pathlib import Path

from autoscaler.control.intake import NOTE_NS, REPLAY_NS, Places
from router.runtime.log.base import Position


def test_the_newest_note_old_enough_is_where_to_start(tmp_path: Path) -> None:
    places = Places(tmp_path / "places")
    assert places.before(0) == []
    for number in range(60):
        places.note([Position("demand", 0, number)], number * NOTE_NS)
    now = 59 * NOTE_NS
    again = Places(tmp_path / "places")
    (start,) = again.before(now - REPLAY_NS)
    assert start == Position("demand", 0, 59 - REPLAY_NS // NOTE_NS)
    assert len((tmp_path / "places").read_text()) < 2000, "old notes go"


def test_notes_are_rare(tmp_path: Path) -> None:
    places = Places(tmp_path / "places")
    places.note([Position("demand", 0, 1)], 10)
    places.note([Position("demand", 0, 2)], 11)
    assert Places(tmp_path / "places").before(10**18) == [Position("demand", 0, 1)]


def test_a_damaged_file_means_reading_everything(tmp_path: Path) -> None:
    (tmp_path / "places").write_text("{")
    assert Places(tmp_path / "places").before(10**18) == []

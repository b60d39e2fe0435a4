"""What the workers of one machine tell each other about a deployment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from router.contract.errors import Unavailable
from router.gateway.board import Board
from router.gateway.tally import Tally
from router.policy.priority import place
from tests.support.gateway_board import small_board

NOW = 1000


@pytest.fixture
def boards(tmp_path: Path) -> Iterator[list[Board]]:
    """Of three workers, each of which counts by the rows of the others."""
    made = [Board(tmp_path / "board", worker, 3) for worker in range(3)]
    for board in made:
        board.renew()
    yield made
    for board in made:
        board.close()


@pytest.fixture
def tallies(boards: list[Board]) -> list[Tally]:
    return [Tally(board, "demo/blue") for board in boards]


def test_present_is_the_sum_over_all_workers(tallies: list[Tally]) -> None:
    one, two, three = tallies
    one.enter()
    for _ in range(2):
        two.enter()
    assert [tally.present for tally in tallies] == [1, 2, 0]
    assert [tally.present_everywhere() for tally in tallies] == [3, 3, 3]
    two.leave()
    assert three.present_everywhere() == 2


def test_two_lanes_of_one_deployment_in_one_worker_are_counted_together_elsewhere(boards: list[Board]) -> None:
    old, new, other = Tally(boards[0], "demo/blue"), Tally(boards[0], "demo/blue"), Tally(boards[1], "demo/blue")
    old.enter()
    new.enter()
    assert other.present_everywhere() == 2
    old.leave()
    old.let_go()
    assert (new.present_everywhere(), other.present_everywhere()) == (1, 1)


def test_a_worker_hears_of_those_held_elsewhere_but_not_of_its_own(tallies: list[Tally]) -> None:
    one, two, _ = tallies
    one.hold()
    assert (one.holds_elsewhere(), two.holds_elsewhere()) == (False, True)
    one.hold_no_more()
    assert not two.holds_elsewhere()


def test_of_those_that_wait_in_other_workers_the_first_is_found(tallies: list[Tally], boards: list[Board]) -> None:
    one, two, three = tallies
    assert not one.waits_elsewhere()
    assert one.row_of_first() == -1
    two.show_first(place(0, 70))
    three.show_first(place(1, 50))
    assert one.waits_elsewhere()
    assert one.row_of_first() == boards[1].number  # its class goes first, though it came later
    assert one.goes_before_elsewhere(place(0, 80))
    assert not one.goes_before_elsewhere(place(0, 60))
    assert two.row_of_first() == boards[2].number
    two.show_first(0)
    three.show_first(0)
    assert not one.waits_elsewhere()


def test_the_backlog_is_as_old_as_whoever_came_first_in_any_worker(tallies: list[Tally]) -> None:
    one, two, _ = tallies
    assert one.waiting_since(NOW) == NOW
    one.show_first(place(0, 70))
    two.show_first(place(3, 50))
    assert [tally.waiting_since(NOW) for tally in tallies] == [50, 50, 50]


@pytest.mark.interpreted
def test_a_deployment_that_is_gone_leaves_its_columns_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_board(monkeypatch, 4)
    one, two = Board(tmp_path / "board", 0, 2), Board(tmp_path / "board", 1, 2)
    one.renew()
    tally = Tally(one, "demo/blue")
    tally.enter()
    tally.hold()
    tally.show_first(NOW)
    with pytest.raises(Unavailable):
        Tally(one, "demo/green")
    tally.let_go()
    for other in (Tally(one, "demo/green"), Tally(two, "demo/green")):
        assert (other.present_everywhere(), other.holds_elsewhere(), other.waits_elsewhere()) == (0, False, False)
    one.close()
    two.close()

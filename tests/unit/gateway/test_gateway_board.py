"""The board: one table in several processes, exact after deaths, columns reused only when nobody holds them."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from router.contract.errors import Unavailable
from router.gateway import board as board_module
from router.gateway.board import Board, Quantity
from tests.support.gateway_board import small_board

CHILD = """
import sys
from pathlib import Path
from router.gateway.board import Board, Quantity
board = Board(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
gauge, balance = board.column("gauge", Quantity.GAUGE), board.column("balance", Quantity.BALANCE)
for _ in range(int(sys.argv[4])):
    board.cells[board.row + gauge] += 1
    board.cells[board.row + balance] -= 3
print("done", flush=True)
sys.stdin.read()
"""

TORN = """
import sys
from pathlib import Path
from router.gateway.board import Board
from router.gateway.columns import Names
def halfway(self, key, column):
    for slot in range(self._count):
        self._slots[slot] = 0
    print("halfway", flush=True)
    sys.stdin.read()
Names._insert = halfway
board = Board(Path(sys.argv[1]), 1, 2)
with board._table():
    board._take(b"d" * 16)
"""


def child(path: Path, worker: int, workers: int, count: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(worker), str(workers), str(count)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.stdout.close()


def test_processes_add_up_and_the_dead_keep_only_their_balances(tmp_path: Path) -> None:
    path = tmp_path / "board"
    board = Board(path, 0, 3)
    gauge, balance = board.column("gauge", Quantity.GAUGE), board.column("balance", Quantity.BALANCE)
    board.cells[board.row + gauge] = 5
    children = [child(path, worker, 3, 1000 * worker) for worker in (1, 2)]
    assert not board.is_seen(), "the children have not looked since"
    assert board.total(gauge) == 3005
    assert board.total(balance) == -9000
    assert not board.reap()
    end(children[0])
    assert board.reap()
    assert board.total(gauge) == 2005
    assert board.total(balance) == -9000
    assert not board.reap()
    end(children[1])
    # A successor clears its own row even if nobody has noticed the death.
    successor = Board(path, 2, 3)
    assert board.total(gauge) == 5
    assert successor.total(balance) == -9000
    successor.close()
    board.close()


def test_a_row_has_one_owner_at_a_time(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", 0, 2)
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "board"), "0", "2", "1"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        other = child(tmp_path / "board", 1, 2, 1)
        assert process.poll() is None
        column = board.column("gauge", Quantity.GAUGE)
        board.renew()
        assert board.total(column) == 1, "the second owner of row 0 has begun"
        board.close()
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        end(other)
    finally:
        end(process)


def test_columns_are_shared_by_name_and_reused_when_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_board(monkeypatch, 4)
    one, two = Board(tmp_path / "board", 0, 2), Board(tmp_path / "board", 1, 2)
    one.renew()
    columns = [one.column(name, Quantity.GAUGE) for name in "abcd"]
    assert sorted(columns) == [0, 1, 2, 3]
    assert two.column("b", Quantity.GAUGE) == columns[1]
    one.cells[one.row + columns[1]] = 7
    one.let_go("b", Quantity.GAUGE)
    assert two.total(columns[1]) == 0
    with pytest.raises(Unavailable):
        one.column("e", Quantity.GAUGE)
    two.cells[two.row + columns[1]] = 9
    two.let_go("b", Quantity.GAUGE)
    assert one.column("e", Quantity.BALANCE) == columns[1]
    assert one.total(columns[1]) == 0
    one.close()
    two.close()


def test_a_column_with_two_users_in_a_worker_stays_until_both_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_board(monkeypatch, 1)
    board = Board(tmp_path / "board", 0, 1)
    for _ in range(2):
        assert board.column("a", Quantity.GAUGE) == 0
    board.let_go("a", Quantity.GAUGE)
    with pytest.raises(Unavailable):
        board.column("b", Quantity.GAUGE)
    board.let_go("a", Quantity.GAUGE)
    assert board.column("b", Quantity.GAUGE) == 0
    board.close()


def test_a_successor_stands_beside_its_predecessor_and_inherits_what_it_leaves(tmp_path: Path) -> None:
    path = tmp_path / "board"
    other, old = Board(path, 1, 2), Board(path, 0, 2)
    gauge, balance = old.column("gauge", Quantity.GAUGE), old.column("balance", Quantity.BALANCE)
    for name in ("gauge", "balance"):
        other.column(name, Quantity.GAUGE if name == "gauge" else Quantity.BALANCE)
    old.cells[old.row + gauge], old.cells[old.row + balance] = 3, 40
    other.cells[other.row + balance] = -40
    seen_by_other = other.steps
    new = Board(path, 0, 2, beside=True)
    new.column("gauge", Quantity.GAUGE)
    new.column("balance", Quantity.BALANCE)
    assert new.number not in (old.number, other.number)
    assert not new.is_seen()
    for one in (old, other):
        one.renew()
    assert new.is_seen()
    assert len(seen_by_other) == 2, "the list that is held is the one that changes"
    new.cells[new.row + gauge] = 1
    assert [one.total(gauge) for one in (other, old, new)] == [4, 4, 4]
    old.cells[old.row + balance] -= 7
    new.cells[new.row + balance] += 7
    latest = old.column("latest", Quantity.LATEST)
    for one, value in ((other, 5), (old, 9), (new, 8)):
        one.column("latest", Quantity.LATEST)
        one.cells[one.row + latest] = value
    old.close()
    new.renew()
    other.renew()
    assert new.cells[new.row + balance] == 40
    assert new.cells[new.row + latest] == 9
    assert [one.total(balance) for one in (other, new)] == [0, 0]
    assert [one.total(gauge) for one in (other, new)] == [1, 1]
    assert len(seen_by_other) == 1
    third = Board(path, 0, 2, beside=True)
    assert third.number == 0, "the row is free again"
    for one in (third, new, other):
        one.close()


def test_much_is_inherited_in_slices_and_sums_are_exact_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_module, "_SLICE", 40)
    path = tmp_path / "board"
    other, old = Board(path, 1, 2), Board(path, 0, 2)
    columns = [old.column(f"balance-{number}", Quantity.BALANCE) for number in range(100)]
    gauge = old.column("gauge", Quantity.GAUGE)
    for column in columns:
        old.cells[old.row + column] = column + 1
    old.cells[old.row + gauge] = 7
    new = Board(path, 0, 2, beside=True)
    for one in (other, old):
        one.renew()
    predecessor = old.row
    old.close()
    for left in (61, 21, 0):
        if left == 21:
            assert new.is_seen(), "nobody waits for who has gone"
        else:
            new.renew()
        assert not new.reap()
        assert not other.reap(), "the row is not anybody's to take meanwhile"
        assert sum(other.cells[predecessor + column] != 0 for column in range(gauge + 1)) == max(0, left - 1)
        assert [one.total(column) for one in (new, other) for column in columns] == 2 * [one + 1 for one in columns]
        assert new.total(gauge) == 0
    new.renew()
    other.renew()
    assert new.steps == [other.row - new.row]
    third = Board(path, 0, 2, beside=True)
    assert third.row == predecessor, "the row is free again"
    for one in (third, new, other):
        one.close()


def test_what_more_workers_left_counts_with_fewer(tmp_path: Path) -> None:
    path = tmp_path / "board"
    boards = [Board(path, worker, 3) for worker in range(3)]
    for one, value in zip(boards, (50, -20, -30), strict=True):
        column = one.column("balance", Quantity.BALANCE)
        one.cells[one.row + column] = value
    for one in boards:
        one.close()
    alone = Board(path, 0, 1)
    assert alone.total(alone.column("balance", Quantity.BALANCE)) == 0
    alone.renew()
    assert alone.steps == []
    alone.close()


def test_more_workers_than_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most 64"):
        Board(tmp_path / "board", 0, 65)


def test_two_workers_find_the_same_columns_among_very_many(tmp_path: Path) -> None:
    one, two = Board(tmp_path / "board", 0, 2), Board(tmp_path / "board", 1, 2)
    one.renew()
    names = [f"endpoint-{number // 15}/blue#{number % 15}" for number in range(20_000)]
    columns = [one.column(name, Quantity.GAUGE) for name in names]
    assert len(set(columns)) == len(names)
    assert [two.column(name, Quantity.GAUGE) for name in reversed(names)] == columns[::-1]
    for column in columns[::997]:
        two.cells[two.row + column] = column + 1
    assert [one.total(column) for column in columns[::997]] == [column + 1 for column in columns[::997]]
    two.close()
    assert not any(one.total(column) for column in columns[::997])
    one.close()


def test_a_board_with_room_for_many_takes_the_memory_of_few(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", 0, 1)
    for number in range(100):
        column = board.column(f"name-{number}", Quantity.BALANCE)
        board.cells[board.row + column] = 1
    assert (tmp_path / "board").stat().st_blocks * 512 < 1 << 20
    board.close()


@pytest.mark.parametrize("columns", [1, 3, 64])
def test_far_more_names_than_columns_may_follow_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    small_board(monkeypatch, columns)
    board, chance = Board(tmp_path / "board", 0, 1), random.Random(columns)
    held: dict[str, int] = {}
    for number in range(3_000):
        if len(held) == columns:
            name = chance.choice(sorted(held))
            board.cells[board.row + held.pop(name)] = number + 1
            board.let_go(name, Quantity.BALANCE)
        name = f"name-{number}"
        held[name] = board.column(name, Quantity.BALANCE)
        assert board.total(held[name]) == 0, "it begins at nothing"
        assert len(set(held.values())) == len(held), "no two have one column"
    again = {name: board.column(name, Quantity.BALANCE) for name in held}
    assert again == held
    for name in [*held, *held]:
        board.let_go(name, Quantity.BALANCE)
    other = Board(tmp_path / "board", 0, 1, beside=True)
    assert {name: other.column(name, Quantity.BALANCE) for name in held} == held
    other.close()
    board.close()


def test_what_comes_back_finds_its_balance_while_there_is_room_for_others(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", 0, 1)
    column = board.column("balance", Quantity.BALANCE)
    board.cells[board.row + column] = 7
    board.let_go("balance", Quantity.BALANCE)
    assert board.column("another", Quantity.BALANCE) != column
    assert board.column("balance", Quantity.BALANCE) == column
    assert board.total(column) == 7
    board.close()


@pytest.mark.interpreted
def test_names_are_found_again_after_a_worker_was_killed_while_it_changed_them(tmp_path: Path) -> None:
    path = tmp_path / "board"
    board = Board(path, 0, 2)
    columns = {name: board.column(name, Quantity.GAUGE) for name in ("a", "b", "c")}
    process = subprocess.Popen(
        [sys.executable, "-c", TORN, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "halfway\n"
    end(process)
    other = Board(path, 1, 2)
    assert {name: other.column(name, Quantity.GAUGE) for name in columns} == columns
    assert other.column("d", Quantity.GAUGE) not in columns.values()
    assert board.column("d", Quantity.GAUGE) == other.column("d", Quantity.GAUGE)
    other.close()
    board.close()


def test_the_gauges_of_the_dead_are_zeroed_each_time_their_row_was_used(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", 0, 2)
    for count in (3, 4):
        end(child(tmp_path / "board", 1, 2, count))
        board.renew()
        assert board.total(board.column("gauge", Quantity.GAUGE)) == count
        assert board.reap()
        assert not board.reap()
        assert board.total(board.column("gauge", Quantity.GAUGE)) == 0
    board.close()

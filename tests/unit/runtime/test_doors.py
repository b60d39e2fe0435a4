"""A socket at a path is found from its first moment, and goes with whoever put it there, not with the one before."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from router.runtime.doors import Door, reached


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        try:
            with reached(path) as address:
                caller.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


def test_it_is_there_for_its_owner_alone_until_it_leaves(tmp_path: Path) -> None:
    path = tmp_path / "run" / "here.sock"
    with contextlib.closing(Door(path, 4)) as door:
        assert answers(path)
        assert path.stat().st_mode & 0o777 == 0o600
        door.leave()
        assert list(path.parent.iterdir()) == []
        door.leave()


def test_a_path_of_any_length_will_do(tmp_path: Path) -> None:
    path = tmp_path.joinpath(*["a-long-name-of-a-folder"] * 8) / "here.sock"
    with contextlib.closing(Door(path, 4)):
        assert answers(path)


def test_what_a_dead_one_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "here.sock"
    Door(path, 4).socket.close()
    (tmp_path / "here.sock.new").touch()
    assert not answers(path)
    with contextlib.closing(Door(path, 4)):
        assert answers(path)
    assert list(tmp_path.iterdir()) == []


def test_where_it_cannot_be_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "here.sock").mkdir()
    with pytest.raises(IsADirectoryError):
        Door(tmp_path / "here.sock", 4)


def test_one_that_leaves_while_its_successor_comes_takes_nothing_of_the_successors(tmp_path: Path) -> None:
    path = tmp_path / "here.sock"
    living = Door(path, 4)

    def leave(gone: Door, wait: Callable[[], int]) -> None:
        wait()
        gone.close()

    for _ in range(2000):
        at_once = threading.Barrier(2)
        leaving = threading.Thread(target=leave, args=(living, at_once.wait))
        leaving.start()
        at_once.wait()
        living = Door(path, 4)
        leaving.join()
        assert answers(path)
    living.close()

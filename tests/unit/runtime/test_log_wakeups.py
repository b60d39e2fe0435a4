"""Wake-ups reach the readers that want them, and only those; dead readers leave nothing behind."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from router.runtime.log.wakeups import Bell, Listener

Listen = Callable[..., Listener]


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Listen]:
    listeners: list[Listener] = []

    def make(*topics: str) -> Listener:
        listeners.append(Listener(tmp_path, topics))
        return listeners[-1]

    yield make
    for listener in listeners:
        listener.close()


@pytest.fixture
def bell(tmp_path: Path) -> Iterator[Bell]:
    bell = Bell(tmp_path)
    yield bell
    bell.close()


def test_only_listeners_of_the_topic_are_woken(listen: Listen, bell: Bell) -> None:
    demand, specs, both = listen("demand"), listen("specs"), listen("demand", "specs")
    bell.ring({"demand"})
    assert [listener.drain() for listener in (demand, specs, both)] == [True, False, True]
    assert not both.drain()


def test_a_listener_that_came_just_now_is_woken(listen: Listen, bell: Bell) -> None:
    for _ in range(200):
        listener = listen("demand")
        bell.ring({"demand"})
        assert listener.drain()


def test_topics_that_fit_no_file_name_wake_for_everything(listen: Listen, bell: Bell) -> None:
    odd, many = listen("a/b"), listen(*(f"a-rather-long-topic-{n}" for n in range(20)))
    bell.ring({"something else"})
    assert odd.drain()
    assert many.drain()


def test_many_wake_ups_never_block_and_count_as_one(listen: Listen, bell: Bell) -> None:
    listener = listen("demand")
    for _ in range(5_000):
        bell.ring({"demand"})
    assert listener.drain()
    assert not listener.drain()


def test_the_socket_of_a_dead_reader_is_removed_by_the_next_ring(listen: Listen, bell: Bell, tmp_path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    dead.bind(str(tmp_path / "1-dead.demand"))
    dead.close()  # as the kernel does for a killed process: the file stays
    living = listen("demand")
    bell.ring({"demand"})
    assert living.drain()
    assert len(os.listdir(tmp_path)) == 1


def test_a_closed_listener_is_forgotten(listen: Listen, bell: Bell, tmp_path: Path) -> None:
    gone, stays = listen("demand"), listen("demand")
    bell.ring({"demand"})
    gone.close()
    gone.close()
    bell.ring({"demand"})
    assert stays.drain()
    assert len(os.listdir(tmp_path)) == 1

"""Ports for programs that are yet to be started: nobody gets the same one, in this process or another."""

from __future__ import annotations

import subprocess
import sys

from loadtests.waiting import free_port

UNLUCKY = """
import itertools, random, sys
from loadtests.waiting import free_port
drawn = itertools.chain(map(int, sys.argv[1:]), range(10_000, 20_000))
random.randrange = lambda *_: next(drawn)
print(free_port())
"""


def test_no_port_is_given_twice() -> None:
    assert len({free_port() for _ in range(500)}) == 500


def test_another_process_that_draws_ours_gets_another_one() -> None:
    mine = [free_port(), free_port()]
    drawn = subprocess.run([sys.executable, "-c", UNLUCKY, *map(str, mine)], check=True, capture_output=True).stdout
    assert int(drawn) not in mine

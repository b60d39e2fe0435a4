"""What is made once: whole or not at all, by programs of the lowest priority whose words are kept."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from loadtests.made_once import LOWEST_PRIORITY, Unmade, made_once, run


async def test_what_a_killed_run_left_half_made_goes_with_the_next(tmp_path: Path) -> None:
    home, half = tmp_path / "home", tmp_path / ".home.abc" / "made"
    half.mkdir(parents=True)
    other = tmp_path / ".homely.abc"
    other.mkdir()

    async def make(made: Path) -> None:
        (made / "file").touch()

    assert await made_once(home, make, deadline_seconds=10) == home
    assert sorted(path.name for path in tmp_path.iterdir()) == [".home.lock", ".homely.abc", "home"]
    assert (home / "file").exists()


async def test_who_takes_too_long_is_ended_and_leaves_nothing(tmp_path: Path) -> None:
    async def make(made: Path) -> None:
        await run("sleep", "600")

    with pytest.raises(TimeoutError):
        await made_once(tmp_path / "home", make, deadline_seconds=0.2)
    assert [path.name for path in tmp_path.iterdir()] == [".home.lock"]


async def test_a_program_is_in_nobodys_way_and_its_words_are_returned(tmp_path: Path) -> None:
    said = await run("sh", "-c", "pwd; nice; echo $WORD", folder=tmp_path, environment=os.environ | {"WORD": "here"})
    assert said.split() == [str(tmp_path), str(LOWEST_PRIORITY), "here"]


async def test_a_program_that_fails_is_quoted() -> None:
    with pytest.raises(Unmade, match=r"^sh -c .* ended with 3:\nout\nerr\n$"):
        await run("sh", "-c", "echo out; echo err >&2; exit 3")


async def test_others_wait_for_one_and_make_nothing(tmp_path: Path) -> None:
    made_times = 0

    async def make(made: Path) -> None:
        nonlocal made_times
        made_times += 1
        await asyncio.sleep(0.1)

    await asyncio.gather(*(made_once(tmp_path / "home", make, deadline_seconds=30) for _ in range(4)))
    assert made_times == 1

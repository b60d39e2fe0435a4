"""The broker's jars: whole or not at all, fetched once, and a reason in words where they cannot be had."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtests.kafka.distribution import Unresolved, distribution, folder, missing

Program = Callable[[str, str], Path]

MVN = r"""
echo run >> "$0.runs"
for word in "$@"; do case "$word" in -DoutputDirectory=*) out="${word#*=}";; esac; done
mkdir -p "$out" && : > "$out/first.jar"
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Puts a shell script on a path that has nothing else but the basics; the cache is the test's own."""
    monkeypatch.setenv("TIDEGATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)

    def write(name: str, body: str) -> Path:
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{body}\n")
        script.chmod(0o755)
        return script

    return write


def left_over() -> list[Path]:
    return [path for path in folder().parent.iterdir() if path.suffix != ".lock"]


def test_what_is_missing_is_named_one_after_the_other(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing() == "Kafka needs Java 17 or newer, and there is no java on the path"
    old = program("java", """echo 'openjdk version "11.0.2" 2019-01-15' >&2""")
    assert missing() == f"Kafka needs Java 17 or newer, and {old} is 11"
    program("java", "exit 1")
    assert missing() == f"Kafka needs Java 17 or newer, and {old} is of an unknown version"
    program("java", """echo 'openjdk version "21.0.1" 2023-10-17' >&2""")
    assert missing() == "Kafka's jars are not in the cache yet, and there is no mvn (Maven) on the path to fetch them"
    program("mvn", MVN)
    assert missing() is None
    (old.parent / "mvn").unlink()
    folder().mkdir(parents=True)
    assert missing() is None


def test_the_java_of_java_home_goes_first(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program("java", """echo 'openjdk version "21.0.1"' >&2""")
    (tmp_path / "home" / "bin").mkdir(parents=True)
    inner = program("home/bin/java", """echo 'openjdk version "1.8.0_392"' >&2""")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert missing() == f"Kafka needs Java 17 or newer, and {inner} is 8"


async def test_parallel_runs_fetch_once(program: Program) -> None:
    mvn = program("mvn", "sleep 0.3\n" + MVN)
    homes = await asyncio.gather(*(distribution() for _ in range(4)))
    assert set(homes) == {folder()}
    assert Path(f"{mvn}.runs").read_text() == "run\n"
    assert left_over() == [folder()]
    assert [jar.name for jar in folder().iterdir()] == ["first.jar"]


async def test_a_failed_fetch_says_why_and_leaves_nothing(program: Program) -> None:
    program("mvn", MVN + "echo 'no such repository'; exit 1")
    with pytest.raises(Unresolved, match="no such repository"):
        await distribution()
    assert left_over() == []
    program("mvn", MVN)
    assert (await distribution()).exists()


async def test_a_cancelled_fetch_ends_maven_and_leaves_nothing(program: Program, tmp_path: Path) -> None:
    started = tmp_path / "started"
    program("mvn", f"trap '' TERM; : > {started}; while :; do sleep 0.05; done")
    fetching = asyncio.create_task(distribution())
    async with asyncio.timeout(30):
        while not started.exists():
            await asyncio.sleep(0.01)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert left_over() == []
    program("mvn", MVN)
    assert (await distribution()).exists()

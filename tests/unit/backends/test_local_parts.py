"""The small decisions of the local backend: streaks, pauses, back-off, build progress, log tails."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.backends.local.conda import Requirements
from autoscaler.backends.local.environments import BuildProgress, environment_key
from autoscaler.backends.local.logs import merged_tail, plain_tail, replica_tail
from autoscaler.backends.local.probes import Streak, pause_seconds, startup_seconds
from autoscaler.backends.local.shim import RotatedLog, backoff_seconds
from router.contract.specs import Probe


def test_a_streak_needs_its_threshold_in_a_row() -> None:
    streak = Streak(Probe(success_threshold=2, failure_threshold=3))
    assert [streak.passed(ok) for ok in (True, False, True, True, True)] == [None, None, None, True, True]
    assert [streak.passed(ok) for ok in (False, False, True, False, False, False)] == [None] * 5 + [False]


def test_azures_default_patience_is_310_seconds_and_the_startup_probe_replaces_it() -> None:
    assert startup_seconds(Probe(), None) == 310
    assert startup_seconds(Probe(), Probe(initial_delay=1, period=2, failure_threshold=5)) == 11


@given(st.floats(0, 1e5))
def test_a_starting_server_is_asked_often(age: float) -> None:
    assert 0.05 <= pause_seconds(age) <= 0.5
    assert age >= 10 or pause_seconds(age) == 0.05


def test_two_quick_tries_then_doubling_up_to_a_bound() -> None:
    assert [backoff_seconds(n, 1.0, 60.0) for n in range(1, 11)] == pytest.approx(
        [0.1, 0.2, 1, 2, 4, 8, 16, 32, 60, 60]
    )
    assert backoff_seconds(10_000, 1.0, 60.0) == 60


def test_build_progress_follows_the_installer() -> None:
    progress = BuildProgress()
    lines = [
        "Resolved 48 packages in 2.15s",
        "Downloading torch (800MiB)",
        "Downloading numpy (18MiB)",
        " Downloaded numpy",
        " Downloaded torch",
        "Prepared 36 packages in 2s",
        "Installed 48 packages in 70ms",
    ]
    assert [progress.line(line) for line in lines] == pytest.approx([0.15, 0.15, 0.15, 0.45, 0.75, 0.75, 0.85])


@given(st.lists(st.sampled_from(["Downloading a", "Downloaded a", "Built b", "Building b", "Resolved 1 package", "x"])))
def test_build_progress_never_goes_back(lines: list[str]) -> None:
    progress = BuildProgress()
    seen = [progress.line(line) for line in lines]
    assert seen == sorted(seen)
    assert all(0 < fraction < 1 for fraction in seen)


def test_the_key_of_an_environment_is_over_everything_that_goes_in() -> None:
    keys = {
        environment_key(Requirements(("a", "b")), "/py3.11", "linux"),
        environment_key(Requirements(("a",)), "/py3.11", "linux"),
        environment_key(Requirements(("a", "b")), "/py3.12", "linux"),
        environment_key(Requirements(("a", "b")), "/py3.11", "mac"),
    }
    assert len(keys) == 4
    assert environment_key(Requirements(("b", "a")), "/py3.11", "linux") in keys


def written(folder: Path, size_bytes: int, files: int, chunks: list[bytes]) -> None:
    folder.mkdir(exist_ok=True)
    log = RotatedLog(str(folder / "server.log"), size_bytes, files)
    for chunk in chunks:
        log.write(chunk)
    log.end_line()
    log.close()


def test_the_tail_reaches_over_rotated_files_and_chunks(tmp_path: Path) -> None:
    said = b"".join(b"line %d\n" % number for number in range(1000))
    chunks = [said[at : at + 7] for at in range(0, len(said), 7)]
    written(tmp_path / "r-1", 4096, 3, chunks)
    assert len(list((tmp_path / "r-1").iterdir())) == 3
    assert plain_tail(tmp_path / "r-1", 150).splitlines() == [f"line {n}" for n in range(850, 1000)]
    assert all(file.stat().st_size <= 4096 for file in (tmp_path / "r-1").iterdir())


def test_an_endless_line_does_not_fill_the_memory(tmp_path: Path) -> None:
    written(tmp_path / "r-1", 1 << 20, 2, [b"x" * 50_000] * 4)
    assert [len(line) for line in plain_tail(tmp_path / "r-1", 10).splitlines()] == [100_000, 100_000]


def test_replicas_are_merged_by_time(tmp_path: Path) -> None:
    for name, seconds in (("r-1", (1, 3, 5)), ("r-2", (2, 4))):
        (tmp_path / name).mkdir()
        lines = [f"2026-01-01T00:00:0{second}.000000Z said at {second}\n" for second in seconds]
        (tmp_path / name / "server.log").write_text("".join(lines))
    found = merged_tail([tmp_path / "r-1", tmp_path / "r-2"], 4).splitlines()
    assert [line.split()[0] for line in found] == ["r-2", "r-1", "r-2", "r-1"]
    assert [line.split()[-1] for line in found] == ["2", "3", "4", "5"]


def test_a_rotation_under_way_hides_no_older_lines(tmp_path: Path) -> None:
    for name, line in (("server.log", "newest"), ("server.log.2", "older")):
        (tmp_path / name).write_text(f"2026-01-01T00:00:00.000000Z {line}\n")
    assert plain_tail(tmp_path, 5).splitlines() == ["older", "newest"]


def test_a_file_met_under_two_names_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "server.log").write_text("2026-01-01T00:00:00.000000Z said\n")
    (tmp_path / "server.log.1").hardlink_to(tmp_path / "server.log")
    assert plain_tail(tmp_path, 5).splitlines() == ["said"]


def test_no_files_and_no_lines_are_an_empty_tail(tmp_path: Path) -> None:
    assert replica_tail(tmp_path, 5) == []
    assert merged_tail([tmp_path], 0) == ""

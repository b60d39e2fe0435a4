"""The gateway's limits as flags: one default for all, and what `up` is told reaches its workers."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from router.gateway_flags import add_limit_arguments, byte_count, limit_settings, limits_passed_on
from router.runtime.settings import DataLayout, GatewaySettings


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_limit_arguments(parser)
    return parser.parse_args(words)


def test_flags_that_are_not_given_change_nothing(tmp_path: Path) -> None:
    data = DataLayout(tmp_path)
    assert GatewaySettings(data, **limit_settings(parsed())) == GatewaySettings(data)


def test_what_is_passed_on_is_what_was_given() -> None:
    given = parsed("--max-body-bytes=5m", "--header-seconds", "2.5", "--max-connections-per-client=7")
    settings = limit_settings(given)
    assert (settings["max_body_bytes"], settings["header_seconds"]) == (5 << 20, 2.5)
    assert limit_settings(parsed(*limits_passed_on(given))) == settings


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("17", 17), ("2k", 2048), ("1M", 1 << 20), ("3GiB", 3 << 30)])
def test_bytes_may_be_written_with_a_unit(text: str, value: int) -> None:
    assert byte_count(text) == value


@pytest.mark.parametrize("words", ["--max-body-bytes=-1", "--max-body-bytes=1.5g", "--min-rate=", "--idle-seconds=0",
                                   "--max-headers=0", "--idle-seconds=nan", "--idle-seconds=inf"])  # fmt: skip
def test_a_wrong_number_is_refused(words: str) -> None:
    with pytest.raises(argparse.ArgumentError):
        parsed(words)

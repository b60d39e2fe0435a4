"""A mistyped word finds the word that was meant, and only that."""

from __future__ import annotations

from typing import Any

import pytest

from router.contract.dialect import DEPLOYMENT_KEYS
from router.contract.spelling import distance, nearest


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("scale_setting", "scale_settings"),
        ("scaleSettings", "scale_settings"),
        ("instanceCount", "instance_count"),
        ("instances_count", "instance_count"),
        ("enviroment", "environment"),
        ("enviroment_variable", "environment_variables"),
        ("liveness-probe", "liveness_probe"),
        ("readyness_probe", "readiness_probe"),
        ("mdoel", "model"),
        ("endpoint", "endpoint_name"),
        ("tidegates", "tidegate"),
        ("replicas_of_things", None),
        ("x", None),
        ("", None),
    ],
)
def test_the_nearest_key_of_a_deployment(typed: Any, meant: Any) -> None:
    assert nearest(typed, DEPLOYMENT_KEYS) == meant


def test_words_come_from_any_iterable_and_ties_go_to_the_first() -> None:
    assert nearest("blie", iter(["blue", "blip"])) == "blue"
    assert nearest("blie", iter(["blip", "blue"])) == "blip"


@pytest.mark.parametrize(
    ("a", "b", "away"), [("", "abc", 3), ("abc", "abc", 0), ("abc", "acb", 1), ("abc", "abd", 1), ("ca", "abc", 3)]
)
def test_swapped_neighbours_are_one_mistake(a: Any, b: Any, away: Any) -> None:
    assert distance(a, b) == distance(b, a) == away

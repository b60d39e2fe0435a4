"""Documents read into numbers: policy, bounds, candidate, template, backend."""

from __future__ import annotations

from typing import Any

import pytest

from autoscaler.policy.sizing import sizing_of
from router.contract.errors import InvalidSpec
from tests.support.autoscaler_fleet import deployment, revision


def sizing(body: dict[str, Any], **document: Any) -> Any:
    return sizing_of(revision(1, {"blue": body}, **document), "blue")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"instance_count": 3}, (3, 3, 3, 3)),
        ({"instance_count": 2, "tidegate": {"min_instances": 0}}, (0, 2, 2, 2)),
        ({"instance_count": 0, "tidegate": {"min_instances": 0}}, (0, 1, 0, 0)),
        ({"instance_count": 1, "tidegate": {"min_instances": 0, "max_instances": 4}}, (0, 4, -1, 1)),
        ({"instance_count": 3, "tidegate": {"min_instances": 1}}, (1, 3, 3, 3)),
    ],
)
def test_a_fixed_count_is_opened_upwards_only_by_max_instances(
    body: dict[str, Any], expected: tuple[int, int, int, int]
) -> None:
    made = sizing(deployment(**body))
    assert (made.low, made.high, made.fixed, made.initial) == expected


def test_target_utilization_as_azure_writes_it() -> None:
    rule = {
        "type": "target_utilization",
        "min_instances": 3,
        "max_instances": 15,
        "target_utilization_percentage": 60,
        "polling_interval": 10,
    }
    made = sizing(
        {
            "name": "blue",
            "type": "kubernetes",
            "scale_settings": rule,
            "request_settings": {"max_concurrent_requests_per_instance": 4},
        }
    )
    assert (made.low, made.high, made.fixed, made.initial) == (3, 15, -1, 3)
    assert (made.target, made.polling_seconds, made.capacity, made.kind) == (0.6, 10, 4, "kubernetes")


def test_a_mirror_target_without_live_weight_is_a_candidate() -> None:
    assert sizing(deployment(), mirror_traffic={"blue": 10}).candidate
    assert sizing(deployment(), tidegate={"mirror": [{"deployment": "blue", "fraction": 0.001}]}).candidate
    assert not sizing(deployment(), traffic={"blue": 100}).candidate
    assert not sizing(deployment(), mirror_traffic={"green": 10}).candidate


def test_a_restart_is_part_of_the_template() -> None:
    plain = sizing(deployment()).template
    assert sizing(deployment(), restarts={"blue": 2}).template == f"{plain}-2"
    assert sizing(deployment(instance_count=5)).template == plain
    assert sizing(deployment(environment_variables={"A": "1"})).template != plain


def test_a_document_without_sense_is_refused() -> None:
    with pytest.raises(InvalidSpec):
        sizing(deployment(instance_count="many"))

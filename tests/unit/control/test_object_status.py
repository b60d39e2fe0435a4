"""An object's status says what is so, why and since when, and is written only when it has changed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from router.contract.events import DeploymentReplicas, Phase
from router.control.resources import conditions
from router.control.resources.agreement import Told
from router.control.resources.conditions import Surroundings, Verdict
from router.control.resources.objects import Found
from tests.support.control_plane import ready
from tests.support.object_samples import a_standing, an_object

NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
SPEC = {"endpoint_name": "shop", "name": "blue"}
YES = Verdict(True, Told("Accepted", "it is part of revision 3"), 3)


def around(now: DeploymentReplicas | None, *, governing: int = 3, published: int = 3) -> Surroundings:
    standing = a_standing(document={"traffic": {"blue": 100}}, deployments={"blue": {"name": "blue"}})
    replicas = {} if now is None else {"blue": now}
    return Surroundings(standing, published, replicas, {"blue": governing}, "http://gateway")


def told(status: Any, kind: str) -> tuple[str, str]:
    one = next(one for one in status["conditions"] if one["type"] == kind)
    return one["status"], one["reason"]


@pytest.mark.parametrize(
    ("now", "is_ready", "progressing"),
    [
        (None, ("False", "WaitingForAutoscaler"), "True"),
        (ready(2), ("False", "WaitingForAutoscaler"), "True"),
        (ready(3), ("True", "Ready"), "False"),
        (DeploymentReplicas(0, 3, Phase.READY), ("True", "Ready"), "False"),
        (DeploymentReplicas(1, 3, Phase.STARTING), ("False", "Starting"), "True"),
        (DeploymentReplicas(1, 3, Phase.PENDING, "PodUnschedulable", "no room"), ("False", "PodUnschedulable"), "True"),
        (DeploymentReplicas(1, 3, Phase.FAILED, "OutOfQuota", "spent"), ("False", "OutOfQuota"), "False"),
        (dataclasses.replace(ready(3), phase=Phase.SCALING, desired=3), ("True", "Scaling"), "True"),
        (DeploymentReplicas(3, 3, Phase.SCALING), ("False", "Scaling"), "True"),
    ],
)
def test_a_deployment_is_ready_when_it_answers(now: Any, is_ready: Any, progressing: str) -> None:
    status = conditions.deployment_status(an_object(SPEC), YES, around(now), NOW)
    assert told(status, "Ready") == is_ready
    assert told(status, "Progressing")[0] == progressing
    whole = conditions.endpoint_status(an_object({}), YES, around(now), NOW)
    assert told(whole, "Ready")[0] == is_ready[0]


def test_an_endpoint_without_traffic_is_ready_and_says_so() -> None:
    standing = a_standing(deployments={"blue": {"name": "blue"}})
    status = conditions.endpoint_status(an_object({}), YES, Surroundings(standing, 3, {}, {}, "http://g"), NOW)
    assert told(status, "Ready") == ("True", "NoTraffic")
    assert status["ready"] == "0/0"


def test_an_endpoint_is_not_ready_before_its_revision_is_in_force() -> None:
    status = conditions.endpoint_status(an_object({}), YES, around(ready(3), published=2), NOW)
    assert told(status, "Ready") == ("False", "Publishing")


def test_a_status_that_has_not_changed_is_not_written() -> None:
    found = an_object(SPEC)
    status = conditions.deployment_status(found, YES, around(ready(3)), NOW)
    known = with_status(found, status)
    again = conditions.deployment_status(known, YES, around(ready(3)), LATER)
    assert conditions.changed(known, again) is None
    assert conditions.happenings(known, again) == []


def test_a_condition_keeps_its_time_while_only_its_words_change() -> None:
    found = an_object(SPEC)
    first = conditions.deployment_status(found, YES, around(DeploymentReplicas(1, 3, Phase.STARTING)), NOW)
    known = with_status(found, first)
    building = around(DeploymentReplicas(1, 3, Phase.BUILDING))
    second = conditions.deployment_status(known, YES, building, LATER)
    assert {one["lastTransitionTime"] for one in second["conditions"]} == {NOW}
    third = conditions.deployment_status(known, YES, around(ready(3)), LATER)
    since = {one["type"]: one["lastTransitionTime"] for one in third["conditions"]}
    assert since == {"Accepted": NOW, "Progressing": LATER, "Ready": LATER}


def test_what_is_no_longer_so_is_taken_out_of_the_status() -> None:
    found = an_object(SPEC, phase="ready", files={"model.path": "asset:x", "code": "asset:y"})
    status = conditions.deployment_status(found, dataclasses.replace(YES, files={"code": "asset:y"}), around(None), NOW)
    patch = conditions.changed(found, status)
    assert patch is not None
    assert patch["phase"] is None
    assert patch["files"] == {"code": "asset:y", "model.path": None}


def test_a_refused_object_keeps_the_revision_that_it_agreed_with() -> None:
    no = Verdict(False, Told("BadArgument", "spec.x: wrong"))
    status = conditions.deployment_status(an_object(SPEC, revision=2), no, around(ready(3)), NOW)
    assert status["revision"] == 2
    assert told(status, "Accepted") == told(status, "Ready") == ("False", "BadArgument")
    assert conditions.happenings(an_object(SPEC), status) == [(True, "BadArgument", "spec.x: wrong")]


def test_a_failure_is_bad_news_and_a_start_is_not() -> None:
    found = an_object(SPEC)
    failed = around(DeploymentReplicas(1, 3, Phase.FAILED, "OutOfQuota", "spent"))
    assert conditions.happenings(found, conditions.deployment_status(found, YES, failed, NOW)) == [
        (True, "OutOfQuota", "spent")
    ]
    starting = around(DeploymentReplicas(1, 3, Phase.STARTING))
    bad = [one[0] for one in conditions.happenings(found, conditions.deployment_status(found, YES, starting, NOW))]
    assert bad == [False]


def with_status(found: Found, status: dict[str, Any]) -> Found:
    return dataclasses.replace(found, status=status)

"""Whoever was changed last is right, and nothing is ever deleted because something was lost."""

from __future__ import annotations

from typing import Any

import pytest

from router.contract.events import DeploymentReplicas, Phase
from router.control.resources.agreement import Side, rightful, side, waits_for_deployments
from router.control.resources.translation import fingerprint
from tests.support.control_plane import ready
from tests.support.object_samples import a_standing, an_object

SPEC = {"traffic": {"blue": 100}}
UNTOUCHED: dict[str, Any] = {"generation": 2, "accepted": 2, "revision": 3}
EDITED: dict[str, Any] = {"generation": 3, "accepted": 2, "revision": 3}
NEW: dict[str, Any] = {"generation": 1}


@pytest.mark.parametrize(
    ("state", "revision", "exists", "same", "expected"),
    [
        (UNTOUCHED, 3, True, True, Side.NONE),
        (UNTOUCHED, 4, True, False, Side.STORE),  # changed through REST
        (UNTOUCHED, 4, False, False, Side.GONE),  # deleted through REST
        (UNTOUCHED, 3, False, False, Side.OBJECT),  # the store is not newer: it has lost it
        (UNTOUCHED, 2, True, False, Side.OBJECT),  # the store is older
        (UNTOUCHED, 2, False, False, Side.OBJECT),
        (UNTOUCHED, None, False, False, Side.OBJECT),  # the store is new
        (EDITED, 3, True, False, Side.OBJECT),
        (EDITED, 4, True, False, Side.OBJECT),  # both were changed: the apply wins
        (EDITED, 4, False, False, Side.OBJECT),
        (EDITED, 4, True, True, Side.NONE),
        (NEW, 3, True, False, Side.OBJECT),  # an endpoint made by REST gets an object
        (NEW, 3, True, True, Side.NONE),
        (NEW, None, False, False, Side.OBJECT),
        ({**EDITED, "written": fingerprint(SPEC)}, 4, True, False, Side.STORE),  # cut off after writing back
        ({**EDITED, "written": "other"}, 4, True, False, Side.OBJECT),
    ],
)
def test_who_is_right(state: Any, revision: int | None, exists: bool, same: bool, expected: Side) -> None:
    standing = None if revision is None else a_standing(revision)
    assert side(an_object(SPEC, **state), standing, exists=exists, same=same) is expected


GREEN = {"name": "green"}
BLUE = {"name": "blue"}


def document(**shares: int) -> dict[str, Any]:
    return {"name": "shop", "compute": "azureml:kubernetes", "traffic": shares}


def test_traffic_waits_for_what_is_not_there() -> None:
    told = waits_for_deployments(document(blue=50, green=50), a_standing(deployments={"blue": BLUE}), {})
    assert told is not None
    assert told.reason == "WaitingForDeployment"
    assert "traffic names green, which is not there yet" in told.message


def test_traffic_waits_for_what_is_not_ready_while_others_serve() -> None:
    standing = a_standing(document={"traffic": {"blue": 100}}, deployments={"blue": BLUE, "green": GREEN})
    starting = DeploymentReplicas(1, 3, Phase.FAILED, "OutOfQuota", "the quota is spent")
    told = waits_for_deployments(document(green=100), standing, {"blue": ready(3), "green": starting})
    assert told is not None
    assert "green is not ready to take over traffic (failed, OutOfQuota: the quota is spent)" in told.message
    assert waits_for_deployments(document(green=100), standing, {"blue": ready(3), "green": ready(3)}) is None
    assert waits_for_deployments(document(green=100), standing, {"green": starting}) is None  # nothing to lose


def test_first_traffic_does_not_wait() -> None:
    assert waits_for_deployments(document(blue=100), a_standing(deployments={"blue": BLUE}), {}) is None


def test_an_idle_deployment_takes_traffic() -> None:
    standing = a_standing(document={"traffic": {"blue": 100}}, deployments={"blue": BLUE, "green": GREEN})
    idle = DeploymentReplicas(0, 3, Phase.READY)
    assert waits_for_deployments(document(green=100), standing, {"blue": ready(3), "green": idle}) is None


def test_of_two_objects_about_one_deployment_the_older_counts() -> None:
    spec = {"endpoint_name": "shop", "name": "blue"}
    old = an_object(spec, "zzz", created="2026-01-01T00:00:00Z")
    young = an_object({**spec, "name": "Blue"}, "aaa", created="2026-01-01T00:00:01Z")
    chosen, others = rightful([young, old])
    assert chosen == {"blue": old}
    assert others == {"aaa": young}


def test_of_two_objects_of_the_same_second_the_one_that_was_accepted_counts() -> None:
    spec = {"endpoint_name": "shop", "name": "blue"}
    old, young = an_object(spec, "zzz", accepted=1, revision=3), an_object(spec, "aaa")
    assert young.uid < old.uid
    for both in ([young, old], [old, young]):
        assert rightful(both) == ({"blue": old}, {"aaa": young})

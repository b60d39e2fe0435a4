"""How a deployment is described to people: its phase, and what the backend has to say."""

from __future__ import annotations

import pytest

from autoscaler.backends.base import Condition
from autoscaler.policy.plan import described
from router.contract.events import DeploymentReplicas, Phase

BASE = DeploymentReplicas(desired=1, revision=3, template="t")
NOTE = "cudatoolkit is a conda-only package without a counterpart for pip; left out"


def test_what_had_to_be_left_out_stays_readable_once_it_runs() -> None:
    told = described(BASE, Condition(Phase.READY, "t", message=NOTE), ready=1, existing=1)
    assert (told.phase, told.message) == (Phase.READY, NOTE)


def test_a_word_about_another_template_is_not_said_of_this_one() -> None:
    told = described(BASE, Condition(Phase.READY, "older", message=NOTE), ready=1, existing=1)
    assert (told.phase, told.message) == (Phase.READY, "")


@pytest.mark.parametrize(("ready", "existing", "phase"), [(0, 0, Phase.PENDING), (0, 1, Phase.STARTING)])
def test_before_it_runs_the_note_is_there_too(ready: int, existing: int, phase: Phase) -> None:
    told = described(BASE, Condition(Phase.STARTING, "t", message=NOTE), ready, existing)
    assert (told.phase, told.message) == (phase, NOTE)


def test_a_failure_of_a_template_that_still_serves_is_not_its_message() -> None:
    failed = Condition(Phase.FAILED, "t", "UserScriptInitFailed", "init() failed", "Traceback")
    told = described(BASE, failed, ready=1, existing=2)
    assert (told.phase, told.message) == (Phase.READY, "")

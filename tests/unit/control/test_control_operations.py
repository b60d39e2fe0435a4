"""Where an operation and its resource are, from what is published and what runs."""

from __future__ import annotations

import pytest

from router.contract.events import DeploymentReplicas, Phase, Replica, ReplicaState
from router.control.content import OperationKind as Kind
from router.control.operations import Operation, Replicas, Status, deployment_state, endpoint_state, progress_of


def operation(
    kind: Kind = Kind.CREATE, deployment: str | None = "blue", status: Status = Status.IN_PROGRESS
) -> Operation:
    return Operation("id", kind, "shop", deployment, 5, 0, status, await_revision=5)


def now(phase: Phase, revision: int = 5) -> DeploymentReplicas:
    replica = Replica("r", "h", 1, ReplicaState.READY, "t")
    return DeploymentReplicas(1, revision, phase, "Why", "words", "tail", 0.5, replicas=(replica,))


@pytest.mark.parametrize(
    ("one", "replicas", "published", "status"),
    [
        (operation(deployment=None), {}, 4, Status.IN_PROGRESS),
        (operation(deployment=None), {}, 5, Status.SUCCEEDED),
        (operation(), {}, 5, Status.IN_PROGRESS),
        (operation(), {"blue": now(Phase.READY, 4)}, 5, Status.IN_PROGRESS),
        (operation(), {"blue": now(Phase.READY)}, 4, Status.IN_PROGRESS),
        (operation(), {"blue": now(Phase.READY)}, 5, Status.SUCCEEDED),
        (operation(), {"blue": now(Phase.READY, 9)}, 9, Status.SUCCEEDED),
        (operation(), {"blue": now(Phase.STARTING)}, 5, Status.IN_PROGRESS),
        (operation(), {"blue": now(Phase.FAILED)}, 5, Status.FAILED),
        (operation(), {"blue": now(Phase.FAILED, 4)}, 5, Status.IN_PROGRESS),
        (operation(Kind.RESTART), {"blue": now(Phase.SCALING)}, 5, Status.IN_PROGRESS),
        (operation(Kind.DELETE), {"blue": now(Phase.DELETING)}, 5, Status.IN_PROGRESS),
        (operation(Kind.DELETE), {"green": now(Phase.READY)}, 5, Status.SUCCEEDED),
        (operation(Kind.DELETE), {}, 4, Status.IN_PROGRESS),
        (operation(Kind.DELETE, None), {"green": now(Phase.READY)}, 5, Status.IN_PROGRESS),
        (operation(Kind.DELETE, None), {}, 5, Status.SUCCEEDED),
        (operation(Kind.ROLLBACK, None), {"blue": now(Phase.READY)}, 5, Status.IN_PROGRESS),
        (operation(Kind.ROLLBACK, None), {"blue": now(Phase.READY), "red": now(Phase.READY)}, 5, Status.SUCCEEDED),
        (operation(Kind.ROLLBACK, None), {"blue": now(Phase.FAILED), "red": now(Phase.STARTING)}, 5, Status.FAILED),
    ],
)
def test_an_operation_ends_when_the_world_has_caught_up(
    one: Operation, replicas: Replicas, published: int, status: Status
) -> None:
    progress = progress_of(one, replicas, published, ["blue", "red"])
    assert progress.status is status
    assert (progress.error is not None) == (status is Status.FAILED)
    assert 0 <= progress.progress <= 1


@pytest.mark.parametrize(
    ("newest", "phase", "state"),
    [
        (operation(), None, "Creating"),
        (operation(Kind.UPDATE), Phase.READY, "Updating"),
        (operation(Kind.ROLLBACK, None), Phase.STARTING, "Updating"),
        (operation(Kind.DELETE), Phase.READY, "Deleting"),
        (operation(status=Status.SUCCEEDED), Phase.READY, "Succeeded"),
        (operation(status=Status.SUCCEEDED), Phase.SCALING, "Scaling"),
        (operation(status=Status.SUCCEEDED), Phase.STARTING, "Scaling"),
        (operation(status=Status.SUCCEEDED), Phase.FAILED, "Failed"),
        (operation(status=Status.FAILED), Phase.FAILED, "Failed"),
        (operation(status=Status.FAILED), Phase.STARTING, "Failed"),
        (operation(status=Status.FAILED), Phase.READY, "Succeeded"),
        (operation(status=Status.FAILED), None, "Failed"),
        (None, Phase.READY, "Succeeded"),
        (None, None, "Succeeded"),
    ],
)
def test_what_runs_wins_over_how_the_last_operation_ended(
    newest: Operation | None, phase: Phase | None, state: str
) -> None:
    assert deployment_state(newest, None if phase is None else now(phase)) == state


def test_an_endpoint_is_updating_until_its_revision_is_published() -> None:
    update = operation(Kind.UPDATE, None)
    assert (endpoint_state(update, 4), endpoint_state(update, 5)) == ("Updating", "Succeeded")
    assert endpoint_state(operation(Kind.DELETE, None), 5) == "Deleting"
    assert endpoint_state(operation(Kind.ROLLBACK, None), 5) == "Updating"
    assert endpoint_state(None, 0) == "Succeeded"

"""Who is right when an object and the store differ: whoever was changed last. Pure.

An object that has been accepted as it is has not been changed since; then what differs was changed through REST or the
command line, and is written back. An object that is not is newer, and is committed. A store that is older than what
the object once agreed with has lost something (a new disk, an old copy): then the object is right too, and nothing is
ever deleted because of it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from router.contract.azure import endpoint_from_document
from router.contract.events import DeploymentReplicas, Phase, ReplicaState
from router.control.content import Document, Standing
from router.control.resources.objects import Found
from router.control.resources.translation import fingerprint

Replicas = Mapping[str, DeploymentReplicas]


class Side(enum.Enum):
    """What is to be done so that an object and the store say the same."""

    NONE = enum.auto()
    """They do."""
    OBJECT = enum.auto()
    """Commit the object."""
    STORE = enum.auto()
    """Write the store's document back into the object."""
    GONE = enum.auto()
    """It was deleted elsewhere: delete the object."""


def side(found: Found, standing: Standing | None, *, exists: bool, same: bool) -> Side:
    """Who is right about `found`.

    `exists`: whether the store has what it is about. `same`: whether both mean the same.
    """
    unchanged = found.agreed or found.written == fingerprint(found.spec)
    known = found.revision
    if not unchanged or known is None or standing is None or standing.revision < known:
        return Side.NONE if exists and same else Side.OBJECT
    if not exists:
        return Side.GONE if standing.revision > known else Side.OBJECT
    return Side.NONE if same else Side.STORE


@dataclass(frozen=True, slots=True)
class Told:
    """What an object is told about itself: a condition's reason and message."""

    reason: str
    message: str


def waits_for_deployments(document: Document, standing: Standing, replicas: Replicas) -> Told | None:
    """Why the shares of `document` must wait; None when they need not.

    They wait for deployments that are not there. They also wait for one that has no traffic yet and is not ready, as
    long as those that have it now are: a split that is applied together with a new deployment must not lose requests.
    """
    spec = endpoint_from_document(document)
    wanted = [name for name, share in spec.traffic.items() if share > 0]
    mirrored = [target.deployment for target in spec.mirrors()]
    there = standing.content.deployments
    missing = sorted({*wanted, *mirrored} - there.keys())
    if missing:
        named = " and ".join(missing)
        what = "them" if missing[1:] else "it"
        return Told(
            "WaitingForDeployment",
            f"traffic names {named}, which {'are' if missing[1:] else 'is'} not there yet: apply an OnlineDeployment for"
            f" {what} (endpoint_name: {standing.endpoint}); everything else waits for {what}",
        )
    serving = [name for name, share in standing.content.traffic.items() if share > 0]
    fresh = [name for name in wanted if name not in serving and not serves(replicas.get(name))]
    if not fresh or not serving or not all(serves(replicas.get(name)) for name in serving):
        return None
    now = replicas.get(fresh[0])
    state = f"{now.phase}{f', {now.reason}: {now.message}' if now.reason else ''}" if now else "not started yet"
    return Told(
        "WaitingForDeployment",
        f"{fresh[0]} is not ready to take over traffic ({state}); {_words(serving)} keeps it until then",
    )


def serves(now: DeploymentReplicas | None) -> bool:
    """Whether requests can be sent there: a replica is ready, or none is wanted and one would be started for them."""
    if now is None:
        return False
    return now.phase is Phase.READY or any(replica.state is ReplicaState.READY for replica in now.replicas)


def rightful(candidates: Iterable[Found]) -> tuple[dict[str, Found], dict[str, Found]]:
    """Of the deployment objects of one endpoint: name of the deployment → the object that counts, the oldest; and the
    other objects by their own name.
    """
    chosen: dict[str, Found] = {}
    others: dict[str, Found] = {}
    for one in sorted(candidates, key=lambda found: found.age):
        if one.deployment in chosen:
            others[one.name] = one
        else:
            chosen[one.deployment] = one
    return chosen, others


def no_endpoint(found: Found, endpoint: Found | None) -> Told:
    """Why a deployment's object waits whose endpoint is not there; `endpoint` is that one's object, if it has any."""
    if endpoint is not None:
        return Told("WaitingForEndpoint", f"OnlineEndpoint {endpoint.name} has not been accepted; it says why")
    message = (
        f"there is no endpoint {found.endpoint} yet: apply an OnlineEndpoint of that name, or run "
        f"`tidegate online-endpoint create --name {found.endpoint}`"
    )
    return Told("WaitingForEndpoint", message)


def _words(names: Iterable[str]) -> str:
    return " and ".join(names)

"""What a caller is told when nothing comes of its request: the refusal and its sentence, from what is known of the request.

Nothing here decides that a request is refused, and nothing is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from router.gateway.responses import Refusal
from router.policy.retrying import Failure

if TYPE_CHECKING:
    from router.gateway.lane import Lane

Told: TypeAlias = tuple[Refusal, str]
"""A refusal and what its caller reads."""

SHEDDING: Told = (Refusal.OVERLOADED, "this gateway has more to do than it can: try again, or another one")
DEADLINE_PAST: Told = (Refusal.DEADLINE_PAST, "x-request-deadline had passed when the request came")
NO_TRAFFIC: Told = (
    Refusal.NO_TRAFFIC,
    "no deployment of this endpoint has traffic: give one a positive weight, or name one in the azureml-model-deployment header",
)
ENDPOINT_DELETED: Told = (Refusal.NO_ENDPOINT, "the endpoint has been deleted")
BODIES_FULL: Told = (Refusal.BODIES_FULL, "the bodies of waiting requests fill the memory set aside for them")
CUT_SHORT: Told = (Refusal.BAD_REQUEST, "the connection ended before the body did")


# At the door -----------------------------------------------------------------------------------------------------------


def no_deployment(endpoint: str, name: str) -> Told:
    """The caller named a deployment that there is not."""
    return Refusal.NO_DEPLOYMENT, f"endpoint {endpoint} has no deployment named {name!r}"


def no_websockets(lane: Lane) -> Told:
    """The caller wants to speak WebSocket with replicas of HTTP/2."""
    return Refusal.UPGRADE, f"deployment {lane.name} speaks HTTP/2, over which there are no WebSockets"


def deployment_failed(lane: Lane) -> Told:
    """The deployment says that it cannot serve."""
    return Refusal.DEPLOYMENT_FAILED, f"deployment {lane.name} has failed: {lane.failed}"


def too_many(lane: Lane) -> Told:
    """The deployment, or where it has no replica the room to wait for one, is full."""
    if not lane.replicas.usable or lane.backlog.is_full():
        return Refusal.TOO_MANY_HELD, f"deployment {lane.name}: too many requests wait for a first replica"
    text = "requests are in flight or queued, which is 2 x max_concurrent_requests_per_instance x instances"
    return Refusal.TOO_MANY, f"deployment {lane.name}: more than {lane.allowed} {text}"


# Time is up ------------------------------------------------------------------------------------------------------------


def late(lane: Lane) -> Told:
    """The caller's deadline has passed before a replica was asked."""
    return (
        Refusal.DEADLINE_WAITING,
        f"deployment {lane.name}: x-request-deadline passed before a replica had the request",
    )


def waited(lane: Lane, waited_ns: int, *, held: bool) -> Told:
    """No replica came free for `waited_ns`; `held`: none was there at first."""
    if held or not lane.replicas.usable:
        what = "free" if lane.replicas.usable else "ready"
        return Refusal.NO_REPLICA, f"deployment {lane.name}: no replica became {what} within {waited_ns / 1e9:.1f} s"
    text = f"waited longer than max_queue_wait_ms, {lane.wait_ns // 1_000_000} ms"
    return Refusal.QUEUE_TIMEOUT, f"deployment {lane.name}: {text}"


def unanswered(lane: Lane, *, late: bool, body_missing: bool) -> Told:
    """The replica has not answered in time. `late`: the caller's own; `body_missing`: the request was still to come."""
    if late:
        return Refusal.DEADLINE, f"deployment {lane.name}: no answer until x-request-deadline"
    if body_missing:
        return Refusal.SLOW_BODY, f"no byte of the request's body came for {lane.timeout_ns / 1e9:.1f} s"
    text = f"no answer within request_timeout_ms, {lane.timeout_ns // 1_000_000} ms"
    return Refusal.MODEL_TIMEOUT, f"deployment {lane.name}: {text}"


# The replica ------------------------------------------------------------------------------------------------------------


def failed(lane: Lane, failure: Failure) -> Told:
    """The replica has failed the request, and no other is asked."""
    if failure is Failure.NONSENSE:
        return Refusal.BAD_ANSWER, f"deployment {lane.name} answered with something that is not HTTP"
    return Refusal.REPLICA_FAILED, f"deployment {lane.name}: the replica ended the connection unanswered"

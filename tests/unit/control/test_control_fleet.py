"""Folding goes on whatever order and age the messages have."""

from __future__ import annotations

from router.contract import codec
from router.contract.events import REPLICAS, DeploymentReplicas, EndpointReplicas
from router.control.fleet import Fleet
from router.runtime.log.base import Message


def say(fleet: Fleet, version: int, generation: int, desired: int) -> None:
    event = EndpointReplicas("shop", version, generation, 0, {"blue": DeploymentReplicas(desired, 1)})
    fleet.fold(Message(REPLICAS, 0, 0, "shop", codec.encode_replicas(event), "w", 0, 0))


def test_a_report_of_an_earlier_owner_or_version_does_not_replace_a_newer_one() -> None:
    fleet = Fleet(lambda: None)
    say(fleet, version=7, generation=2, desired=3)
    say(fleet, version=9, generation=1, desired=99)
    say(fleet, version=6, generation=2, desired=98)
    assert fleet.replicas("shop")["blue"].desired == 3
    say(fleet, version=1, generation=3, desired=4)
    assert fleet.replicas("shop")["blue"].desired == 4

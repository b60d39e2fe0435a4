"""The next writes for one Deployment in the cluster, from what is wished and what runs. Pure.

A ReplicaSet that shrinks takes pods in this order: not scheduled, pending, not ready, lower deletion cost, then others.
A victim gets the lowest cost and the count goes down by one: two writes, and exactly that pod goes. Where something that
was not named would go first, such as a sibling that still starts, the victim is deleted by itself and the count follows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from autoscaler.backends.kubernetes.reading import Pod, Workload

VICTIM_COST = -(2**31)
"""The lowest there is."""


@dataclass(frozen=True, slots=True)
class Work:
    """What to write, in this order. Nothing in it: all is as it should be, or on its way."""

    price: tuple[Pod, ...] = ()
    """Pods that get the lowest deletion cost."""
    delete_first: tuple[Pod, ...] = ()
    """Pods to delete before the count goes down, so that no other goes instead."""
    scale: int | None = None
    """The count to ask for."""
    delete_then: tuple[Pod, ...] = ()
    """Pods to delete that the ReplicaSet does not take, or did not."""
    drop: bool = False
    """Delete the whole Deployment: nothing of it is wanted."""

    def __bool__(self) -> bool:
        return bool(self.price or self.delete_first or self.delete_then or self.drop or self.scale is not None)


def step(live: Workload | None, pods: Sequence[Pod], count: int, remove: Collection[str], *, keep: bool) -> Work:
    """What to do about the Deployment `live` with its `pods`.

    `count`: replicas that should exist, those in `remove` not counted; 0 for an old template. `keep`: whether the Deployment
    stays when it has no replicas. More than `count` is nobody's to end but whoever names them in `remove`.
    """
    over = tuple(one for one in pods if one.over)
    alive = [one for one in pods if not one.ending]
    victims = [one for one in alive if one.name in remove]
    if live is None or live.ending:
        return Work(delete_then=(*over, *victims))
    # Nobody who was not named goes, nor a pod that the controller counts and we do not see yet. That holds a lower number
    # up and never raises one: pods that come and go while the controller exchanges some must not make it want more.
    staying = max(len(alive), live.running) - len(victims)
    wanted = max(count, min(live.replicas, staying))
    if wanted == 0 and not keep and not alive:
        return Work(drop=True)
    shrinking = min(len(victims), max(0, len(alive) - wanted))
    # By name go only those whose place is to be filled again. Where the controller's count lags behind, its next word decides:
    # a victim deleted meanwhile would be replaced, because the count has not gone down yet.
    by_name = wanted == count
    scale = None if wanted == live.replicas else wanted
    if not shrinking or shrinking == len(alive):
        return Work(scale=scale, delete_then=(*over, *(victims if by_name and not shrinking else ())))
    going = _takes(victims, shrinking)
    rest = [one for one in victims if one not in going] if by_name else []
    others = [one for one in alive if one not in going]
    if _would_go_first(others, going):
        return Work(delete_first=tuple(going), scale=scale, delete_then=(*over, *rest))
    unpriced = [one for one in going if one.cost != VICTIM_COST and not _goes_anyway(one, others)]
    return Work(price=tuple(unpriced), scale=scale, delete_then=(*over, *rest))


def _takes(victims: list[Pod], shrinking: int) -> list[Pod]:
    """Which of the victims the ReplicaSet is to take; those it would take most readily."""
    return sorted(victims, key=lambda one: (_rank(one), one.name))[:shrinking]


def _rank(one: Pod) -> tuple[bool, bool, bool]:
    """How a ReplicaSet sorts, before the deletion cost counts."""
    return (one.scheduled, one.running, one.ready)


def _would_go_first(others: Sequence[Pod], going: Sequence[Pod]) -> bool:
    last = max(_rank(one) for one in going)
    return any(_rank(one) < last or (_rank(one) == last and one.cost == VICTIM_COST) for one in others)


def _goes_anyway(victim: Pod, others: Sequence[Pod]) -> bool:
    return all(_rank(victim) < _rank(one) for one in others)

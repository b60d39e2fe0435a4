"""What the backends show, by backend and deployment, and which endpoints a new observation changes."""

from __future__ import annotations

from dataclasses import dataclass, field

from autoscaler.backends.base import Condition, Observation, ObservedReplica, Target


@dataclass(slots=True)
class Sighting:
    """One deployment as one backend shows it."""

    replicas: list[ObservedReplica] = field(default_factory=list)
    condition: Condition | None = None


NOTHING = Sighting()


class Sightings:
    """The newest observation of every backend."""

    def __init__(self) -> None:
        self._shown: dict[str, dict[Target, Sighting]] = {}
        self._running: dict[str, dict[str, set[str]]] = {}
        """Backend → endpoint → deployments that have replicas there."""
        self._blind: dict[str, str] = {}
        """Backend → why it cannot say what runs there."""

    def take(self, backend: str, observation: Observation) -> set[str]:
        """All that `backend` runs now; returns the endpoints for which that is news."""
        if observation.blind:
            self._blind[backend] = observation.blind
            return set()
        self._blind.pop(backend, None)
        shown: dict[Target, Sighting] = {}
        for one in observation.replicas:  # a whole fleet, many times a second
            target = (one.endpoint, one.deployment)
            sighting = shown.get(target)
            if sighting is None:
                shown[target] = Sighting([one])
            else:
                sighting.replicas.append(one)
        running: dict[str, set[str]] = {}
        for endpoint, name in shown:
            running.setdefault(endpoint, set()).add(name)
        for target, condition in observation.conditions.items():
            sighting = shown.get(target)
            if sighting is None:
                shown[target] = Sighting(condition=condition)
            else:
                sighting.condition = condition
        before = self._shown.get(backend, {})
        self._shown[backend], self._running[backend] = shown, running
        changed = {target[0] for target, now in shown.items() if now != before.get(target)}
        return changed | {target[0] for target in before.keys() - shown.keys()}

    def seen(self, backend: str) -> bool:
        """Whether `backend` has ever said what runs there."""
        return backend in self._shown

    def blind(self, backend: str) -> str:
        """Why nothing is known about what `backend` runs; empty when it can be seen."""
        return self._blind.get(backend, "")

    def of(self, backend: str, target: Target) -> Sighting:
        """`target` on `backend`; `NOTHING` when it is not there."""
        return self._shown.get(backend, {}).get(target, NOTHING)

    def elsewhere(self, home: str, target: Target) -> list[ObservedReplica]:
        """Replicas of `target` on every backend but `home`."""
        return [one for backend in self._shown if backend != home for one in self.of(backend, target).replicas]

    def running(self, endpoint: str) -> set[str]:
        """Deployments of `endpoint` that have replicas somewhere."""
        return {name for running in self._running.values() for name in running.get(endpoint, ())}

    def ids(self, target: Target) -> frozenset[str]:
        """Ids of all replicas of `target`, wherever they run."""
        return frozenset(one.id for shown in self._shown.values() for one in shown.get(target, NOTHING).replicas)

    def endpoints(self) -> set[str]:
        """Endpoints that have replicas somewhere."""
        return {endpoint for running in self._running.values() for endpoint in running}

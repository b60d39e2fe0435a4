"""How big the bench is. Everything is a parameter, so that a small version can run in a minute."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the goals are about, unless told otherwise."""

    repetitions: int = 15
    """Starts from zero of each kind. A kubelet knows seconds only, so that few of them say little."""
    deployments: int = 1000
    """Each of an endpoint of its own: the most objects that a fleet of so many can have."""
    pods: int = 5000
    """Together; every deployment has as many as any other."""
    decisions_per_second: float = 20.0
    seconds: float = 30.0
    """So long counts go up at that rate, and then down again, each time another deployment's."""
    rest_seconds: float = 20.0
    """After each of the two; longer than the 15 seconds in which the HPA controller looks at everything once."""

    @property
    def replicas(self) -> int:
        """Of each deployment."""
        return max(1, self.pods // self.deployments)

    @property
    def changed(self) -> int:
        """Deployments whose count changes."""
        return max(1, min(self.deployments, round(self.decisions_per_second * self.seconds)))

    @property
    def nodes(self) -> int:
        """Make-believe nodes: each takes 500 pods, and a third of the room stays free."""
        return max(2, -(-self.pods * 3 // (2 * 500)))

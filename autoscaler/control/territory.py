"""Which endpoints are ours, partition by partition, and with which generation we act for each.

*Followed*: what is said about them is folded, so that we know all. *Acting*: we decide, publish and plan for them too.
Nobody acts for an endpoint whose newest word came from a higher generation than its own. Pure: no I/O and no clock.
"""

from __future__ import annotations

from collections.abc import Callable


class Territory:
    """The endpoints of this autoscaler among those of all."""

    def __init__(self, partition_of: Callable[[str], int] = lambda _: 0) -> None:
        self.followed: frozenset[int] = frozenset()
        self.acting: frozenset[int] = frozenset()
        self.confirmed = True
        """Whether whoever deals the shares has said so; else we act on what was last known."""
        self.fenced: set[str] = set()
        """Endpoints of acting partitions for which a newer owner acts: left alone until the shares are dealt anew."""
        self._partition_of = partition_of
        self._partitions: dict[str, int] = {}
        self._floor = 0
        self._ours: dict[str, int] = {}
        self._heard: dict[str, int] = {}

    def partition(self, endpoint: str) -> int:
        """The partition that holds `endpoint`."""
        found = self._partitions.get(endpoint)
        if found is None:
            found = self._partitions[endpoint] = self._partition_of(endpoint)
        return found

    def follows(self, endpoint: str) -> bool:
        """Whether demand about `endpoint` is for us."""
        return self.partition(endpoint) in self.followed

    def acts_for(self, endpoint: str) -> bool:
        """Whether `endpoint` is ours to act for, now."""
        return self.partition(endpoint) in self.acting and endpoint not in self.fenced

    @property
    def highest(self) -> int:
        """The highest generation heard of or used."""
        return max([0, self._floor, *self._ours.values(), *self._heard.values()])

    def heard(self, endpoint: str, generation: int) -> None:
        """Somebody has spoken about `endpoint` with `generation`: another autoscaler, or we in an earlier life."""
        self._heard[endpoint] = max(generation, self._heard.get(endpoint, 0))

    def generation(self, endpoint: str) -> int:
        """Ours about `endpoint`."""
        ours = self._ours.get(endpoint)
        return self._raise(endpoint) if ours is None else ours

    def last_generation(self, endpoint: str) -> int:
        """The one we acted with for `endpoint` until it was lost; -1 when we never have."""
        return self._ours.get(endpoint, -1)

    def overtaken(self, endpoint: str) -> bool:
        """Whether somebody else has spoken about `endpoint` with our generation or a higher one."""
        return endpoint not in self._ours or self._heard.get(endpoint, -1) >= self._ours[endpoint]

    def take(self, endpoint: str) -> None:
        """Act for `endpoint` with a generation of the newest deal."""
        self.fenced.discard(endpoint)
        self._raise(endpoint)

    def outdo(self, endpoint: str) -> None:
        """Somebody has used our generation for `endpoint`: use a higher one."""
        self._raise(endpoint)

    def adopt(self, partitions: frozenset[int], floor: int, *, confirmed: bool) -> None:
        """Act for `partitions`, with generations not below `floor` for what is taken from now on."""
        self.acting = partitions & self.followed
        self.confirmed = confirmed
        self._floor = max(self._floor, floor)

    def hold(self, partitions: frozenset[int]) -> bool:
        """Act for nothing outside of `partitions` from now on; True when that takes something away."""
        before, self.acting = self.acting, self.acting & partitions
        return self.acting != before

    def _raise(self, endpoint: str) -> int:
        # Only a confirmed share is a reason to outdo others: on a remembered one they are right, and we may be a zombie.
        heard = self._heard.get(endpoint, 0)
        ours = self._ours.get(endpoint, 0)
        made = max(ours, self._floor, heard + 1 if self.confirmed and endpoint in self._heard else heard)
        self._ours[endpoint] = made
        return made

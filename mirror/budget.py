"""What may be held at once, in bytes and in pieces. Taking answers with a grant or a reason; a grant returns itself once."""

from __future__ import annotations


class Grant:
    """A piece's share of a `Budget`; it may grow and shrink, and gives everything back at `release`."""

    __slots__ = ("_budget", "_held")

    def __init__(self, budget: Budget) -> None:
        self._budget: Budget | None = budget
        self._held = 0

    @property
    def held_bytes(self) -> int:
        """Bytes this grant stands for."""
        return self._held

    def grow(self, size: int) -> str:
        """Take `size` more bytes. Returns the reason when the budget refuses, else the empty string."""
        if self._budget is None:
            return "released"
        refusal = self._budget._take(size)
        if not refusal:
            self._held += size
        return refusal

    def shrink(self, size: int) -> None:
        """Give `size` bytes back."""
        if self._budget is not None:
            size = min(size, self._held)
            self._held -= size
            self._budget.used_bytes -= size

    def release(self) -> None:
        """Give everything back; the second time does nothing."""
        if self._budget is not None:
            self.shrink(self._held)
            self._budget.used_count -= 1
            self._budget = None


class Budget:
    """At most `limit_bytes` in at most `limit_count` pieces; `reason` is the word for a refusal."""

    def __init__(self, limit_bytes: int, limit_count: int, reason: str) -> None:
        self.limit_bytes = limit_bytes
        self.limit_count = limit_count
        self.reason = reason
        self.used_bytes = 0
        self.used_count = 0

    def admit(self, size: int) -> Grant | str:
        """A grant of `size` bytes, or the reason for having none."""
        if self.used_count >= self.limit_count:
            return self.reason
        grant = Grant(self)
        refusal = grant.grow(size)
        if refusal:
            return refusal
        self.used_count += 1
        return grant

    def _take(self, size: int) -> str:
        if self.used_bytes + size > self.limit_bytes:
            return self.reason
        self.used_bytes += size
        return ""

"""How many connections a process of this machine may hold."""

from __future__ import annotations

import contextlib
import resource

_SPARE = 0.85
"""Of what is allowed: a process has other files too, and shares of connections are never quite even."""


def raise_limit(wanted: int = 0) -> int:
    """Raise the soft limit of open files as far as the hard one allows, and that to `wanted` where we may; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if wanted > hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def usable(limit: int) -> int:
    """Descriptors to plan with under `limit`."""
    return int(limit * _SPARE)

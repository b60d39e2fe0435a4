"""A short soak: everything at once, and every request accounted for."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.soak.certificates import missing
from loadtests.soak.soak import soak

REQUESTS_PER_SECOND = 30.0
"""However idle the machine is: what is proved here is not how much it carries."""


@pytest.mark.skipif(bool(missing()), reason=missing())
async def test_under_load_changes_and_deaths_every_request_is_answered_or_explained(tmp_path: Path) -> None:
    outcome = await soak(tmp_path, seconds=20, seed=20, most=REQUESTS_PER_SECOND)
    assert outcome.problems == [], "\n".join(outcome.problems)
    assert outcome.account.asked > 500
    assert outcome.verdict.ok + outcome.verdict.explained.total() == outcome.account.asked
    over = {"TLS", "HTTP/2", "gRPC", "WebSocket"}
    assert {word for word in over if any(word in kind for kind in outcome.account.kinds)} == over

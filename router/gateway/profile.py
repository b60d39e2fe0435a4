"""What a request's record has of its head: worked out once per head, one name of the message that many records share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.contract.codec import encode_profile
from router.contract.events import CallProfile

if TYPE_CHECKING:
    from router.policy.headers import RequestHead

AUTH_KEY = "Key"
"""As Azure's traffic log calls the key of an endpoint."""
USER_AGENT_CHARACTERS = 70
"""As many as Azure's traffic log shows."""
PATH_CHARACTERS = 256


def profile_of(method: bytes, path: bytes, head: RequestHead, auth_type: str = "") -> str:
    """The profile of a request for `path`, the target as the replica gets it; of its query nothing is kept.

    A byte beyond ASCII stands as the character of Latin-1 with its number.
    """
    return encode_profile(
        CallProfile(
            method.decode("latin-1"),
            path.partition(b"?")[0][:PATH_CHARACTERS].decode("latin-1"),
            f"HTTP/{head.version}",
            auth_type,
            head.user_agent[:USER_AGENT_CHARACTERS].decode("latin-1"),
            (head.client_id or b"").decode("latin-1"),
        )
    )

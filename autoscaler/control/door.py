"""Who may ask for what. On the Unix socket, its owner for everything. Over TCP, whoever shows the token; health, anybody."""

from __future__ import annotations

import hmac
import logging
from http import HTTPStatus
from urllib.parse import urlsplit

from autoscaler.control.requests import Head, Refused
from router.runtime.credentials import TOKEN
from router.runtime.telemetry import Limited

_LOG = logging.getLogger(__name__)

OPEN = frozenset({"/healthz", "/readyz"})
"""Paths without secrets, for health checks that have no token."""
SAY_SECONDS = 30.0
"""Between two lines about callers without the token."""


class Door:
    """Admits the requests of TCP."""

    def __init__(self, token: str) -> None:
        """Without a `token` everybody is admitted."""
        self.refused = 0
        """Requests without the token, or with another one."""
        self._token = token.encode()
        self._say = Limited(_LOG, seconds=SAY_SECONDS)

    def admit(self, head: Head) -> None:
        """Raises `Refused` for a request that does not show the token. Compares in constant time."""
        if not self._token or _path(head.target) in OPEN:
            return
        shown = head.values("authorization")
        scheme, _, token = shown[0].partition(" ") if len(shown) == 1 else ("", "", "")
        same = hmac.compare_digest(token.strip().encode("latin-1"), self._token)
        if same and scheme.lower() == "bearer":
            return
        self.refused += 1
        what = "another token than ours" if shown else "no token"
        self._say.warning("login", f"a caller was refused: it shows {what}", target=head.target[:100])
        message = (
            f"the request shows {what}: send 'Authorization: Bearer TOKEN' with the token of this autoscaler; gateways and "
            f"mirrors read it from the file that {TOKEN} names"
        )
        raise Refused(HTTPStatus.UNAUTHORIZED, message, "Unauthorized")


def _path(target: str) -> str:
    try:
        return urlsplit(target).path
    except ValueError:
        return target

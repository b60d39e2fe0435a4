"""Bearer tokens for SASL OAUTHBEARER: each new connection brings one that is fresh.

aiokafka asks once per connection and takes any `KafkaError` for a connection that failed, to be tried again; so that
is what a token that cannot be had becomes. No token and no secret ever stands in a message.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field

from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaError

from router.runtime.clock import Clock, SystemClock

TIMEOUT_SECONDS = 10.0
"""For the token endpoint: as long as a request to the broker may take."""
MAX_BYTES = 1 << 20
"""Of an answer; tokens have a few kilobytes."""
DEFAULT_LIFETIME_SECONDS = 300
"""When the token endpoint does not say, as RFC 6749 allows."""
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""`b64token` of RFC 6750; anything else could forge fields of the SASL message."""


class TokenUnavailable(KafkaError):  # type: ignore[misc]  # aiokafka has no types
    """No token could be had; the message says from where and why."""


@dataclass(frozen=True, slots=True)
class TokenFile(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """The token in a file that somebody else keeps fresh; read anew for each connection."""

    path: str

    async def token(self) -> str:
        """See `AbstractTokenProvider.token`."""
        try:
            with open(self.path, encoding="ascii") as file:  # noqa: ASYNC230 -- some kilobytes, once per connection
                text = file.read(MAX_BYTES)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not ASCII"
            raise TokenUnavailable(f"token file {self.path} cannot be read: {reason}") from None
        return _checked(text.strip(), f"token file {self.path}")


@dataclass(slots=True)
class ClientCredentials(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """Tokens by the client-credentials grant (RFC 6749 §4.4), kept until four fifths of their lifetime are over."""

    url: str
    client: str
    secret: str = field(repr=False)
    scope: str = ""
    ca_file: str = ""
    """Trusted besides the system's authorities; empty: none."""
    clock: Clock = field(default_factory=SystemClock, repr=False)
    _kept: str = field(default="", repr=False)
    _until: float = 0.0
    """On the monotonic clock."""
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def token(self) -> str:
        """See `AbstractTokenProvider.token`. Asks on a thread, for at most `TIMEOUT_SECONDS`."""
        async with self._one_at_a_time:
            if self.clock.monotonic() >= self._until:
                asked = self.clock.monotonic()
                self._kept, lifetime = await asyncio.to_thread(self._ask)
                self._until = asked + 0.8 * lifetime
            return self._kept

    def _ask(self) -> tuple[str, int]:
        """A token and for how many seconds it is good."""
        form = {"grant_type": "client_credentials"} | ({"scope": self.scope} if self.scope else {})
        request = urllib.request.Request(self.url, urllib.parse.urlencode(form).encode(), method="POST")  # noqa: S310 -- https, or loopback: checked where it is configured
        pair = f"{urllib.parse.quote_plus(self.client)}:{urllib.parse.quote_plus(self.secret)}"
        # Unredirected: whoever we are sent on to does not get the secret.
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")
        request.add_header("Accept", "application/json")
        context = ssl.create_default_context() if self.url.startswith("https:") else None
        if context is not None and self.ca_file:
            context.load_verify_locations(self.ca_file)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=context) as response:  # noqa: S310 -- as above
                body = json.loads(response.read(MAX_BYTES))
            token, lifetime = body["access_token"], int(body.get("expires_in", DEFAULT_LIFETIME_SECONDS))
        except urllib.error.HTTPError as error:
            with error:
                raise TokenUnavailable(f"{self.url} refused client {self.client}: HTTP {error.code}") from None
        except OSError as error:
            raise TokenUnavailable(f"{self.url} cannot be reached: {error}") from None
        except (ValueError, OverflowError, KeyError, TypeError, AttributeError):
            raise TokenUnavailable(f"{self.url} did not answer with a token as RFC 6749 has it") from None
        return _checked(token, self.url), lifetime


def _checked(token: object, origin: str) -> str:
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise TokenUnavailable(f"{origin} holds no bearer token")
    return token

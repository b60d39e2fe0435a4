"""How gateways, mirrors and autoscalers of different machines know each other: `TIDEGATE_DEMAND_*`.

One set of names for both sides. The token is shared; each side shows its own certificate (CERT_FILE, KEY_FILE) and
believes those that CA_FILE vouches for. On one machine the Unix socket's owner is all that is needed, and nothing of
this is read. Everything wrong is found at once, at the start; no secret stands on a command line or in a message.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router.contract.errors import InvalidSpec, Problem
from router.runtime.given import TLS_SETTINGS, Given, Secret, client_context, server_context
from router.runtime.posting import Target, parse_target

_LOG = logging.getLogger(__name__)

PREFIX = "TIDEGATE_DEMAND_"
TOKEN = f"{PREFIX}TOKEN_FILE"
LEAST_TOKEN = 16
"""Characters: less could be guessed."""
_MAKE = "openssl rand -hex 32 makes one"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one process shows and asks for."""

    token: Secret = Secret("")  # noqa: RUF009 -- an immutable string
    """Empty: none."""
    tls: ssl.SSLContext | None = None
    """None: no TLS."""

    @property
    def certified(self) -> bool:
        """Whether the other side has to show a certificate."""
        return self.tls is not None and self.tls.verify_mode is ssl.CERT_REQUIRED


NONE = Credentials()


def for_listening(address: tuple[str, int] | None, environ: Mapping[str, str] = os.environ) -> Credentials:
    """Of an autoscaler that listens at `address` (host, port). Raises `InvalidSpec` with every problem."""
    if address is None:
        return NONE
    given = Given(PREFIX, environ)
    context = None
    if given.text("CERT_FILE") or given.text("KEY_FILE"):
        context = server_context(given)
    else:
        needed = f"has no effect without {PREFIX}CERT_FILE: name the autoscaler's own certificate, or unset this"
        given.exclude(("CA_FILE",), needed)
    found = Credentials(_token(given), context)
    if given.problems:
        raise InvalidSpec(given.problems)
    check_listening(address, found)
    return found


def check_listening(address: tuple[str, int], credentials: Credentials) -> None:
    """Raises `InvalidSpec` when whoever reaches `address` could say what the load is. Warns of what can be overheard."""
    host, port = address
    if is_loopback(host):
        return
    if not credentials.token and not credentials.certified:
        message = (
            f"needs a token where other machines can connect: put one into a file and name it in {TOKEN}, here and for "
            f"every gateway and mirror ({_MAKE}); or listen on 127.0.0.1"
        )
        raise InvalidSpec([Problem("listen", message, f"{host}:{port}")])
    if credentials.tls is None:
        message = "demand and its token can be read on the way to %s:%d: %sCERT_FILE and %sKEY_FILE switch on TLS"
        _LOG.warning(message, host, port, PREFIX, PREFIX)


def for_posting(targets: Sequence[str], environ: Mapping[str, str] = os.environ) -> Credentials:
    """Of a gateway or mirror that hands demand to `targets`. Raises `InvalidSpec` with every problem."""
    parsed = [parse_target(one) for one in targets]
    remote = [one for one in parsed if not one.path]
    if not remote:
        return NONE
    given = Given(PREFIX, environ)
    context = None
    if any(one.tls for one in remote):
        context = client_context(given)
    else:
        given.exclude(
            TLS_SETTINGS, "has no effect without TLS: write https://host:port for --autoscaler, or unset this"
        )
    found = Credentials(_token(given), context)
    if given.problems:
        raise InvalidSpec(given.problems)
    check_posting(remote, found)
    return found


def check_posting(targets: Sequence[Target], credentials: Credentials) -> None:
    """Raises `InvalidSpec` for a target on another machine that would be told the load without anything to know us by."""
    for one in targets:
        if not (one.path or one.tls or credentials.token or is_loopback(one.host)):
            message = (
                f"plain TCP to another machine needs a token: name the file with the autoscaler's in {TOKEN}; better still, "
                "write https://host:port"
            )
            raise InvalidSpec([Problem("autoscaler", message, one.text)])


def _token(given: Given) -> Secret:
    token = Secret(given.optional_secret("TOKEN").strip())
    name = "TOKEN_FILE" if given.text("TOKEN_FILE") else "TOKEN"
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        given.wrong(name, f"must hold visible ASCII characters alone, in one line; {_MAKE}")
    elif token and len(token) < LEAST_TOKEN:
        given.wrong(name, f"must hold at least {LEAST_TOKEN} characters; {_MAKE}")
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`. A name counts as such only if it is `localhost`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"

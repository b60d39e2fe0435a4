"""How every client of Kafka connects: the one place that reads `TIDEGATE_KAFKA_*` from the environment and from files.

Secrets never stand on a command line, in a message or in a `repr`. Certificates are always verified: there is no way
to turn that off. Everything that is missing or contradicts itself is found at once, before the first connection.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from router.contract.errors import InvalidSpec
from router.contract.spelling import nearest
from router.runtime.given import TLS_SETTINGS, Given, client_context
from router.runtime.log.kafka_url import PLAIN, TLS, KafkaUrl

PREFIX: Final = "TIDEGATE_KAFKA_"
OAUTH: Final = "OAUTHBEARER"
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", OAUTH)
IN_THE_CLEAR: Final = frozenset({"PLAIN", OAUTH})
"""Mechanisms that send the secret itself."""

_PASSWORD_SETTINGS = ("USERNAME", "PASSWORD", "PASSWORD_FILE")
_CLIENT_SETTINGS = ("CLIENT_ID", "CLIENT_SECRET", "CLIENT_SECRET_FILE", "SCOPE")
_OAUTH_SETTINGS = ("TOKEN_FILE", "TOKEN_URL", *_CLIENT_SETTINGS)


TIMING: Final = MappingProxyType(
    {
        # A broker on the same continent answers in milliseconds; one that has not after this long is frozen, and
        # what waits for it should go elsewhere or be sent anew. aiokafka's own 40 s would hide an outage.
        "request_timeout_ms": 10_000,
        # Between two attempts: short beside the 250 ms within which demand becomes a decision, long enough that a
        # restarting broker is not flooded.
        "retry_backoff_ms": 100,
        # Leaders are looked up at once after an error; this only bounds how long a new broker stays unknown.
        "metadata_max_age_ms": 60_000,
        # Below the 4 minutes after which Azure's load balancers forget a silent connection, and the broker's own 10.
        "connections_max_idle_ms": 180_000,
    }
)
"""What every client has in common, in milliseconds."""


def client_options(url: KafkaUrl, role: str, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Keyword arguments for every aiokafka client of a process with this role.

    Raises `InvalidSpec` with every problem of the environment: the variable, what is wrong and the fix.
    """
    given = Given(PREFIX, environ)
    context = _tls(url, given)
    login = _login(url, given)
    if given.problems:
        raise InvalidSpec(given.problems)
    _quiet()
    return {
        "bootstrap_servers": list(url.servers),
        "client_id": f"tidegate-{role}",
        **TIMING,
        "security_protocol": ("SASL_" if login else "") + ("SSL" if url.tls else "PLAINTEXT"),
        "ssl_context": context,
        **login,
    }


def _quiet() -> None:
    """The client says what our own reports say, in more lines and without the fix, and in an outage without end."""
    logger = logging.getLogger("aiokafka")
    if logger.level == logging.NOTSET:  # otherwise somebody wants to hear it
        logger.setLevel(logging.CRITICAL)


# TLS --------------------------------------------------------------------------------------------------------------


def _tls(url: KafkaUrl, given: Given) -> ssl.SSLContext | None:
    """Verifies the broker's name and certificate, by the system's authorities or those in CA_FILE alone."""
    if not url.tls:
        given.exclude(TLS_SETTINGS, f"needs TLS: write {TLS}:// instead of {PLAIN}:// in the log's URL, or unset it")
        return None
    return client_context(given)


# SASL -------------------------------------------------------------------------------------------------------------


def _login(url: KafkaUrl, given: Given) -> dict[str, Any]:
    """The `sasl_*` arguments; empty when no mechanism is named."""
    mechanism = given.text("SASL_MECHANISM").upper()
    if not mechanism:
        given.exclude(
            (*_PASSWORD_SETTINGS, *_OAUTH_SETTINGS),
            f"has no effect without {PREFIX}SASL_MECHANISM: set that to one of {', '.join(MECHANISMS)}, or unset this",
        )
        return {}
    if mechanism not in MECHANISMS:
        found = given.text("SASL_MECHANISM")
        given.wrong("SASL_MECHANISM", f"is one of {', '.join(MECHANISMS)}", found, nearest(found, MECHANISMS))
        return {}
    if mechanism in IN_THE_CLEAR and not url.tls and not all(map(_is_local, url.servers)):
        given.wrong(
            "SASL_MECHANISM",
            f"sends the secret itself, which {PLAIN}:// would show to the network: write {TLS}:// in the log's URL, "
            "or use SCRAM-SHA-512",
            mechanism,
        )
    # At DEBUG it writes every request, also the one with the secret in it.
    logging.getLogger("aiokafka.conn").setLevel(logging.INFO)
    reason = f"for {PREFIX}SASL_MECHANISM={mechanism}"
    if mechanism == OAUTH:
        given.exclude(_PASSWORD_SETTINGS, f"contradicts {PREFIX}SASL_MECHANISM={mechanism}: unset one of them")
        return {"sasl_mechanism": mechanism, "sasl_oauth_token_provider": _token_provider(given, reason)}
    given.exclude(_OAUTH_SETTINGS, f"contradicts {PREFIX}SASL_MECHANISM={mechanism}: unset one of them")
    return {
        "sasl_mechanism": mechanism,
        "sasl_plain_username": given.required("USERNAME", reason),
        "sasl_plain_password": given.secret("PASSWORD", reason),
    }


def _is_local(server: str) -> bool:
    host = server.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _token_provider(given: Given, reason: str) -> object:
    """What brings a bearer token to each new connection; None when that is reported as impossible."""
    file, url = given.text("TOKEN_FILE"), given.text("TOKEN_URL")
    if bool(file) == bool(url):
        fault = f"contradicts {PREFIX}TOKEN_URL: set one of them" if file else f"or {PREFIX}TOKEN_URL must be set"
        given.wrong("TOKEN_FILE", f"{fault} {reason}")
        return None
    if file:
        given.exclude(_CLIENT_SETTINGS, f"has no effect without {PREFIX}TOKEN_URL: unset it")
        given.content("TOKEN_FILE")
    else:
        for_url = f"for {PREFIX}TOKEN_URL"
        client = given.required("CLIENT_ID", for_url)
        secret = given.secret("CLIENT_SECRET", for_url)
        if not url.startswith("https://") and not _is_local_http(url):
            given.wrong("TOKEN_URL", "begins with https://, because the client's secret is sent there", url)
    if given.problems:
        return None
    # Needs aiokafka, which most processes never import.
    from router.runtime.log.kafka_tokens import ClientCredentials, TokenFile

    if file:
        return TokenFile(file)
    return ClientCredentials(url, client, secret, scope=given.text("SCOPE"), ca_file=given.text("CA_FILE"))


def _is_local_http(url: str) -> bool:
    authority = url.removeprefix("http://").partition("/")[0]
    return url.startswith("http://") and _is_local(
        authority if ":" in authority.rpartition("]")[2] else f"{authority}:80"
    )

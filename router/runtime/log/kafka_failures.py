"""Why a broker does not let us in, in words that name the setting to change.

aiokafka logs the reason of a failed bootstrap and then forgets it; so a failed start is followed by one attempt per
broker, whose error is translated here. Errors of aiokafka end at this border.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from typing import Any

from aiokafka.conn import CloseReason, create_conn, get_ip_port_afi
from aiokafka.errors import IllegalSaslStateError, KafkaError, SaslAuthenticationFailed, UnsupportedSaslMechanismError
from aiokafka.protocol.metadata import MetadataRequest

from router.contract.errors import TidegateError, Unavailable
from router.runtime.log.kafka_connection import OAUTH, PREFIX
from router.runtime.log.kafka_tokens import TokenUnavailable
from router.runtime.log.kafka_url import PLAIN, TLS

PROBE_SECONDS = 5.0
"""For one broker to say why; all are asked at once."""

_OF_CLIENTS_ALONE = frozenset(
    {"bootstrap_servers", "metadata_max_age_ms", "retry_backoff_ms", "connections_max_idle_ms"}
)
"""Options that a single connection does not know."""


class Refused(TidegateError):
    """A broker answers and does not let us do it; a person must change a setting or a right first."""

    code = "LogRefused"
    status = 502


async def why_unreachable(options: Mapping[str, Any], met: BaseException) -> TidegateError:
    """The error to raise after `met`, when no broker of `options` could be used: `Refused` or `Unavailable`."""
    servers: list[str] = options["bootstrap_servers"]
    found = await asyncio.gather(*(_probe(server, options) for server in servers))
    for error in found:
        if isinstance(error, Refused):
            return error
    if None in found:
        return Unavailable(
            f"the brokers {', '.join(servers)} are reached again after: {str(met) or type(met).__name__}; try again"
        )
    return Unavailable("no broker of the log can be reached: " + "; ".join(str(error) for error in found))


async def _probe(server: str, options: Mapping[str, Any]) -> TidegateError | None:
    """What goes wrong on a connection to `server`, None when nothing does."""
    kept = {name: value for name, value in options.items() if name not in _OF_CLIENTS_ALONE}
    host, port, _ = get_ip_port_afi(server)
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            connection = await create_conn(host, port, **kept)
            try:
                answer = await connection.send(MetadataRequest([]))
            finally:
                await connection.close(reason=CloseReason.SHUTDOWN)
            if not answer.brokers:
                return _of_emptiness(server, options)
    except (OSError, KafkaError, TimeoutError, ValueError, KeyError, AssertionError) as error:
        return explained(server, error, options)
    return None


def explained(server: str, error: BaseException, options: Mapping[str, Any]) -> TidegateError:
    """What `error`, met while connecting to `server`, means for whoever configured `options`."""
    cause = error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error
    for kind, explain in _EXPLANATIONS.items():
        if isinstance(cause, kind):
            return explain(server, cause, options)
    return Unavailable(f"{server} fails with {type(error).__name__}: {error}")


def _of_password(server: str, _: BaseException, options: Mapping[str, Any]) -> TidegateError:
    if options["sasl_mechanism"] == OAUTH:
        return Refused(f"{server} does not accept the bearer token; check its audience, scope and age")
    user = options["sasl_plain_username"]
    return Refused(
        f"{server} does not accept user {user!r} with this password by {options['sasl_mechanism']}; "
        f"check {PREFIX}USERNAME and {PREFIX}PASSWORD_FILE (or {PREFIX}PASSWORD)"
    )


def _of_mechanism(server: str, error: BaseException, _: Mapping[str, Any]) -> TidegateError:
    return Refused(f"{server} does not offer this login ({error}); change {PREFIX}SASL_MECHANISM")


def _of_login(server: str, *_: object) -> TidegateError:
    return Refused(f"{server} wants no login at this port; unset {PREFIX}SASL_MECHANISM or name the port that does")


def _of_certificate(server: str, error: BaseException, _: Mapping[str, Any]) -> TidegateError:
    reason = getattr(error, "verify_message", "") or "it is not trusted"
    return Refused(
        f"the certificate of {server} is not accepted: {reason}; name its authority in {PREFIX}CA_FILE, "
        "and the broker by a name in its certificate"
    )


def _of_tls(server: str, error: BaseException, _: Mapping[str, Any]) -> TidegateError:
    reason = getattr(error, "reason", None) or type(error).__name__
    if "ALERT" in reason and "CERTIFICATE" in reason:
        return Refused(f"{server} wants another certificate of ours ({reason}); see {PREFIX}CERT_FILE")
    return Refused(f"{server} does not speak TLS at this port as we do ({reason}); use its TLS port, or {PLAIN}://")


def _of_token(_: str, error: BaseException, __: Mapping[str, Any]) -> TidegateError:
    return Unavailable(str(error))


def _of_answer(server: str, error: BaseException, _: Mapping[str, Any]) -> TidegateError:
    return Refused(
        f"{server} answers the login as no honest broker does ({str(error) or type(error).__name__}); check its address"
    )


def _of_name(server: str, *_: object) -> TidegateError:
    return Unavailable(f"the name of {server} cannot be resolved; check the spelling and the DNS")


def _of_silence(server: str, *_: object) -> TidegateError:
    return Unavailable(f"{server} does not answer; check the address, the firewall and whether the broker is well")


def _of_port(server: str, *_: object) -> TidegateError:
    return Unavailable(f"nobody listens at {server}; check the address and whether the broker runs")


def _of_closing(server: str, error: BaseException, options: Mapping[str, Any]) -> TidegateError:
    """A broker hangs up without a word on whoever speaks another protocol than its port's; so does one that stops."""
    protocol = options["security_protocol"]
    if protocol == "PLAINTEXT":
        wants = f"TLS ({TLS}://) or a login ({PREFIX}SASL_MECHANISM)"
    elif protocol == "SASL_PLAINTEXT":
        wants = f"TLS ({TLS}://)"
    else:
        wants = f"no TLS ({PLAIN}://)"
    reason = str(error) or type(error).__name__
    return Unavailable(f"{server} hangs up ({reason}): it is starting or stopping, or its port wants {wants}")


def _of_emptiness(server: str, options: Mapping[str, Any]) -> TidegateError:
    """A broker that took a login always knows itself. Of a bearer token it says only on a further question that it is
    no good, which aiokafka does not ask.
    """
    if options.get("sasl_mechanism") == OAUTH:
        return _of_password(server, KafkaError(), options)
    return Unavailable(f"{server} knows of no brokers yet; it is starting")


_EXPLANATIONS = {
    SaslAuthenticationFailed: _of_password,
    UnsupportedSaslMechanismError: _of_mechanism,
    IllegalSaslStateError: _of_login,
    TokenUnavailable: _of_token,
    ssl.SSLCertVerificationError: _of_certificate,
    ssl.SSLError: _of_tls,
    socket.gaierror: _of_name,
    TimeoutError: _of_silence,
    ConnectionRefusedError: _of_port,
    ConnectionError: _of_closing,
    KafkaError: _of_closing,
    ValueError: _of_answer,
    KeyError: _of_answer,
    AssertionError: _of_answer,
}
"""The first kind that fits explains it."""

"""The one sentence that names a log on Kafka: `kafka://h1:9092,h2:9092/prefix?partitions=12&replication=3`.

Parsing is pure and finds every problem at once. No secret may stand in the URL, because it is seen in process lists
and logs; messages about it never repeat what could be one.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any

from router.contract.errors import InvalidSpec, Problem
from router.contract.spelling import nearest

PLAIN = "kafka"
TLS = "kafka+ssl"
DEFAULT_PORTS = {PLAIN: 9092, TLS: 9093}
SCHEMES = tuple(f"{scheme}://" for scheme in DEFAULT_PORTS)
"""How the URL of a log on Kafka begins."""
FORM = "kafka://host:port[,host:port…][/prefix][?partitions=12&replication=1&compression=lz4], or kafka+ssl:// for TLS"

DEFAULT_PREFIX = "tidegate"
MAX_PREFIX = 200
"""Kafka's topic names end at 249 characters; the rest is for the topic itself."""
LIMITS = {"partitions": 10_000, "replication": 100}
"""Highest values accepted: above any cluster that works, below a slip of the finger."""
COMPRESSIONS = ("lz4", "gzip", "none")
"""What batches may be compressed with; Azure Event Hubs takes gzip or none."""
SETTINGS = (*LIMITS, "compression")

_PREFIX = re.compile(r"[A-Za-z0-9._-]+")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?")
_URL = re.compile(
    r"(?P<scheme>[^:/]+)://(?P<servers>[^/?#]*)(?:/(?P<prefix>[^?#]*))?(?:\?(?P<query>[^#]*))?", re.DOTALL
)
_SECRETIVE = re.compile(r"user|pass|secret|token|sasl", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class KafkaUrl:
    """Where the log is and how its topics are laid out. Made by `parse`."""

    servers: tuple[str, ...]
    """`host:port` of brokers to ask first, IPv6 addresses in brackets."""
    prefix: str = DEFAULT_PREFIX
    """Stands before every topic's name, so that several installations may share a cluster."""
    partitions: int = 12
    """Of every topic, and for ever: the partition of an endpoint follows from it. 12 divides evenly among 1–4 and 6
    autoscalers."""
    replication: int = 1
    """Copies of each partition; 1 works on a single broker, 3 survives the loss of one without losing a message."""
    tls: bool = False
    compression: str = "lz4"
    """Of batches on their way; lz4 costs least for what it saves."""

    def topic(self, topic: str) -> str:
        """`demand` → `tidegate.demand`."""
        return f"{self.prefix}.{topic}"

    def topic_of(self, name: str) -> str:
        """`tidegate.demand` → `demand`. Raises `ValueError` for a topic of somebody else."""
        prefix, dot, topic = name[: len(self.prefix)], name[len(self.prefix) :][:1], name[len(self.prefix) + 1 :]
        if prefix != self.prefix or dot != "." or not topic:
            raise ValueError(f"{name!r} does not begin with {self.prefix!r} and a dot")
        return topic

    def __str__(self) -> str:
        """The URL, with every default written out."""
        scheme = TLS if self.tls else PLAIN
        query = f"partitions={self.partitions}&replication={self.replication}&compression={self.compression}"
        return f"{scheme}://{','.join(self.servers)}/{self.prefix}?{query}"


def parse(url: str) -> KafkaUrl:
    """The parts of `url`. Raises `InvalidSpec` with every problem: field `log`, what was found, what is allowed."""
    if "@" in url:  # legal in no part, so that the rest may be shown in messages
        raise InvalidSpec([_problem("credentials do not belong in the URL; " + _ENVIRONMENT)])
    match = _URL.fullmatch(url)
    scheme = match["scheme"].lower() if match else ""
    if match is None or scheme not in DEFAULT_PORTS:
        raise InvalidSpec([_problem(f"must look like {FORM}", url.partition("?")[0])])
    problems: list[Problem] = []
    servers = tuple(_server(one, DEFAULT_PORTS[scheme], problems) for one in match["servers"].split(","))
    prefix = _prefix(match["prefix"] or "", problems)
    settings = _settings(match["query"] or "", problems)
    if problems:
        raise InvalidSpec(problems)
    return KafkaUrl(servers, prefix, **settings, tls=scheme == TLS)


_ENVIRONMENT = (
    "set TIDEGATE_KAFKA_SASL_MECHANISM, TIDEGATE_KAFKA_USERNAME and TIDEGATE_KAFKA_PASSWORD_FILE (or "
    "TIDEGATE_KAFKA_PASSWORD) in the environment instead"
)


def _problem(message: str, value: str | None = None, suggestion: str | None = None) -> Problem:
    return Problem(field="log", message=message, value=value, suggestion=suggestion)


def _server(text: str, default_port: int, problems: list[Problem]) -> str:
    """`host:port` of one entry of the list; whatever is wrong with it is added to `problems`."""
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        right = bool(bracket) and _is_ipv6(host[1:]) and (not rest or rest.startswith(":"))
        host, port = host + bracket, rest[1:] if rest else None
    else:
        host, colon, rest = text.partition(":")
        right = bool(_HOST.fullmatch(host))
        port = rest if colon else None
        if ":" in rest:
            problems.append(_problem("write an IPv6 address in brackets, as [::1]:9092", text))
            return text
    if not right:
        problems.append(_problem("name a host, as host:9092 or [::1]:9092, for every broker", text))
    if port is None:
        return f"{host}:{default_port}"
    number = _number(port, 65_535)
    if number is None:
        problems.append(_problem("a broker's port is a number from 1 to 65535", text))
    return f"{host}:{number}"


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _number(text: str, most: int) -> int | None:
    """A decimal number from 1 to `most`, else None."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        return None
    number = int(text)
    return number if 1 <= number <= most else None


def _prefix(text: str, problems: list[Problem]) -> str:
    if not text:
        return DEFAULT_PREFIX
    if not _PREFIX.fullmatch(text) or len(text) > MAX_PREFIX:
        allowed = f"the prefix of topic names has letters, digits, '.', '_' and '-', at most {MAX_PREFIX}"
        problems.append(_problem(allowed, text[: MAX_PREFIX + 1]))
    return text


def _settings(query: str, problems: list[Problem]) -> dict[str, Any]:
    """What stands after the question mark."""
    settings: dict[str, Any] = {}
    for name, value in (part.partition("=")[::2] for part in query.split("&") if part):
        if name not in SETTINGS:
            # The value may be a secret: only the name is shown.
            hint = f"; {_ENVIRONMENT}" if _SECRETIVE.search(name) else ""
            allowed = f"the only settings in the URL are {', '.join(SETTINGS)}{hint}"
            problems.append(_problem(allowed, name, nearest(name, SETTINGS)))
        elif name in settings:
            problems.append(_problem(f"{name} is given twice", f"{name}={value}"))
        elif name == "compression":
            if value not in COMPRESSIONS:
                problems.append(_problem(f"{name} is one of {', '.join(COMPRESSIONS)}", f"{name}={value}"))
            settings[name] = value
        else:
            number = _number(value, LIMITS[name])
            if number is None:
                allowed = f"{name} is a whole number from 1 to {LIMITS[name]}"
                problems.append(_problem(allowed, f"{name}={value}"))
            settings[name] = number or 1
    return settings

"""The log's topics on Kafka: created as `kafka_settings` has them, or checked; never changed behind an operator's back.

No client of this process lets the broker create a topic by itself, which would give it settings of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import aiokafka.client
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, NodeNotReadyError, for_code
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest
from aiokafka.protocol.metadata import MetadataRequest

from router.contract.errors import TidegateError, Unavailable
from router.contract.events import TOPICS
from router.runtime.log.kafka_failures import Refused, why_unreachable
from router.runtime.log.kafka_settings import Found, WrongTopic, concerns_of, faults_of, settings_of
from router.runtime.log.kafka_url import KafkaUrl

__all__ = ["WrongTopic", "ensure_topics"]

NEW_SECONDS = 15.0
"""How long new topics may take to be usable; an idle broker needs well under one."""
LEADER_SECONDS = 5.0
"""How long the partitions of old topics may be without a leader before the clients are left to wait for it."""
POLL_SECONDS = 0.05
_LOG = logging.getLogger(__name__)
_TOPIC_RESOURCE = 2
_OK, _UNKNOWN, _INVALID_REPLICATION, _EXISTS = 0, 3, 38, 36
_DENIED = frozenset({29, 31})
"""Topic and cluster authorization failed."""
_PASSING = frozenset({3, 5, 6, 7, 8, 41})
"""Of a cluster that is still getting there: unknown topic, no leader, not leader, timed out, no broker, not controller."""

# A client that only looks for a topic creates it, unless it says that it does not want to, which aiokafka has no option
# for: between the deletion of a topic and its return, any of ours would be faster than `ensure_topics`.
aiokafka.client.MetadataRequest = partial(MetadataRequest, allow_auto_topic_creation=False)


async def ensure_topics(url: KafkaUrl, options: Mapping[str, Any], topics: Iterable[str] = TOPICS) -> None:
    """Return once every topic is there and as it must be. `options` come from `client_options`.

    Creates what is absent; several processes may do so at once. Raises `WrongTopic` (nothing was changed),
    `Refused` (a login, a certificate or a right is missing) or `Unavailable` (try again).
    """
    names = {url.topic(topic): topic for topic in topics}
    client = AIOKafkaClient(**options)
    try:
        await _connect(client, options)
        keeper = _Keeper(client, url, options)
        found = await keeper.with_settings(await keeper.present(names))
    except KafkaError as error:
        raise await why_unreachable(options, error) from error
    finally:
        await client.close()
    for name, topic in names.items():
        for concern in concerns_of(url, topic, found[name]):
            _LOG.warning("%s", concern, extra={"code": "weak_topic"})
    faults = [fault for name, topic in names.items() for fault in faults_of(url, topic, found[name])]
    if faults:
        raise WrongTopic(faults)


async def _connect(client: AIOKafkaClient, options: Mapping[str, Any]) -> None:
    try:
        await client.bootstrap()
    except (ValueError, KeyError, AssertionError) as error:  # a login that the broker answers in a wrong way
        raise await why_unreachable(options, error) from error


class _Keeper:
    """The questions and orders to a cluster, over one client that is connected."""

    def __init__(self, client: AIOKafkaClient, url: KafkaUrl, options: Mapping[str, Any]) -> None:
        self._client = client
        self._url = url
        self._principal = f"User:{options.get('sasl_plain_username', '<who this process logs in as>')}"

    async def present(self, names: Mapping[str, str]) -> dict[str, Found]:
        """Every topic, without its settings, once all are there and have leaders. `names`: as Kafka has it → ours."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        created: set[str] = set()
        while True:
            answer = await self._ask(MetadataRequest(list(names), allow_auto_topic_creation=False))
            topics = {topic["topic"]: topic for topic in answer.to_object()["topics"]}
            self._check_rights({name: topic["error_code"] for name, topic in topics.items()}, "Describe")
            absent = {name for name in names if topics[name]["error_code"] == _UNKNOWN}
            if absent - created:
                await self._create({name: names[name] for name in absent - created})
                created |= absent
                continue
            waiting = {name: why for name in names if (why := _unusable(topics[name]))}
            if not waiting:
                break
            if loop.time() - began > (NEW_SECONDS if created else LEADER_SECONDS):
                reasons = "; ".join(f"topic {name} {why}" for name, why in waiting.items())
                if created or any(topics[name]["error_code"] for name in waiting):
                    raise Unavailable(f"the log's topics are not usable yet: {reasons}")
                _LOG.warning("%s", reasons, extra={"code": "leaderless_topic"})
                break
            await asyncio.sleep(POLL_SECONDS)
        return {name: _found(topics[name]) for name in names}

    async def with_settings(self, found: Mapping[str, Found]) -> dict[str, Found]:
        """`found`, with the settings that a fault may be in."""
        asked = [(_TOPIC_RESOURCE, name, None) for name in found]
        deadline = asyncio.get_running_loop().time() + NEW_SECONDS
        while True:
            try:
                answer = await self._ask(DescribeConfigsRequest(asked))
            except IncompatibleBrokerVersion:
                _LOG.warning("the broker does not tell the settings of topics: they are not checked")
                return dict(found)
            codes = {name: code for code, _, _, name, _ in answer.resources}
            self._check_rights(codes, "DescribeConfigs")
            if not any(codes.values()):
                break
            reasons = "; ".join(f"topic {name}: {_words(code)}" for name, code in codes.items() if code)
            # A broker may hear of a new topic later than the one that was asked for its leaders.
            if not _PASSING.issuperset(filter(None, codes.values())) or asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"the broker does not tell the settings of the log's topics: {reasons}")
            await asyncio.sleep(POLL_SECONDS)
        settings = {name: {entry[0]: entry[1] for entry in entries} for _, _, _, name, entries in answer.resources}
        return {name: one._replace(settings=settings[name]) for name, one in found.items()}

    async def _ask(self, request: Any) -> Any:
        """The answer of the first broker that gives one, the controller before the others."""
        cluster = self._client.cluster
        brokers = [broker.nodeId for broker in cluster.brokers()]
        if cluster.controller is not None:
            brokers.sort(key=lambda one: one != cluster.controller.nodeId)
        failure: KafkaError = NodeNotReadyError("no broker is known")
        for broker in brokers:
            try:
                return await self._client.send(broker, request)
            except IncompatibleBrokerVersion:
                raise
            except KafkaError as error:
                failure = error
        raise failure

    async def _create(self, names: Mapping[str, str]) -> None:
        """Order topics; that somebody else was faster is fine. Whether they came is seen by looking."""
        replication = self._url.replication
        orders: list[tuple[Any, ...]] = [
            (name, self._url.partitions, replication, [], list(settings_of(topic, replication).items()))
            for name, topic in names.items()
        ]
        timeout_ms = int(1000 * LEADER_SECONDS)
        answer = await self._ask(CreateTopicsRequest(orders, timeout=timeout_ms, validate_only=False))
        self._check_rights({name: code for name, code, *_ in answer.topic_errors}, "Create")
        for name, code, *message in answer.topic_errors:
            if code not in {_OK, _EXISTS, *_PASSING}:
                raise self._not_created(name, names[name], code, "".join(filter(None, message)))
            if code == _OK:
                _LOG.info("created topic %s with %d partitions", name, self._url.partitions)

    def _not_created(self, name: str, topic: str, code: int, message: str) -> TidegateError:
        said = f"the broker does not create topic {name}: {message or _words(code)}"
        if code == _INVALID_REPLICATION:
            return Unavailable(
                f"{said}; start as many brokers as replication={self._url.replication} in the log's URL asks for, or lower that"
            )
        settings = settings_of(topic, self._url.replication).items()
        command = (
            f"kafka-topics.sh --bootstrap-server {self._url.servers[0]} --create --topic {name} "
            f"--partitions {self._url.partitions} --replication-factor {self._url.replication} "
            + " ".join(f"--config {setting}={value}" for setting, value in settings)
        )
        return Refused(f"{said} ({_words(code)}); change the log's URL accordingly, or create it yourself: {command}")

    def _check_rights(self, codes: Mapping[str, int], operation: str) -> None:
        """Raises `Refused` with the rule to add when a topic is closed to us."""
        denied = sorted(name for name, code in codes.items() if code in _DENIED)
        if not denied:
            return
        rights = " ".join(f"--operation {one}" for one in ("Describe", "DescribeConfigs", "Create", "Read", "Write"))
        raise Refused(
            f"we may not {operation} {', '.join(denied)}; let an administrator run kafka-acls.sh "
            f"--bootstrap-server {self._url.servers[0]} --add --allow-principal '{self._principal}' {rights} "
            f"--topic {self._url.prefix}. --resource-pattern-type prefixed"
        )


def _unusable(topic: Mapping[str, Any]) -> str:
    """Why a topic of a metadata answer cannot be written yet; empty when it can."""
    if topic["error_code"]:
        return f"answers {_words(topic['error_code'])}"
    leaderless = [str(one["partition"]) for one in topic["partitions"] if one["leader"] < 0]
    return f"has no leader for partition {', '.join(leaderless)}" if leaderless else ""


def _found(topic: Mapping[str, Any]) -> Found:
    copies = [len(one["replicas"]) for one in topic["partitions"]]
    return Found(len(copies), min(copies, default=0), {})


def _words(code: int) -> str:
    """A broker's error by its name in Kafka's protocol."""
    return str(getattr(for_code(code), "message", code))

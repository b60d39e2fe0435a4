"""What the log's topics must be like: what is created is right, and whatever differs to the worse is a fault with its fix."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.contract.events import COMPACTED, TOPICS
from router.runtime.log.kafka_settings import DAY_MS, MAX_MESSAGE_BYTES, Found, concerns_of, faults_of, settings_of
from router.runtime.log.kafka_url import KafkaUrl

URL = KafkaUrl(("h1:9092", "h2:9092"), "shop", partitions=6, replication=3)
topics = st.sampled_from([*TOPICS, "a_topic_of_later"])


def found(topic: str, **changes: str | None) -> Found:
    settings = settings_of(topic, 3) | {name.replace("_", "."): value for name, value in changes.items()}
    return Found(6, 3, {name: value for name, value in settings.items() if value is not None})


def only_fault(topic: str, topic_found: Found) -> tuple[str, str, str]:
    [fault] = faults_of(URL, topic, topic_found)
    assert fault.topic == f"shop.{topic}"
    return fault.setting, fault.found, fault.fix


@given(topics, st.integers(1, 5))
def test_what_is_created_has_no_fault_and_raises_no_concern(topic: str, replication: int) -> None:
    url = KafkaUrl(URL.servers, URL.prefix, 6, replication)
    created = Found(6, replication, settings_of(topic, replication))
    assert faults_of(url, topic, created) == []
    assert concerns_of(url, topic, created) == []


@given(
    topics, st.integers(MAX_MESSAGE_BYTES, 2**31 - 1), st.integers(DAY_MS, 2**63 - 1) | st.just(-1), st.integers(3, 9)
)
def test_too_much_is_never_a_fault(topic: str, message_bytes: int, retention_ms: int, replication: int) -> None:
    generous = found(topic, max_message_bytes=str(message_bytes), retention_ms=str(retention_ms))
    assert faults_of(URL, topic, generous._replace(replication=replication)) == []


@given(topics, st.integers(0, MAX_MESSAGE_BYTES - 1))
def test_a_message_that_would_not_fit_is_a_fault(topic: str, limit: int) -> None:
    setting, value, fix = only_fault(topic, found(topic, max_message_bytes=str(limit)))
    assert (setting, value) == ("max.message.bytes", str(limit))
    assert fix == (
        "run kafka-configs.sh --bootstrap-server h1:9092 --alter --entity-type topics "
        f"--entity-name shop.{topic} --add-config max.message.bytes={MAX_MESSAGE_BYTES}"
    )


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("policy", ["", "compact", "delete", "compact,delete", "delete,compact"])
def test_only_the_topics_own_policy_will_do(topic: str, policy: str) -> None:
    right = "compact" if topic in COMPACTED else "delete"
    faults = faults_of(URL, topic, found(topic, cleanup_policy=policy))
    assert [fault.setting for fault in faults] == ([] if policy == right else ["cleanup.policy"])


@given(topics, st.integers(0, DAY_MS - 1))
def test_a_stream_keeps_a_day_and_a_compacted_topic_what_it_likes(topic: str, retention_ms: int) -> None:
    faults = faults_of(URL, topic, found(topic, retention_ms=str(retention_ms)))
    assert [fault.setting for fault in faults] == ([] if topic in COMPACTED else ["retention.ms"])


@given(topics, st.integers(1, 20))
def test_more_or_fewer_partitions_are_a_fault_that_is_never_fixed_by_adding_some(topic: str, partitions: int) -> None:
    faults = faults_of(URL, topic, found(topic)._replace(partitions=partitions))
    assert bool(faults) == (partitions != 6)
    assert all(f"partitions={partitions}" in fault.fix and "--alter" not in fault.fix for fault in faults)


def test_a_topic_that_nobody_could_write_is_a_fault() -> None:
    setting, value, fix = only_fault("demand", found("demand", min_insync_replicas="2")._replace(replication=1))
    assert (setting, value) == ("min.insync.replicas", "2")
    assert fix.endswith("--add-config min.insync.replicas=1")


def test_what_the_broker_does_not_tell_is_not_guessed() -> None:
    assert faults_of(URL, "demand", Found(6, 3, {})) == []
    assert concerns_of(URL, "demand", Found(6, 3, {})) == []


def test_what_works_and_is_weaker_than_asked_is_a_concern() -> None:
    assert "has 2 copies" in concerns_of(URL, "demand", found("demand")._replace(replication=2))[0]
    assert "min.insync.replicas=1" in concerns_of(URL, "demand", found("demand", min_insync_replicas="1"))[0]

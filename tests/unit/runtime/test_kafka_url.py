"""The URL of a log on Kafka: what it may hold, and what is said when it holds something else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.contract.errors import InvalidSpec
from router.runtime.log.kafka_url import KafkaUrl, parse

RIGHT = {
    "kafka://h1": KafkaUrl(("h1:9092",)),
    "kafka://h1/": KafkaUrl(("h1:9092",)),
    "kafka+ssl://h1": KafkaUrl(("h1:9093",), tls=True),
    "KAFKA://h1:1": KafkaUrl(("h1:1",)),
    "kafka://h1:9092,h2:19092/shop?partitions=6&replication=3": KafkaUrl(("h1:9092", "h2:19092"), "shop", 6, 3),
    "kafka://my_broker-0.my-ns.svc.:9092/a.b_c-D9": KafkaUrl(("my_broker-0.my-ns.svc.:9092",), "a.b_c-D9"),
    "kafka://[::1]:29092,[2001:db8::7]": KafkaUrl(("[::1]:29092", "[2001:db8::7]:9092")),
    "kafka+ssl://ns.servicebus.windows.net": KafkaUrl(("ns.servicebus.windows.net:9093",), tls=True),
}

WRONG = {
    "sqlite:///x": "must look like kafka://",
    "kafka:h1": "must look like kafka://",
    "kafka+tls://h1": "must look like kafka://",
    "kafka://h1#x": "must look like kafka://",
    "kafka://": "name a host",
    "kafka:///shop": "name a host",
    "kafka://h1,,h2": "name a host",
    "kafka://h 1": "name a host",
    "kafka://-h1": "name a host",
    "kafka://[::1": "name a host",
    "kafka://[::g]:1": "name a host",
    "kafka://[::1]x": "name a host",
    "kafka://::1:9092": "in brackets",
    "kafka://h1:": "from 1 to 65535",
    "kafka://h1:0": "from 1 to 65535",
    "kafka://h1:65536": "from 1 to 65535",
    "kafka://h1:-1": "from 1 to 65535",
    "kafka://h1:٣": "from 1 to 65535",
    "kafka://h1/a/b": "letters, digits",
    "kafka://h1/shop%20": "letters, digits",
    "kafka://h1/" + "a" * 201: "at most 200",
    "kafka://h1?partitions=0": "partitions is a whole number from 1",
    "kafka://h1?partitions=": "partitions is a whole number from 1",
    "kafka://h1?partitions=-3": "partitions is a whole number from 1",
    "kafka://h1?partitions=1_0": "partitions is a whole number from 1",
    "kafka://h1?partitions=10001": "partitions is a whole number from 1",
    "kafka://h1?replication=3.0": "replication is a whole number from 1",
    "kafka://h1?replication=1&replication=2": "replication is given twice",
    "kafka://h1?partitons=3": "did you mean 'partitions'?",
}


@pytest.mark.parametrize("text", RIGHT)
def test_a_right_url_has_these_parts(text: str) -> None:
    assert parse(text) == RIGHT[text]


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_url_says_what_is_allowed(text: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse(text)
    assert WRONG[text] in caught.value.message
    assert {problem.field for problem in caught.value.problems} == {"log"}


@pytest.mark.parametrize(
    "text",
    [
        "kafka://me:hunter2@h1",
        "kafka+ssl://me:hun/ter2@h1",
        "kafka://me:hun?ter2@h1",
        "kafka://h1?password=hunter2",
        "kafka://h1?sasl_username=hunter2",
        "hunter2@h1",
    ],
)
def test_a_password_in_the_url_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse(text)
    assert "TIDEGATE_KAFKA_PASSWORD_FILE" in caught.value.message
    assert "hun" not in repr(caught.value) + str(caught.value.to_json())


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse("kafka://h1:0,h2:0/a b?partitions=x&speed=9")
    assert len(caught.value.problems) == 5


def test_topic_names_carry_the_prefix_and_lose_it_again() -> None:
    url = parse("kafka://h1/shop.eu")
    assert url.topic("demand") == "shop.eu.demand"
    assert url.topic_of("shop.eu.demand") == "demand"


@pytest.mark.parametrize("name", ["demand", "shop.eu", "shop.eu.", "shop.eudemand", "shop.us.demand", "SHOP.EU.demand"])
def test_the_topic_of_somebody_else_has_no_name_here(name: str) -> None:
    with pytest.raises(ValueError, match="begin with"):
        parse("kafka://h1/shop.eu").topic_of(name)


@given(
    st.lists(st.tuples(st.from_regex(r"[a-z][a-z0-9.-]{0,9}[a-z]", fullmatch=True), st.integers(1, 65535)), min_size=1),
    st.from_regex(r"[A-Za-z0-9._-]{1,200}", fullmatch=True),
    st.integers(1, 10_000),
    st.integers(1, 100),
    st.booleans(),
)
def test_a_url_written_out_is_read_as_the_same(
    servers: list[tuple[str, int]], prefix: str, partitions: int, replication: int, tls: bool
) -> None:
    url = KafkaUrl(tuple(f"{host}:{port}" for host, port in servers), prefix, partitions, replication, tls)
    assert parse(str(url)) == url


@given(st.text() | st.text().map("kafka://".__add__))
def test_any_text_is_parsed_or_refused_with_a_reason(text: str) -> None:
    try:
        url = parse(text)
    except InvalidSpec:
        return
    assert parse(str(url)) == url


@pytest.mark.parametrize("compression", ["lz4", "gzip", "none"])
def test_the_url_says_how_batches_are_compressed(compression: str) -> None:
    assert parse(f"kafka://h/p?compression={compression}").compression == compression


def test_an_unknown_compression_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidSpec, match=r"compression is one of lz4, gzip, none.*compression=zip"):
        parse("kafka://h/p?compression=zip")

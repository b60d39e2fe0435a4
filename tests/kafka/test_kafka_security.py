"""Every way of logging in, against a real broker; and every way of being turned away, told with the setting to change."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("aiokafka")

from loadtests.kafka.node import Broker as BrokerProcess
from loadtests.kafka.security import MECHANISMS, MUTUAL_TLS, SASL, SASL_TLS, TLS, Security, unsigned_token
from router.contract.errors import Unavailable
from router.runtime.log.kafka_connection import client_options
from router.runtime.log.kafka_failures import Refused
from router.runtime.log.kafka_topics import ensure_topics
from router.runtime.log.kafka_url import KafkaUrl

if TYPE_CHECKING:
    from loadtests.broker import Broker

RIGHT = Security()
WRONG_PASSWORD = "hunter2-unseen"
Settings = dict[str, str]


async def ensure(server: str, prefix: str, environ: Settings, *, tls: bool) -> None:
    """What every role does first, with these settings in its environment."""
    url = KafkaUrl((server,), prefix, partitions=1, tls=tls)
    await ensure_topics(
        url, client_options(url, "test", {f"TIDEGATE_KAFKA_{name}": value for name, value in environ.items()})
    )


def login(mechanism: str, folder: Path, password: str = RIGHT.password) -> Settings:
    """Settings of the broker's one user, the secret in a file."""
    file = folder / "secret"
    if mechanism == "OAUTHBEARER":
        file.write_text(unsigned_token(RIGHT.user, time.time()))
        return {"SASL_MECHANISM": mechanism, "TOKEN_FILE": str(file)}
    file.write_text(f"{password}\n")
    return {"SASL_MECHANISM": mechanism, "USERNAME": RIGHT.user, "PASSWORD_FILE": str(file)}


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_every_mechanism_logs_in(
    mechanism: str, tls: bool, kafka_broker: Broker, prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = kafka_broker.servers_of(SASL_TLS if tls else SASL)
    environ = login(mechanism, tmp_path) | ({"CA_FILE": str(kafka_broker.certificates.authority)} if tls else {})
    with caplog.at_level(logging.DEBUG):
        await ensure(server, prefix, environ, tls=tls)
    secret = Path(environ.get("PASSWORD_FILE") or environ["TOKEN_FILE"]).read_text().strip()
    assert secret not in caplog.text


async def test_tls_alone_needs_the_authority(kafka_broker: Broker, prefix: str) -> None:
    environ = {"CA_FILE": str(kafka_broker.certificates.authority)}
    await ensure(kafka_broker.servers_of(TLS), prefix, environ, tls=True)
    with pytest.raises(Refused, match=r"certificate of .* is not accepted: .*TIDEGATE_KAFKA_CA_FILE"):
        await ensure(kafka_broker.servers_of(TLS), prefix, {}, tls=True)


async def test_a_broker_by_a_name_that_is_not_its_own_is_not_believed(kafka_broker: Broker, prefix: str) -> None:
    server = kafka_broker.servers_of(TLS).replace("127.0.0.1", "127.0.0.2")
    with pytest.raises((Refused, Unavailable)) as caught:
        await ensure(server, prefix, {"CA_FILE": str(kafka_broker.certificates.authority)}, tls=True)
    assert "127.0.0.2" in caught.value.message


async def test_mutual_tls_shows_our_certificate(kafka_broker: Broker, prefix: str) -> None:
    made = kafka_broker.certificates
    authority = {"CA_FILE": str(made.authority)}
    own = {"CERT_FILE": str(made.client_certificate), "KEY_FILE": str(made.client_key)}
    await ensure(kafka_broker.servers_of(MUTUAL_TLS), prefix, authority | own, tls=True)
    with pytest.raises(Refused, match="TIDEGATE_KAFKA_CERT_FILE"):
        await ensure(kafka_broker.servers_of(MUTUAL_TLS), prefix, authority, tls=True)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_wrong_password_is_refused_and_not_shown(
    mechanism: str, kafka_broker: Broker, prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    environ = login(mechanism, tmp_path, WRONG_PASSWORD)
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(Refused, match=r"does not accept user 'tidegate'.*TIDEGATE_KAFKA_PASSWORD_FILE") as caught,
    ):
        await ensure(kafka_broker.servers_of(SASL), prefix, environ, tls=False)
    assert WRONG_PASSWORD not in caplog.text + caught.value.message


async def test_a_token_that_is_too_old_is_refused_and_not_shown(
    kafka_broker: Broker, prefix: str, tmp_path: Path
) -> None:
    environ = login("OAUTHBEARER", tmp_path)
    token = unsigned_token(RIGHT.user, time.time() - 7200)
    Path(environ["TOKEN_FILE"]).write_text(token)
    with pytest.raises(Refused, match="does not accept the bearer token") as caught:
        await ensure(kafka_broker.servers_of(SASL), prefix, environ, tls=False)
    assert token not in caught.value.message


async def test_a_token_file_that_went_away_may_come_back(kafka_broker: Broker, prefix: str, tmp_path: Path) -> None:
    environ = login("OAUTHBEARER", tmp_path)
    url = KafkaUrl((kafka_broker.servers_of(SASL),), prefix, partitions=1)
    options = client_options(url, "test", {f"TIDEGATE_KAFKA_{name}": value for name, value in environ.items()})
    file = Path(environ["TOKEN_FILE"])
    file.unlink()
    with pytest.raises(Unavailable, match=f"token file {file} cannot be read"):
        await ensure_topics(url, options)
    login("OAUTHBEARER", tmp_path)
    await ensure_topics(url, options)


async def test_a_port_that_wants_no_login_says_so(kafka_broker: Broker, prefix: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"wants no login.*TIDEGATE_KAFKA_SASL_MECHANISM"):
        await ensure(kafka_broker.servers, prefix, login("PLAIN", tmp_path), tls=False)


@pytest.mark.parametrize("listener", [SASL, TLS, SASL_TLS])
async def test_a_port_that_wants_more_is_told_apart_from_one_that_is_away(
    listener: str, kafka_broker: Broker, prefix: str
) -> None:
    with pytest.raises(Unavailable, match=r"kafka\+ssl://.*TIDEGATE_KAFKA_SASL_MECHANISM"):
        await ensure(kafka_broker.servers_of(listener), prefix, {}, tls=False)


async def test_tls_to_a_port_without_it_says_so(kafka_broker: Broker, prefix: str) -> None:
    with pytest.raises((Refused, Unavailable), match="TLS"):
        await ensure(kafka_broker.servers, prefix, {}, tls=True)


async def test_a_user_without_rights_is_told_the_rule_to_add(tmp_path: Path, kafka_here: None) -> None:
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",  # the brokers themselves
        "sasl.enabled.mechanisms": "PLAIN",
    }
    broker = BrokerProcess(tmp_path / "kafka", properties=properties, security=Security())
    await broker.start()
    try:
        with pytest.raises(Refused) as caught:
            await ensure(broker.servers_of(SASL), "shop", login("PLAIN", tmp_path), tls=False)
        assert "we may not Describe shop.decisions, shop.demand, shop.notices, shop.replicas" in caught.value.message
        assert "--allow-principal 'User:tidegate'" in caught.value.message
        assert "--topic shop. --resource-pattern-type prefixed" in caught.value.message
        with pytest.raises(Refused, match=r"does not offer this login.*SASL_MECHANISM"):
            await ensure(broker.servers_of(SASL), "shop", login("SCRAM-SHA-256", tmp_path), tls=False)
        await ensure(broker.servers, "shop", {}, tls=False)
    finally:
        await broker.stop()

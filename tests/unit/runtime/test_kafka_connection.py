"""How clients of Kafka are told to connect: from the environment and from files, with every mistake named, no secret shown."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from loadtests.kafka.security import Certificates
from router.contract.errors import InvalidSpec
from router.runtime.log.kafka_connection import client_options
from router.runtime.log.kafka_url import parse

PLAIN = parse("kafka://broker.example")
TLS = parse("kafka+ssl://broker.example")
SECRET = "hunter2-unseen"
K = "TIDEGATE_KAFKA_"
SCRAM = {f"{K}SASL_MECHANISM": "SCRAM-SHA-512", f"{K}USERNAME": "me", f"{K}PASSWORD": SECRET}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificates, is not installed")
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    with asyncio.Runner() as runner:
        runner.run(made.create())
    return made


def refusal(url: str, environ: dict[str, str]) -> str:
    with pytest.raises(InvalidSpec) as caught:
        client_options(parse(url), "shipper", environ)
    assert all(problem.field.startswith(K) for problem in caught.value.problems)
    assert SECRET not in caught.value.message + repr(caught.value.to_json())
    return caught.value.message


def test_without_settings_nobody_logs_in() -> None:
    options = client_options(PLAIN, "gateway", {})
    assert options["bootstrap_servers"] == ["broker.example:9092"]
    assert options["client_id"] == "tidegate-gateway"
    assert options["security_protocol"] == "PLAINTEXT"
    assert options["ssl_context"] is None
    assert not any(name.startswith("sasl") for name in options)


def test_an_empty_variable_is_an_absent_one() -> None:
    names = ("SASL_MECHANISM", "USERNAME", "PASSWORD", "PASSWORD_FILE", "CA_FILE", "TOKEN_FILE")
    assert client_options(PLAIN, "gateway", {K + name: "" for name in names}) == client_options(PLAIN, "gateway", {})


def test_tls_verifies_the_broker_always() -> None:
    options = client_options(TLS, "gateway", {})
    assert options["security_protocol"] == "SSL"
    assert options["ssl_context"].check_hostname
    assert options["ssl_context"].verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("url", [PLAIN, TLS])
def test_a_password_reaches_the_client_and_nobody_else(url: Any) -> None:
    options = client_options(url, "gateway", SCRAM)
    assert options["security_protocol"] == ("SASL_SSL" if url.tls else "SASL_PLAINTEXT")
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert options["sasl_plain_username"] == "me"
    assert options["sasl_plain_password"] == SECRET
    assert SECRET not in repr(options)


def test_mechanisms_are_read_in_any_case() -> None:
    assert (
        client_options(PLAIN, "x", SCRAM | {f"{K}SASL_MECHANISM": "scram-sha-256"})["sasl_mechanism"] == "SCRAM-SHA-256"
    )


def test_a_password_file_is_read_without_its_line_break(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f" {SECRET} \n")
    environ = {f"{K}SASL_MECHANISM": "PLAIN", f"{K}USERNAME": "me", f"{K}PASSWORD_FILE": str(file)}
    assert client_options(TLS, "x", environ)["sasl_plain_password"] == f" {SECRET} "


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:9", "127.3.4.5,localhost"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "OAUTHBEARER"])
def test_a_secret_in_the_clear_stays_on_this_machine(host: str, mechanism: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(SECRET)
    own = (
        {f"{K}TOKEN_FILE": str(file)} if mechanism == "OAUTHBEARER" else {f"{K}USERNAME": "me", f"{K}PASSWORD": SECRET}
    )
    environ = {f"{K}SASL_MECHANISM": mechanism, **own}
    pytest.importorskip("aiokafka")
    assert client_options(parse(f"kafka://{host}"), "x", environ)["security_protocol"] == "SASL_PLAINTEXT"
    assert client_options(parse("kafka+ssl://far"), "x", environ)["security_protocol"] == "SASL_SSL"
    assert "kafka+ssl://" in refusal(f"kafka://{host},far", environ)


WRONG: dict[str, tuple[str, dict[str, str], list[str]]] = {
    "unknown mechanism": (
        "kafka://h",
        {"SASL_MECHANISM": "SCRAM-SHA256"},
        ["SASL_MECHANISM", "did you mean 'SCRAM-SHA-256'"],
    ),
    "kerberos": ("kafka://h", {"SASL_MECHANISM": "GSSAPI"}, ["is one of PLAIN"]),
    "user alone": ("kafka://h", {"USERNAME": "me"}, ["KAFKA_USERNAME: has no effect", "SASL_MECHANISM"]),
    "password alone": ("kafka://h", {"PASSWORD": SECRET}, ["KAFKA_PASSWORD: has no effect"]),
    "no user": ("kafka://h", {"SASL_MECHANISM": "SCRAM-SHA-256", "PASSWORD": SECRET}, ["KAFKA_USERNAME: must be set"]),
    "no password": (
        "kafka://h",
        {"SASL_MECHANISM": "SCRAM-SHA-256", "USERNAME": "me"},
        ["KAFKA_PASSWORD: or TIDEGATE_KAFKA_PASSWORD_FILE must be set"],
    ),
    "two passwords": (
        "kafka://h",
        {"SASL_MECHANISM": "SCRAM-SHA-256", "USERNAME": "me", "PASSWORD": SECRET, "PASSWORD_FILE": "/x"},
        ["contradicts TIDEGATE_KAFKA_PASSWORD_FILE"],
    ),
    "token for a password": (
        "kafka://h",
        {"SASL_MECHANISM": "SCRAM-SHA-256", "USERNAME": "me", "PASSWORD": SECRET, "TOKEN_FILE": "/x"},
        ["KAFKA_TOKEN_FILE: contradicts"],
    ),
    "password for a token": (
        "kafka+ssl://h",
        {"SASL_MECHANISM": "OAUTHBEARER", "PASSWORD": SECRET, "TOKEN_URL": "https://idp", "CLIENT_ID": "me"},
        ["KAFKA_PASSWORD: contradicts", "KAFKA_CLIENT_SECRET: or"],
    ),
    "no token": ("kafka+ssl://h", {"SASL_MECHANISM": "OAUTHBEARER"}, ["KAFKA_TOKEN_FILE: or TIDEGATE_KAFKA_TOKEN_URL"]),
    "two tokens": (
        "kafka+ssl://h",
        {"SASL_MECHANISM": "OAUTHBEARER", "TOKEN_FILE": "/x", "TOKEN_URL": "https://idp"},
        ["contradicts TIDEGATE_KAFKA_TOKEN_URL"],
    ),
    "open token endpoint": (
        "kafka+ssl://h",
        {"SASL_MECHANISM": "OAUTHBEARER", "TOKEN_URL": "http://idp/t", "CLIENT_ID": "me", "CLIENT_SECRET": SECRET},
        ["KAFKA_TOKEN_URL: begins with https://"],
    ),
    "no client": (
        "kafka+ssl://h",
        {"SASL_MECHANISM": "OAUTHBEARER", "TOKEN_URL": "https://idp", "CLIENT_SECRET": SECRET},
        ["KAFKA_CLIENT_ID: must be set"],
    ),
    "scope for a file": (
        "kafka+ssl://h",
        {"SASL_MECHANISM": "OAUTHBEARER", "TOKEN_FILE": "/nowhere/token", "SCOPE": "kafka"},
        ["KAFKA_SCOPE: has no effect", "'/nowhere/token'"],
    ),
    "authority without TLS": ("kafka://h", {"CA_FILE": "/ca.crt"}, ["KAFKA_CA_FILE: needs TLS", "kafka+ssl://"]),
    "key without certificate": ("kafka+ssl://h", {"KEY_FILE": "/nowhere/key"}, ["KAFKA_CERT_FILE: must name"]),
    "absent authority": ("kafka+ssl://h", {"CA_FILE": "/nowhere/ca"}, ["KAFKA_CA_FILE", "No such file", "/nowhere/ca"]),
    "absent password file": (
        "kafka://h",
        {"SASL_MECHANISM": "SCRAM-SHA-256", "USERNAME": "me", "PASSWORD_FILE": "/nowhere/pw"},
        ["KAFKA_PASSWORD_FILE", "No such file", "/nowhere/pw"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_missing_or_contradicts_itself_is_named_with_the_fix(case: str) -> None:
    url, environ, said = WRONG[case]
    message = refusal(url, {K + name: value for name, value in environ.items()})
    for words in said:
        assert words in message


def test_every_problem_is_told_at_once() -> None:
    message = refusal("kafka://h", {f"{K}SASL_MECHANISM": "PLAIN", f"{K}CERT_FILE": "/x"})
    for name in ("SASL_MECHANISM", "USERNAME", "PASSWORD", "CERT_FILE"):
        assert f"{K}{name}: " in message


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_a_secret_file_without_text_is_named(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    environ = {f"{K}SASL_MECHANISM": "SCRAM-SHA-256", f"{K}USERNAME": "me", f"{K}PASSWORD_FILE": str(file)}
    assert str(file) in refusal("kafka://h", environ)


def test_a_file_that_holds_no_certificate_is_named(tmp_path: Path, certificates: Certificates) -> None:
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("no certificate")
    assert str(nonsense) in refusal("kafka+ssl://h", {f"{K}CA_FILE": str(nonsense)})
    assert str(nonsense) in refusal("kafka+ssl://h", {f"{K}CERT_FILE": str(nonsense)})
    mixed = {f"{K}CERT_FILE": str(certificates.client_certificate), f"{K}KEY_FILE": str(certificates.folder / "ca.key")}
    assert "the key does not belong to the certificate" in refusal("kafka+ssl://h", mixed)


def test_our_own_certificate_is_shown_from_one_file_or_two(certificates: Certificates) -> None:
    pair = {f"{K}CERT_FILE": str(certificates.client_certificate), f"{K}KEY_FILE": str(certificates.client_key)}
    both = {f"{K}CERT_FILE": str(certificates.server), f"{K}CA_FILE": str(certificates.authority)}
    for environ in (pair, both):
        assert client_options(TLS, "x", environ)["ssl_context"].verify_mode is ssl.CERT_REQUIRED
    assert len(client_options(TLS, "x", both)["ssl_context"].get_ca_certs()) == 1


def test_a_key_with_a_password_is_named_and_nobody_is_asked_for_it(tmp_path: Path, certificates: Certificates) -> None:
    locked = tmp_path / "locked.key"
    command = [
        "openssl",
        "pkey",
        "-in",
        str(certificates.client_key),
        "-aes256",
        "-passout",
        "pass:x",
        "-out",
        str(locked),
    ]
    subprocess.run(command, check=True, capture_output=True)
    message = refusal(
        "kafka+ssl://h", {f"{K}CERT_FILE": str(certificates.client_certificate), f"{K}KEY_FILE": str(locked)}
    )
    assert f"{K}KEY_FILE" in message
    assert "openssl pkey" in message

"""What gateways and autoscalers of different machines need to know each other, with every mistake named and no secret shown."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from loadtests.kafka.security import Certificates
from router.contract.errors import InvalidSpec
from router.runtime import credentials
from router.runtime.courier import Courier
from router.runtime.credentials import NONE, for_listening, for_posting
from tests.support.certificates import made

D = "TIDEGATE_DEMAND_"
SECRET = "0123456789abcdef-unseen"
EVERYWHERE = ("0.0.0.0", 8090)
LOOPBACK = ("127.0.0.1", 8090)
REMOTE = "http://scaler.example:8090"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return made(tmp_path_factory)


def pair(certificates: Certificates) -> dict[str, str]:
    """A certificate with its key."""
    return {
        f"{D}CERT_FILE": str(certificates.client_certificate),
        f"{D}KEY_FILE": str(certificates.client_key),
    }


def refusal(listen: tuple[str, int] | None, targets: list[str], environ: dict[str, str]) -> str:
    with pytest.raises(InvalidSpec) as caught:
        for_listening(listen, environ) if listen else for_posting(targets, environ)
    assert SECRET not in caught.value.message + repr(caught.value.to_json())
    return caught.value.message


def test_on_one_machine_nothing_is_read() -> None:
    wrong = {f"{D}TOKEN": "short", f"{D}CERT_FILE": "/nowhere"}
    assert for_listening(None, wrong) is NONE
    assert for_posting(["unix:/run/autoscaler.sock"], wrong) is NONE
    assert for_posting([], wrong) is NONE


@pytest.mark.parametrize("address", [("127.0.0.1", 1), ("127.9.9.9", 1), ("::1", 1), ("localhost", 1)])
def test_on_the_loopback_no_token_is_needed(address: tuple[str, int]) -> None:
    assert for_listening(address, {}).token == ""
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    assert for_posting([f"http://{host}:1"], {}).token == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "scaler.example", ""])
def test_where_other_machines_connect_a_token_is_a_must_and_the_error_says_what_to_do(host: str) -> None:
    message = refusal((host, 8090), [], {})
    assert "listen" in message
    assert f"{D}TOKEN_FILE" in message
    assert f"{host}:8090" in message
    assert "openssl rand" in message
    assert "127.0.0.1" in message


def test_tls_alone_does_not_say_who_may_speak_but_asking_for_certificates_does(certificates: Certificates) -> None:
    assert f"{D}TOKEN_FILE" in refusal(EVERYWHERE, [], pair(certificates))
    mutual = for_listening(EVERYWHERE, pair(certificates) | {f"{D}CA_FILE": str(certificates.authority)})
    assert mutual.certified
    assert mutual.token == ""


def test_nothing_is_handed_in_plain_to_another_machine_without_a_token() -> None:
    message = refusal(None, ["unix:/s", REMOTE], {})
    assert f"{D}TOKEN_FILE" in message
    assert "https://" in message
    assert REMOTE in message
    with pytest.raises(InvalidSpec, match="plain TCP to another machine needs a token"):
        Courier([REMOTE], lambda _: None)
    assert for_posting([REMOTE], {f"{D}TOKEN": SECRET}).token == SECRET


def test_the_token_comes_from_a_file_or_the_environment_and_shows_itself_to_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    file.write_text(f"  {SECRET}\n")
    for environ in ({f"{D}TOKEN": SECRET}, {f"{D}TOKEN_FILE": str(file)}):
        found = for_listening(EVERYWHERE, environ)
        assert found.token == SECRET
        assert SECRET not in repr(found)
    assert "can be read on the way" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({f"{D}TOKEN": SECRET, f"{D}TOKEN_FILE": "/x"}, f"{D}TOKEN: contradicts {D}TOKEN_FILE"),
        ({f"{D}TOKEN": "unseen"}, f"{D}TOKEN: must hold at least 16 characters"),
        ({f"{D}TOKEN": f"{SECRET} {SECRET}"}, f"{D}TOKEN: must hold visible ASCII"),
        ({f"{D}TOKEN": f"{SECRET}\r\nx: y"}, f"{D}TOKEN: must hold visible ASCII"),
        ({f"{D}TOKEN": SECRET + "ü"}, f"{D}TOKEN: must hold visible ASCII"),
        ({f"{D}TOKEN_FILE": "/nowhere/token"}, f"{D}TOKEN_FILE: names a file that cannot be read"),
        ({f"{D}TOKEN_FILE": "/dev/null"}, f"{D}TOKEN_FILE: names a file that is empty"),
    ],
)
def test_a_token_that_is_none_is_refused_on_both_sides(environ: dict[str, str], words: str) -> None:
    assert words in refusal(EVERYWHERE, [], environ)
    assert words in refusal(None, [REMOTE], environ)


def test_certificates_without_effect_or_counterpart_are_told(certificates: Certificates) -> None:
    token = {f"{D}TOKEN": SECRET}
    assert "has no effect without" in refusal(EVERYWHERE, [], token | {f"{D}CA_FILE": str(certificates.authority)})
    key_alone = token | {f"{D}KEY_FILE": str(certificates.client_key)}
    assert f"must name the certificate that belongs to {D}KEY_FILE" in refusal(EVERYWHERE, [], key_alone)
    assert "write https://" in refusal(None, [REMOTE], token | pair(certificates))
    nowhere = token | {f"{D}CERT_FILE": "/nowhere.pem"}
    assert "names a file that cannot be read" in refusal(EVERYWHERE, [], nowhere)
    assert "names a file that cannot be read" in refusal(None, ["https://scaler.example:1"], nowhere)


def test_tls_verifies_the_autoscaler_always_and_without_a_token_too(certificates: Certificates) -> None:
    for environ in ({}, {f"{D}CA_FILE": str(certificates.authority)} | pair(certificates)):
        found = for_posting(["https://scaler.example:1"], environ)
        assert found.tls is not None
        assert found.tls.verify_mode is ssl.CERT_REQUIRED
        assert found.tls.check_hostname
    assert credentials.for_listening(LOOPBACK, pair(certificates)).tls is not None

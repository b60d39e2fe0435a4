"""Whoever could reach the control plane from elsewhere needs a token, and every mistake with tokens is named, without a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.contract.errors import InvalidSpec
from router.contract.signatures import is_signed, sign
from router.runtime.login import LEAST_TOKEN, Tokens, for_control, new_token, signing_key

TOKEN = "TIDEGATE_CONTROL_TOKEN"
METRICS = "TIDEGATE_CONTROL_METRICS_TOKEN"
KEY = "TIDEGATE_ASSETS_KEY"
SECRET = "0123456789abcdef-unseen"
OTHER = "fedcba9876543210-unseen"


def refusal(host: str, environ: dict[str, str]) -> str:
    with pytest.raises(InvalidSpec) as caught:
        for_control(host, environ)
    assert SECRET not in caught.value.message + repr(caught.value.to_json())
    return caught.value.message


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "tidegate-control", ""])
def test_an_address_that_others_reach_needs_a_token_and_the_error_names_the_setting_and_the_fix(host: str) -> None:
    message = refusal(host, {})
    assert message.startswith("host: ")
    assert "TIDEGATE_CONTROL_TOKEN_FILE" in message
    assert "listen on 127.0.0.1" in message
    assert for_control(host, {TOKEN: SECRET}).operators.know(SECRET)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_the_loopback_nobody_is_asked_unless_a_token_is_set(host: str) -> None:
    assert not for_control(host, {}).operators
    assert for_control(host, {TOKEN: SECRET}).operators


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({TOKEN: "short"}, f"{TOKEN}: must hold at least {LEAST_TOKEN} characters"),
        ({TOKEN: "with a blank in its middle"}, "visible ASCII characters"),
        ({TOKEN: SECRET, f"{TOKEN}_FILE": "/tokens"}, "contradicts"),
        ({f"{TOKEN}_FILE": "/nowhere/at/all"}, f"{TOKEN}_FILE: names a file that cannot be read"),
        ({METRICS: SECRET}, f"{METRICS}: has no effect without {TOKEN}_FILE"),
        ({KEY: SECRET}, f"{KEY}: has no effect without {TOKEN}_FILE"),
    ],
)
def test_every_mistake_is_named(environ: dict[str, str], words: str) -> None:
    assert words in refusal("127.0.0.1", environ)


def test_a_file_may_hold_several_tokens_all_of_which_are_good(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"{SECRET}\n\n  {OTHER}\r\n")
    tokens = for_control("::", {f"{TOKEN}_FILE": str(tmp_path / "tokens")}).operators
    assert tokens.know(SECRET)
    assert tokens.know(OTHER)
    assert not tokens.know(f"{SECRET}{OTHER}")
    assert not tokens.know("")
    assert not tokens.know("ünknown")


def test_a_file_is_read_again_when_it_is_replaced_and_a_bad_one_leaves_the_tokens_of_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tokens"
    file.write_text(SECRET)
    tokens = for_control("::", {f"{TOKEN}_FILE": str(file)}).operators

    (tmp_path / "new").write_text(OTHER)
    (tmp_path / "new").rename(file)
    assert (tokens.know(OTHER), tokens.know(SECRET)) == (True, False)

    file.write_text("bad")
    assert tokens.know(OTHER)
    file.unlink()
    assert tokens.know(OTHER)
    assert "those of before stay good" in caplog.text
    assert OTHER not in caplog.text

    file.write_text(SECRET)
    assert (tokens.know(OTHER), tokens.know(SECRET)) == (False, True)


def test_no_tokens_know_nobody() -> None:
    assert not Tokens().know("")
    assert not Tokens()


def test_the_newest_key_signs_and_a_signature_opens_one_file_alone(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{SECRET}\n{OTHER}\n")
    key = signing_key({f"{KEY}_FILE": str(tmp_path / "keys")})
    assert key == SECRET
    signature = sign(key, "a" * 64)
    assert is_signed(key, "a" * 64, signature)
    assert not is_signed(key, "b" * 64, signature)
    assert not is_signed(OTHER, "a" * 64, signature)
    assert not is_signed(key, "a" * 64, "ü")
    assert signing_key({}) == ""


def test_new_tokens_are_long_enough_and_never_the_same() -> None:
    made = {new_token() for _ in range(100)}
    assert len(made) == 100
    assert {len(one) for one in made} == {64}

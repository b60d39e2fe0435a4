"""Where the command line finds the control plane's address and token, and what it never sends where."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.cli.contacts import contact
from router.cli.main import main
from router.contract.errors import InvalidSpec
from tests.support.cli_control_plane import Answer, FakeControlPlane, fake_control_plane

SECRET = "0123456789abcdef-unseen"
OTHER = "fedcba9876543210-unseen"
URL = "https://tidegate.example"


class Home:
    """A user's folder, and the environment that leads to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tidegate"
        self.folder.mkdir()
        self.file = self.folder / "config.toml"
        self.environ = {"XDG_CONFIG_HOME": str(folder)}

    def write(self, text: str) -> None:
        self.file.write_text(text)
        self.file.chmod(0o600)

    def found(self, **environ: str) -> tuple[str, str]:
        one = contact({**self.environ, **environ})
        return one.url, one.token

    def refusal(self, **environ: str) -> str:
        with pytest.raises(InvalidSpec) as caught:
            self.found(**environ)
        assert SECRET not in caught.value.message
        return caught.value.message


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_without_anything_it_is_this_machine_and_no_token(home: Home) -> None:
    assert home.found() == ("http://127.0.0.1:8081", "")


def test_the_environment_names_address_and_token(home: Home, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{SECRET}\n{OTHER}\n")
    assert home.found(TIDEGATE_URL=URL, TIDEGATE_CONTROL_TOKEN=OTHER) == (URL, OTHER)
    assert home.found(TIDEGATE_CONTROL_TOKEN_FILE=str(tmp_path / "token")) == ("http://127.0.0.1:8081", SECRET)


def test_the_users_file_names_both_and_the_environment_comes_first(home: Home, tmp_path: Path) -> None:
    home.write(f'url = "{URL}"\ntoken = "{SECRET}"\n')
    assert home.found() == (URL, SECRET)
    assert home.found(TIDEGATE_CONTROL_TOKEN=OTHER) == (URL, OTHER)
    (home.folder / "operator").write_text(OTHER)
    home.write(f'url = "{URL}"\ntoken_file = "operator"\n')
    assert home.found() == (URL, OTHER)
    named = tmp_path / "other.toml"
    named.write_text('url = "http://elsewhere:1"\n')
    assert home.found(TIDEGATE_CONFIG=str(named)) == ("http://elsewhere:1", "")


def test_the_files_token_is_not_sent_to_another_address(home: Home) -> None:
    home.write(f'url = "{URL}"\ntoken = "{SECRET}"\n')
    assert home.found(TIDEGATE_URL="http://other.example") == ("http://other.example", "")
    assert home.found(TIDEGATE_URL=f"{URL}/") == (URL, SECRET)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("url = ", "must be TOML"),
        ('uri = "x"', "uri: unknown key; known here: url, token, token_file"),
        ("url = 5", "url: must be text"),
        (f'token = "{SECRET}"\ntoken_file = "x"', "token: contradicts token_file"),
        ('token_file = "missing"', "token_file: names a file that cannot be read"),
    ],
)
def test_a_wrong_file_is_explained(home: Home, text: str, words: str) -> None:
    home.write(text)
    message = home.refusal()
    assert str(home.file) in message
    assert words in message.lower() or words in message


def test_a_token_that_others_may_read_is_refused(home: Home) -> None:
    home.write(f'token = "{SECRET}"')
    home.file.chmod(0o644)
    assert f"chmod 600 {home.file}" in home.refusal()


def test_a_file_that_is_named_must_be_there(home: Home) -> None:
    assert "TIDEGATE_CONFIG" in home.refusal(TIDEGATE_CONFIG="/nowhere/config.toml")


def test_every_request_carries_the_token(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_control_plane() as plane:
        monkeypatch.setenv("TIDEGATE_URL", plane.url)
        monkeypatch.setenv("TIDEGATE_CONTROL_TOKEN", SECRET)
        plane.on("GET", "/v1/endpoints", Answer(body={"value": []}))
        assert main(["online-endpoint", "list"]) == 0
        assert authorizations(plane) == [f"Bearer {SECRET}"]
    assert SECRET not in "".join(capsys.readouterr())


def authorizations(plane: FakeControlPlane) -> list[str]:
    return [request.headers.get("authorization", "") for request in plane.requests]


def test_a_refused_token_is_one_line_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_control_plane() as plane:
        monkeypatch.setenv("TIDEGATE_URL", plane.url)
        error = {"error": {"code": "Unauthorized", "message": "the request shows no token: do this"}}
        plane.on("GET", "/v1/endpoints", Answer(401, error))
        assert main(["online-endpoint", "list"]) == 1
    assert capsys.readouterr().err == "error: (Unauthorized) the request shows no token: do this\n"


def test_a_token_is_printed_or_put_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token"]) == 0
    assert len(capsys.readouterr().out.strip()) == 64
    one, two = tmp_path / "secrets" / "one", tmp_path / "two"
    assert main(["token", str(one), str(two)]) == 0
    first = one.read_text()
    assert len(first.strip()) == 64
    assert first != two.read_text()
    assert one.stat().st_mode & 0o777 == 0o600
    assert list(one.parent.iterdir()) == [one]
    capsys.readouterr()

    assert main(["token", str(one)]) == 0
    assert one.read_text() == first
    printed = capsys.readouterr()
    assert "stays as it is" in printed.err
    assert first.strip() not in printed.out + printed.err


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["token", str(tmp_path / "file" / "token")]) == 1
    assert str(tmp_path / "file" / "token") in capsys.readouterr().err


def test_up_refuses_an_open_control_plane_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TIDEGATE_CONTROL_TOKEN_FILE", raising=False)
    data = tmp_path / "data"
    assert main(["up", "--data", str(data), "--control-host", "0.0.0.0"]) == 1
    error = capsys.readouterr().err
    assert "--control-host" in error
    assert "TIDEGATE_CONTROL_TOKEN_FILE" in error
    assert not data.exists()


def test_up_with_pods_names_both_secrets_that_it_misses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TIDEGATE_CONTROL_TOKEN", "TIDEGATE_ASSETS_KEY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)
    data = tmp_path / "data"
    words = ["up", "--data", str(data), "--backend", "kubernetes", "--control-host", "0.0.0.0"]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "--control-host" in error
    assert "TIDEGATE_CONTROL_TOKEN_FILE" in error
    assert "TIDEGATE_ASSETS_KEY_FILE: must name a file with a key" in error
    monkeypatch.setenv("TIDEGATE_CONTROL_TOKEN", SECRET)
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "--control-host:" not in error
    assert "TIDEGATE_ASSETS_KEY_FILE: must name a file with a key" in error
    assert not data.exists()

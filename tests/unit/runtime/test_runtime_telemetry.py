"""Log lines are single lines, machine-readable on request, and never hold a secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import given

from router.runtime.clock import ManualClock
from router.runtime.telemetry import REDACTED, JsonFormatter, Limited, LineFormatter, configure, redact

SECRET = "Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MA"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.raiseExceptions
    yield root
    root.handlers[:], level, logging.raiseExceptions = before
    root.setLevel(level)


def record(message: str, *, exc_info: object = False, **fields: object) -> logging.LogRecord:
    info: tuple[type[BaseException], BaseException, None] | None = None
    if exc_info:
        info = (ValueError, ValueError("two\nlines"), None)
    made = logging.LogRecord("tidegate.x", logging.WARNING, __file__, 1, message, (), info)
    vars(made).update(fields)
    return made


def test_a_line_has_time_level_role_message_and_fields() -> None:
    line = LineFormatter("gateway").format(record("listening", port=8080, path="/a b", empty=""))
    time, rest = line.split(" ", 1)
    assert time.endswith("Z")
    assert len(time) == len("2026-01-31T12:00:00.000Z")
    assert rest == 'WARNING gateway listening port=8080 path="/a b" empty=""'


@given(st.text(), st.text())
def test_every_record_is_one_line(message: str, value: str) -> None:
    made = record(message.replace("%", "%%"), field=value, exc_info=True)
    assert "\n" not in LineFormatter("r").format(made)
    assert "\n" not in JsonFormatter("r").format(made)


def test_json_holds_the_same() -> None:
    body = json.loads(JsonFormatter("mirror").format(record("dropped", exc_info=True, count=3, why={"a": [1]})))
    assert (body["level"], body["role"], body["logger"]) == ("WARNING", "mirror", "tidegate.x")
    assert (body["message"], body["count"], body["why"]) == ("dropped", 3, {"a": [1]})
    assert body["exception"].endswith("ValueError: two\nlines")


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"authorization: {SECRET}",
        f"'Authorization': 'Basic {SECRET}'",
        f'{{"Authorization": "Bearer {SECRET}"}}',
        json.dumps(json.dumps({"primaryKey": SECRET})),
        f"proxy-authorization=bearer {SECRET}",
        f"sent Bearer {SECRET} to it",
        f"{{'primaryKey': '{SECRET}', 'secondaryKey': '{SECRET}'}}",
        f"?api_key={SECRET}&x=1",
        f"x-api-key: {SECRET}",
        f"password={SECRET}",
        f"Cookie: {SECRET}",
        f"access_token={SECRET}",
    ],
)
def test_secrets_do_not_get_through(text: str) -> None:
    assert SECRET not in redact(text)
    assert REDACTED in redact(text)
    assert SECRET not in LineFormatter("r").format(record(text, detail=text))
    assert SECRET not in JsonFormatter("r").format(record(text, detail=text, nested={"list": [text]}))


@pytest.mark.parametrize(
    "name", ["authorization", "key", "primary_key", "primaryKey", "keys", "token", "client_secret"]
)
def test_fields_named_like_a_secret_are_not_written(name: str) -> None:
    for form in (LineFormatter("r"), JsonFormatter("r")):
        line = form.format(record("m", **{name: SECRET}, outer={name: SECRET}))
        assert line.count(SECRET) == (
            0 if isinstance(form, JsonFormatter) or name not in {"key", "keys", "token"} else 1
        )


def test_ordinary_words_stay() -> None:
    text = "basic check of the bearer: key-value monkey=banana tokens=12 endpoint=echo"
    assert redact(text) == text


def test_configure_obeys_the_environment_and_may_be_repeated(root: logging.Logger) -> None:
    out = io.StringIO()
    configure("old", stream=io.StringIO())
    configure("control", stream=out, environ={"TIDEGATE_LOG_FORMAT": "JSON", "TIDEGATE_LOG_LEVEL": "debug"})
    logging.getLogger("tidegate.y").debug("hello %s", "there", extra={"n": 1})
    (line,) = out.getvalue().splitlines()
    assert json.loads(line) | {"time": ""} == {
        "time": "",
        "level": "DEBUG",
        "role": "control",
        "logger": "tidegate.y",
        "message": "hello there",
        "n": 1,
    }
    configure("control", stream=out, environ={"TIDEGATE_LOG_LEVEL": "nonsense"})
    assert root.level == logging.INFO


def test_at_most_one_line_per_second_and_code(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    limited = Limited(logging.getLogger("tidegate.limited"), clock=clock)
    assert limited.error("full", "disk is full", waiting=1)
    assert not any(limited.error("full", "disk is full") for _ in range(5))
    assert limited.warning("other", "something else")
    clock.advance(0.999)
    assert not limited.error("full", "disk is full")
    clock.advance(0.001)
    assert limited.error("full", "disk is full")
    clock.advance(1)
    assert limited.error("full", "disk is full")
    seen = [(vars(r)["code"], vars(r).get("suppressed")) for r in caplog.records]
    assert seen == [("full", None), ("other", None), ("full", 6), ("full", None)]
    assert vars(caplog.records[0])["waiting"] == 1

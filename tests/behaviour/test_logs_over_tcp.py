"""The control plane reads logs from autoscalers in other pods: with their token, from the one that has the deployment."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from autoscaler.backends.base import Backend
from autoscaler.control.admin import admin_site
from autoscaler.control.answers import Answers
from loadtests.kafka.security import Certificates
from loadtests.waiting import free_port
from router.contract.errors import NotFound, Unavailable
from router.control.log_reading import LogReading
from router.runtime.credentials import Credentials, for_listening, for_posting
from tests.support.certificates import made
from tests.support.control_plane import running

D = "TIDEGATE_DEMAND_"
TOKEN = "a-token-of-this-installation"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return made(tmp_path_factory)


class Writing:
    """As much of a backend as logs need."""

    async def logs(self, endpoint: str, deployment: str, lines: int) -> str:
        return f"{endpoint} {deployment} {lines}"


@contextlib.asynccontextmanager
async def autoscaler(folder: Path, deployment: str, environ: dict[str, str] | None = None) -> AsyncIterator[str]:
    """One that has `deployment`; yields host:port."""
    answers = Answers(lambda _, name: cast("Backend", Writing()) if name == deployment else None)
    address = ("127.0.0.1", 0)
    credentials = for_listening(address, {f"{D}TOKEN": TOKEN} if environ is None else environ)
    path = folder / f"{deployment}.sock"
    async with admin_site(path, answers, address, credentials=credentials) as bound:
        assert bound is not None
        yield f"127.0.0.1:{bound[1]}"


def reading(*targets: str, environ: dict[str, str] | None = None) -> LogReading:
    return LogReading(targets, for_posting(targets, {f"{D}TOKEN": TOKEN} if environ is None else environ))


async def test_of_several_autoscalers_the_one_that_has_the_deployment_answers(tmp_path: Path) -> None:
    async with autoscaler(tmp_path, "blue") as one, autoscaler(tmp_path, "green") as two:
        logs = reading(f"http://{one}", f"http://{two}")
        assert await logs.last_lines("shop", "blue", 7) == "shop blue 7"
        assert await logs.last_lines("shop", "green", 9) == "shop green 9"
        with pytest.raises(NotFound, match="no logs yet"):
            await logs.last_lines("shop", "red", 1)


async def test_an_autoscaler_that_is_away_does_not_hide_the_other_and_is_named_when_it_may_have_the_deployment(
    tmp_path: Path,
) -> None:
    async with autoscaler(tmp_path, "blue") as here:
        logs = reading(f"http://127.0.0.1:{free_port()}", f"http://{here}")
        assert await logs.last_lines("shop", "blue", 7) == "shop blue 7"
        with pytest.raises(Unavailable, match="does not answer"):
            await logs.last_lines("shop", "green", 7)


async def test_another_token_is_told_as_such(tmp_path: Path) -> None:
    async with autoscaler(tmp_path, "blue") as here:
        logs = reading(f"http://{here}", environ={f"{D}TOKEN": "another-token-entirely"})
        with pytest.raises(Unavailable, match="TIDEGATE_DEMAND_TOKEN_FILE"):
            await logs.last_lines("shop", "blue", 7)


async def test_where_nobody_shows_anything_logs_stay_on_the_unix_socket(tmp_path: Path) -> None:
    async with autoscaler(tmp_path, "blue", {}) as here:
        with pytest.raises(NotFound):
            await reading(f"http://{here}", environ={}).last_lines("shop", "blue", 7)
    async with autoscaler(tmp_path, "blue", {}):
        path = f"unix:{tmp_path / 'blue.sock'}"
        assert await LogReading([path], Credentials()).last_lines("shop", "blue", 7) == "shop blue 7"


async def test_logs_come_over_tls_with_certificates_on_both_sides(tmp_path: Path, certificates: Certificates) -> None:
    server = {
        f"{D}CERT_FILE": str(certificates.server),
        f"{D}CA_FILE": str(certificates.authority),
    }
    client = {
        f"{D}CERT_FILE": str(certificates.client_certificate),
        f"{D}KEY_FILE": str(certificates.client_key),
        f"{D}CA_FILE": str(certificates.authority),
    }
    async with autoscaler(tmp_path, "blue", server) as here:
        assert await reading(f"https://{here}", environ=client).last_lines("shop", "blue", 3) == "shop blue 3"
        with pytest.raises(Unavailable):
            await reading(f"https://{here}", environ={f"{D}CA_FILE": client[f"{D}CA_FILE"]}).last_lines(
                "shop", "blue", 3
            )


async def test_the_api_reads_them_from_where_it_is_told(tmp_path: Path) -> None:
    async with autoscaler(tmp_path, "blue") as here:
        targets = (f"http://{here}",)
        credentials = for_posting(targets, {f"{D}TOKEN": TOKEN})
        async with running(tmp_path / "plane", autoscaler=targets, credentials=credentials) as plane:
            await plane.endpoint("shop", "blue")
            answer = await plane.call("POST", "/v1/endpoints/shop/deployments/blue/logs", {"tail": 5})
            assert answer.json == {"content": "shop blue 5"}

"""A control plane that follows objects does not depend on the API server."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from loadtests.waiting import free_port
from router.contract.errors import TidegateError
from router.runtime.settings import ObjectSettings
from tests.support.control_plane import running, until


def kubeconfig(folder: Path, server: str) -> Path:
    path = folder / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": server}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "models"}}],
                "current-context": "c",
            }
        )
    )
    return path


async def test_a_kubeconfig_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TidegateError, match="nowhere: there is no such file"):
        async with running(tmp_path, objects=ObjectSettings(str(tmp_path / "nowhere"))):
            pass


async def test_rest_works_while_the_api_server_is_away(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, f"http://127.0.0.1:{free_port()}")
    async with running(tmp_path / "data", objects=ObjectSettings(str(path))) as plane:
        assert await plane.endpoint("shop", "blue") == 2

        async def counted() -> bool:
            text = (await plane.call("GET", "/metrics")).text
            asked = 'tidegate_control_kubernetes_requests_total{code="none",resource="onlineendpoints",verb="list"}'
            return asked in text and 'tidegate_control_objects_watched{resource="onlineendpoints"} 0.0' in text

        await until("the failure is counted", counted)

"""The door to the Kubernetes client library: where the API server is, and how we prove who we are.

A kubeconfig's token, token file, certificate or exec command, or the service account of the pod we run in. What expires
is renewed before it does; whatever the server refuses is read again from its source.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from kubernetes_asyncio import client, config
from kubernetes_asyncio.client.rest import RESTClientObject

from router.contract.errors import TidegateError

EXEC_SECONDS = 30.0
"""Longest wait for the command that a kubeconfig names for credentials."""
REREAD_SECONDS = 60.0
"""A token in a file may be replaced at any time; it is read again this often."""
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class BadKubeconfig(TidegateError):
    """No cluster can be reached with what is configured."""

    code = "BadArgument"
    status = 400


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Which cluster, and as whom."""

    kubeconfig: str | None = None
    """A file, or several with `:` between; None = `$KUBECONFIG`, else `~/.kube/config`, else the pod's own account."""
    context: str | None = None
    """One of the kubeconfig's contexts; None = its current one."""
    request_seconds: float = 15.0
    """A server that has not answered for this long counts as unreachable; watches are their own matter."""
    writes_per_second: float = 100.0
    """Sustained; well below what one API server takes, and above twenty decisions a second with two writes each."""
    writes_burst: int = 200


class Access:
    """One API server and our credentials for it. Everything but `url` and `namespace` is renewed behind the scenes."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings
        self._configuration: Any = None
        self._loader: Any = None
        self._rest: Any = None
        self._read_at = 0.0
        self._lock = asyncio.Lock()
        self._retired: list[Any] = []
        self.url = ""
        """The API server's address; empty before `open`."""
        self.namespace = "default"
        """Of the kubeconfig's context, or of the pod we run in."""

    async def open(self) -> None:
        """Read the configuration. Raises `BadKubeconfig`."""
        async with self._lock:
            await self._read()

    async def renew(self, refused: str) -> bool:
        """The server did not accept the credentials `refused` (an Authorization header): read them again.

        Returns whether there are other ones now.
        """
        async with self._lock:
            if self._token() != refused:
                return True
            await self._read()
            return self._token() != refused

    async def headers(self) -> Mapping[str, str]:
        """The Authorization header, fresh."""
        async with self._lock:
            if asyncio.get_running_loop().time() - self._read_at > REREAD_SECONDS:
                await self._refresh()
            await self._configuration.auth_settings()  # the pod's own token is read again by this
        token = self._token()
        return {"Authorization": token} if token else {}

    def request(self, method: str, path: str, **options: Any) -> Any:
        """As `aiohttp.ClientSession.request`, on the API server."""
        if self._configuration.proxy:
            options["proxy"] = self._configuration.proxy
        if self._configuration.tls_server_name:
            options["server_hostname"] = self._configuration.tls_server_name
        session: aiohttp.ClientSession = self._rest.pool_manager
        return session.request(method, self.url + path, **options)

    async def close(self) -> None:
        """Let go of every connection."""
        for rest in (*self._retired, self._rest):
            if rest is not None:
                await rest.close()

    def _token(self) -> str:
        return str(self._configuration.api_key.get("BearerToken") or "")

    async def _refresh(self) -> None:
        """Renew what a loader can renew by itself, or read the token's file again."""
        user = getattr(self._loader, "_user", None)
        if user is not None and "exec" in user:
            await self._bounded(self._loader.load_from_exec_plugin())
            self._configuration.api_key["BearerToken"] = self._loader.token
        elif user is not None and "tokenFile" in user:
            await self._read()
        self._read_at = asyncio.get_running_loop().time()

    async def _read(self) -> None:
        configuration = client.Configuration()
        files = self._files()
        try:
            if files is not None:
                loading = config.load_kube_config(
                    config_file=files,
                    context=self._settings.context,
                    client_configuration=configuration,
                    persist_config=False,
                )
                self._loader = await self._bounded(loading)
                context = (self._loader.current_context or {}).get("context") or {}
                self.namespace = str(context.get("namespace") or "default")
            else:
                config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
                self.namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip() or "default"
        except config.ConfigException as error:
            raise BadKubeconfig(f"kubeconfig {files}: {error}" if files else str(error)) from error
        except (yaml.YAMLError, OSError, ValueError, TypeError, AttributeError, AssertionError) as error:
            raise BadKubeconfig(f"kubeconfig {files} cannot be used: {type(error).__name__}: {error}") from error
        await self._adopt(configuration)

    async def _adopt(self, configuration: Any) -> None:
        before, self._configuration = self._configuration, configuration
        identity = ("host", "ssl_ca_cert", "cert_file", "key_file", "verify_ssl", "proxy", "tls_server_name")
        if before is None or any(getattr(before, name) != getattr(configuration, name) for name in identity):
            if self._rest is not None:  # requests under way still use it
                self._retired.append(self._rest)
            if len(self._retired) > 1:
                await self._retired.pop(0).close()
            self._rest = RESTClientObject(configuration)
            self.url = configuration.host.rstrip("/")
        self._read_at = asyncio.get_running_loop().time()

    async def _bounded(self, work: Any) -> Any:
        try:
            async with asyncio.timeout(EXEC_SECONDS):
                return await work
        except TimeoutError:
            message = f"the kubeconfig's exec command did not give credentials within {EXEC_SECONDS:g} s"
            raise BadKubeconfig(message) from None

    def _files(self) -> str | None:
        """The kubeconfig to read; None = the pod's own service account. Raises `BadKubeconfig` when there is neither."""
        named = self._settings.kubeconfig or os.environ.get("KUBECONFIG")
        if named:
            if not any(Path(one).expanduser().is_file() for one in named.split(os.pathsep) if one):
                raise BadKubeconfig(f"kubeconfig {named}: there is no such file")
            return named
        usual = Path.home() / ".kube" / "config"
        if usual.is_file():
            return str(usual)
        if os.environ.get("KUBERNETES_SERVICE_HOST") and (SERVICE_ACCOUNT / "token").is_file():
            return None
        raise BadKubeconfig(
            "there is no cluster to talk to: name a kubeconfig (--kubeconfig FILE or $KUBECONFIG), "
            "or run in a pod with a service account"
        )

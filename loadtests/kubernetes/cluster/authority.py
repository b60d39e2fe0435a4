"""The cluster's own certificate authority, and kubeconfig files for those it vouches for.

A certificate's CN is the user and its O are the groups. Everything is made anew per cluster by `openssl`.
"""

from __future__ import annotations

import base64
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

ADMINISTRATORS = "system:masters"
_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
_DAYS = "30"


@dataclass(frozen=True, slots=True)
class Authority:
    """Keys and certificates in `folder`, readable by nobody else."""

    folder: Path

    @property
    def certificate(self) -> Path:
        """What everybody trusts."""
        return self.folder / "ca.crt"

    @property
    def token_key(self) -> Path:
        """Private key that signs the tokens of service accounts; `token_key` with .pub is its public half."""
        return self.folder / "tokens.key"

    def create(self) -> None:
        """Make the authority, unless the folder holds one."""
        if self.certificate.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.token_key)
        _openssl("ec", "-in", self.token_key, "-pubout", "-out", self.token_key.with_suffix(".pub"))
        _openssl("req", "-x509", *_NEW_KEY, "-days", _DAYS, "-subj", "/CN=tidegate-cluster", "-keyout",
                 self._key("ca"), "-out", self.certificate)  # fmt: skip

    def issue(
        self, name: str, *, user: str, groups: tuple[str, ...] = (), hosts: tuple[str, ...] = ()
    ) -> tuple[Path, Path]:
        """(certificate, key) of a user, or of a server under `hosts` ("IP:…", "DNS:…"). Made once per `name`."""
        certificate = self.folder / f"{name}.crt"
        if not certificate.exists():
            subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
            usage = ["-addext", "extendedKeyUsage=clientAuth,serverAuth", "-addext", "basicConstraints=CA:FALSE"]
            if hosts:
                usage += ["-addext", f"subjectAltName={','.join(hosts)}"]
            _openssl("req", "-x509", *_NEW_KEY, "-days", _DAYS, "-subj", subject, *usage, "-CA", self.certificate,
                     "-CAkey", self._key("ca"), "-keyout", self._key(name), "-out", certificate)  # fmt: skip
        return certificate, self._key(name)

    def kubeconfig(
        self, path: Path, server: str, *, user: str, groups: tuple[str, ...] = (), certificate: str | None = None
    ) -> Path:
        """Write a kubeconfig for a user with a certificate of theirs, kept as `certificate` (default: the path's stem)."""
        signed, key = self.issue(certificate or path.stem, user=user, groups=groups)
        credentials = {"client-certificate-data": _encoded(signed), "client-key-data": _encoded(key)}
        return self.write_kubeconfig(path, server, user, credentials)

    def write_kubeconfig(
        self, path: Path, server: str, user: str, credentials: dict[str, str], namespace: str = "default"
    ) -> Path:
        """Write a kubeconfig with any `credentials` that a kubeconfig's user may have, such as {"token": …}."""
        cluster = {"server": server, "certificate-authority-data": _encoded(self.certificate)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tidegate", "cluster": cluster}],
            "users": [{"name": user, "user": credentials}],
            "contexts": [
                {"name": "tidegate", "context": {"cluster": "tidegate", "user": user, "namespace": namespace}}
            ],
            "current-context": "tidegate",
        }
        path.touch(0o600)
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return path

    def _key(self, name: str) -> Path:
        return self.folder / f"{name}.key"


def _openssl(*words: str | Path) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {words[0]} failed: {done.stderr.strip()}")


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()

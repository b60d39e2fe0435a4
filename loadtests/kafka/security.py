"""What a broker's further listeners ask of clients: passwords, tokens, certificates, in all the usual mixtures.

One broker opens them all at once, so that one start serves every test. The certificates are made anew at run time.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

SASL = "SASL"
"""Passwords and tokens over plain TCP."""
SASL_TLS = "SASLTLS"
"""Passwords and tokens inside TLS."""
TLS = "TLS"
"""TLS, open to everyone."""
MUTUAL_TLS = "MUTUALTLS"
"""TLS for clients that show a certificate of the same authority."""

PROTOCOLS = {SASL: "SASL_PLAINTEXT", SASL_TLS: "SASL_SSL", TLS: "SSL", MUTUAL_TLS: "SSL"}
"""Listener → Kafka's security protocol."""
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
_LOGIN = "org.apache.kafka.common.security"


@dataclass(frozen=True, slots=True)
class Security:
    """One user for every mechanism; OAUTHBEARER takes any unsigned token of that shape (never so in production)."""

    user: str = "tidegate"
    password: str = "tide-and-gate"


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: the authority, the broker's pair and a client's pair signed by it."""

    folder: Path

    @property
    def authority(self) -> Path:
        """What a client trusts."""
        return self.folder / "ca.crt"

    @property
    def server(self) -> Path:
        """Key and certificate of the broker, for localhost and 127.0.0.1, in one file."""
        return self.folder / "server.pem"

    @property
    def client_certificate(self) -> Path:
        """What a client shows to the MUTUALTLS listener."""
        return self.folder / "client.crt"

    @property
    def client_key(self) -> Path:
        """Its private key, without a password."""
        return self.folder / "client.key"

    async def create(self) -> None:
        """Make them all with the `openssl` command, valid for a day; those that are there already stay."""
        if self.server.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self._openssl(
            "req", "-x509", *_NEW_KEY, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test authority"
        )
        for name, extension in (
            ("server", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
            ("client", "keyUsage=digitalSignature"),
        ):
            await self._openssl(
                "req", "-x509", *_NEW_KEY, "-CA", "ca.crt", "-CAkey", "ca.key", "-keyout", f"{name}.key",
                "-out", f"{name}.crt", "-subj", f"/CN={name}", "-addext", extension, "-addext", "basicConstraints=CA:FALSE",
            )  # fmt: skip
        both = (self.folder / "server.key").read_text() + (self.folder / "server.crt").read_text()
        self.server.write_text(both)

    async def _openssl(self, *words: str) -> None:
        process = await asyncio.create_subprocess_exec(
            "openssl",
            *words,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"openssl {' '.join(words)}: {said.decode(errors='replace')}")


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", "-sha256")


def properties(security: Security, certificates: Certificates) -> dict[str, str]:
    """Server properties of the four listeners."""
    found = {
        "sasl.enabled.mechanisms": ",".join(MECHANISMS),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificates.server),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates.authority),
        f"listener.name.{MUTUAL_TLS.lower()}.ssl.client.auth": "required",
    }
    logins = {
        "plain": f'{_LOGIN}.plain.PlainLoginModule required user_{security.user}="{security.password}";',
        "scram-sha-256": f"{_LOGIN}.scram.ScramLoginModule required;",
        "scram-sha-512": f"{_LOGIN}.scram.ScramLoginModule required;",
        "oauthbearer": f'{_LOGIN}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";',
    }
    for listener in (SASL, SASL_TLS):
        for mechanism, login in logins.items():
            found[f"listener.name.{listener.lower()}.{mechanism}.sasl.jaas.config"] = login
    return found


def scram_users(security: Security) -> list[str]:
    """The flags that make a new broker's metadata know the user (`StorageTool format`)."""
    return [
        f"--add-scram={mechanism}=[name={security.user},password={security.password}]"
        for mechanism in MECHANISMS
        if mechanism.startswith("SCRAM")
    ]


def unsigned_token(subject: str, now: float, lifetime_seconds: float = 3600) -> str:
    """A token the OAUTHBEARER listeners take: a JWS with algorithm `none` (RFC 7515 §A.5). `now` in Unix seconds."""
    claims = {"sub": subject, "iat": now, "exp": now + lifetime_seconds}
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."

"""How replicas that speak TLS are known, and what they are shown. The gateway and the mirror do it alike.

Certificates are always verified, name and all: there is no way to turn that off.
"""

from __future__ import annotations

import ssl

from router.contract.errors import InvalidSpec, Problem


class Trust:
    """Three PEM files, empty where they are not given; contexts are made of them when somebody needs one."""

    def __init__(self, replica_ca: str = "", replica_cert: str = "", replica_key: str = "") -> None:
        self._ca = replica_ca
        self._cert = replica_cert
        self._key = replica_key
        self._contexts: dict[str, ssl.SSLContext] = {}

    def check(self) -> None:
        """Raises `InvalidSpec`, by the flags' names, for what will not do."""
        if bool(self._cert) != bool(self._key):
            missing, given = ("--replica-key", "--replica-cert") if self._cert else ("--replica-cert", "--replica-key")
            raise InvalidSpec([Problem(missing, f"must be given beside {given}: the other file of the pair")])
        if self._ca or self._cert:
            self.context("http/1.1")

    def context(self, protocol: str) -> ssl.SSLContext:
        """For connections on which `protocol` (ALPN's name) will be spoken. Raises `InvalidSpec`."""
        found = self._contexts.get(protocol)
        if found is None:
            found = self._contexts[protocol] = self._made()
            found.set_alpn_protocols([protocol])
        return found

    def _made(self) -> ssl.SSLContext:
        for flag, path in (("--replica-ca", self._ca), ("--replica-cert", self._cert), ("--replica-key", self._key)):
            _check_readable(flag, path)
        try:
            context = ssl.create_default_context(cafile=self._ca or None)
        except ssl.SSLError:
            raise InvalidSpec([Problem("--replica-ca", "must hold certificates in PEM", self._ca)]) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._cert:
            self._show(context)
        return context

    def _show(self, context: ssl.SSLContext) -> None:
        def ask() -> str:  # without it, OpenSSL would ask on the terminal
            raise InvalidSpec([Problem("--replica-key", "must hold a key without a password", self._key)])

        try:
            context.load_cert_chain(self._cert, self._key, ask)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                message = f"is not the key of the certificate in {self._cert}"
                raise InvalidSpec([Problem("--replica-key", message, self._key)]) from None
            message = f"must hold a certificate, and --replica-key its key, in PEM: {error.reason or error}"
            raise InvalidSpec([Problem("--replica-cert", message, self._cert)]) from None


def _check_readable(flag: str, path: str) -> None:
    """The ssl module does not say which file it could not read."""
    if path:
        try:
            with open(path, "rb") as file:
                file.read(1)
        except OSError as error:
            raise InvalidSpec([Problem(flag, f"cannot be read: {error.strerror}", path)]) from None

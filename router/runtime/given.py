"""Variables of the environment that share a prefix, and the secrets and certificates in the files that they name.

Everything that is missing or contradicts itself is collected, so that a person sees all of it at once. Secrets never
stand in a message or in a `repr`. Certificates are always verified: there is no way to turn that off.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from router.contract.errors import Problem

TLS_SETTINGS = ("CA_FILE", "CERT_FILE", "KEY_FILE")


class Secret(str):
    """Text that shows itself to nobody who prints what it is in."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secret>"


class Given:
    """The variables that are set; an empty one counts as absent. Collects what is wrong with them."""

    def __init__(self, prefix: str, environ: Mapping[str, str]) -> None:
        self.prefix = prefix
        self.problems: list[Problem] = []
        self._environ = environ

    def text(self, name: str) -> str:
        """The value of `name`, which stands without the prefix here; empty when it is not set."""
        return self._environ.get(self.prefix + name, "")

    def wrong(self, name: str, message: str, value: str | None = None, suggestion: str | None = None) -> None:
        """Note a problem with `name`."""
        self.problems.append(Problem(self.prefix + name, message, value, suggestion))

    def required(self, name: str, reason: str) -> str:
        """The value of `name`, which must be there."""
        if not self.text(name):
            self.wrong(name, f"must be set {reason}")
        return self.text(name)

    def secret(self, name: str, reason: str) -> Secret:
        """The value of `name`, or the content of the file that `name`_FILE names; one of them must be set."""
        if not self.text(name) and not self.text(f"{name}_FILE"):
            self.wrong(name, f"or {self.prefix}{name}_FILE must be set {reason}")
        return self.optional_secret(name)

    def optional_secret(self, name: str) -> Secret:
        """The same where it may be absent: empty then."""
        value, path = self.text(name), self.text(f"{name}_FILE")
        if value and path:
            self.wrong(name, f"contradicts {self.prefix}{name}_FILE: set one of them")
        elif path:
            value = self.content(f"{name}_FILE")
        return Secret(value)

    def content(self, name: str) -> str:
        """The text in the file that `name` names, without its last line break; not empty unless it is reported."""
        path = self.text(name)
        try:
            with open(path, encoding="utf-8") as file:
                content = file.read().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
            self.wrong(name, f"names a file that cannot be read: {reason}", path)
            return ""
        if not content:
            self.wrong(name, "names a file that is empty", path)
        return content

    def exclude(self, names: tuple[str, ...], message: str) -> None:
        """`names` may not be set, as `message` explains."""
        for name in names:
            if self.text(name):
                self.wrong(name, message)


def client_context(given: Given) -> ssl.SSLContext | None:
    """Verifies the server by the system's authorities or those in CA_FILE alone, and shows it CERT_FILE where it is set.

    None when something is wrong, which is noted in `given`.
    """
    return _context(given, ssl.Purpose.SERVER_AUTH)


def server_context(given: Given) -> ssl.SSLContext | None:
    """Shows clients CERT_FILE; where CA_FILE is set, lets in only those whose certificate is signed by it.

    None when something is wrong, which is noted in `given`.
    """
    context = _context(given, ssl.Purpose.CLIENT_AUTH)
    if context is not None and given.text("CA_FILE"):
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _context(given: Given, purpose: ssl.Purpose) -> ssl.SSLContext | None:
    if given.text("KEY_FILE") and not given.text("CERT_FILE"):
        given.wrong("CERT_FILE", f"must name the certificate that belongs to {given.prefix}KEY_FILE")
    readable = [_is_readable(given, name) for name in TLS_SETTINGS if given.text(name)]
    if not all(readable):
        return None
    try:
        context = ssl.create_default_context(purpose, cafile=given.text("CA_FILE") or None)
    except ssl.SSLError:
        given.wrong("CA_FILE", "must hold certificates in PEM", given.text("CA_FILE"))
        return None
    if given.text("CERT_FILE"):
        _load_certificate(context, given)
    return context


def _is_readable(given: Given, name: str) -> bool:
    """The ssl module does not say which file it could not read."""
    try:
        with open(given.text(name), "rb") as file:
            file.read(1)
    except OSError as error:
        given.wrong(name, f"names a file that cannot be read: {error.strerror}", given.text(name))
        return False
    return True


class _Encrypted(Exception):
    """The private key asks for a password."""


def _load_certificate(context: ssl.SSLContext, given: Given) -> None:
    def ask() -> str:  # without it, OpenSSL would ask on the terminal
        raise _Encrypted

    key_name = "KEY_FILE" if given.text("KEY_FILE") else "CERT_FILE"
    try:
        context.load_cert_chain(given.text("CERT_FILE"), given.text("KEY_FILE") or None, ask)
    except _Encrypted:
        fix = "openssl pkey -in <this file> -out <another>, readable by its owner alone"
        given.wrong(key_name, f"must hold a key without a password: {fix}", given.text(key_name))
    except ssl.SSLError as error:
        reason = "the key does not belong to the certificate" if error.reason == "KEY_VALUES_MISMATCH" else error.reason
        given.wrong("CERT_FILE", f"must hold a certificate and its key in PEM ({reason})", given.text("CERT_FILE"))

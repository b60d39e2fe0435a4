"""The certificates that are served: which one a caller is shown, and how new ones are taken.

One context opens every connection and keeps the secret of session tickets; the certificate is chosen by the name that the
caller asks for, so exchanging certificates touches no connection. Files are looked at every second; what has changed and
then stood still for one look is tried, and taken if it is sound.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Sequence
from pathlib import Path

from router.contract.errors import InvalidSpec, Problem
from router.gateway.certificates import BadPair, Certificate, Pair, Print, bare_context, fingerprint, load, pairs_in

_LOG = logging.getLogger(__name__)
LOOK_SECONDS = 1.0
DEFAULT = "default"
"""The pair of a folder that serves whoever asks for no name or an unknown one, where no other default is given."""
_SOON_SECONDS = 7 * 86400


class Certificates:
    """All that are served, by the names that are asked for."""

    def __init__(self, default: Pair | None, folder: Path | None, protocols: Sequence[str]) -> None:
        """Loads everything; `protocols` are for ALPN, the preferred one first. Raises `InvalidSpec` with every problem, by the flags' names."""
        self._default = default
        self._folder = folder
        self._protocols = tuple(protocols)
        self._loaded: dict[Pair, Certificate] = {}
        self._seen: dict[Pair, Print] = {}
        """As the files were when they were last tried."""
        self._moving: dict[Pair, Print] = {}
        """As they were at the last look, where that was different."""
        self.fallback: ssl.SSLContext | None = None
        self._exact: dict[str, ssl.SSLContext] = {}
        self._below: dict[str, ssl.SSLContext] = {}
        """Wildcards, by what stands behind their `*.`."""
        self.front = bare_context(self._protocols)
        self.front.sni_callback = self._choose
        self._load_first()

    def find(self, name: str) -> ssl.SSLContext | None:
        """Whose certificate is for `name`; None where none is."""
        name = name.lower().rstrip(".")
        return self._exact.get(name) or self._below.get(name.partition(".")[2])

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> int | None:
        context = (self.find(name) if name else None) or self.fallback
        if context is None:
            return int(ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)
        connection.context = context
        return None

    # Files ----------------------------------------------------------------------------------------------------------

    def _pairs(self) -> list[Pair]:
        found = [self._default] if self._default is not None else []
        return found + (list(pairs_in(self._folder)) if self._folder is not None else [])

    def _load_first(self) -> None:
        problems: list[Problem] = []
        try:
            pairs = self._pairs()
        except BadPair as error:
            raise InvalidSpec([Problem("--tls-dir", error.reason, str(error.file))]) from None
        for pair in pairs:
            self._seen[pair] = fingerprint(pair)
            try:
                self._loaded[pair] = load(pair, self._protocols)
            except BadPair as error:
                flag = "--tls-dir" if pair.name else "--tls-key" if error.file == pair.key else "--tls-cert"
                problems.append(Problem(flag, error.reason, str(error.file)))
        if not pairs:
            message = "holds no certificate: put NAME.crt and NAME.key there, or NAME/tls.crt and NAME/tls.key"
            problems.append(Problem("--tls-dir", message, str(self._folder)))
        if problems:
            raise InvalidSpec(problems)
        self._arrange()

    def look(self) -> list[Pair]:
        """Which pairs have changed and then stood still since the last look. Reads the file system, changes no choice."""
        try:
            pairs = self._pairs()
        except BadPair as error:
            _LOG.error("certificates cannot be looked for", extra={"file": str(error.file), "problem": error.reason})
            return []
        for gone in self._seen.keys() - set(pairs):
            del self._seen[gone]
            self._moving.pop(gone, None)
        now = {pair: fingerprint(pair) for pair in pairs}
        changed = {pair: mark for pair, mark in now.items() if self._seen.get(pair) != mark}
        still = [pair for pair, mark in changed.items() if self._moving.get(pair) == mark]
        self._moving = changed
        for pair in still:
            self._seen[pair] = changed[pair]
        return still

    def read(self, changed: list[Pair]) -> dict[Pair, Certificate]:
        """Those that are sound, with the others' as they were before; what is not sound is logged."""
        found = {pair: one for pair, one in self._loaded.items() if pair in self._seen}
        for pair in changed:
            try:
                found[pair] = load(pair, self._protocols)
            except BadPair as error:
                what = "the one before it stays" if pair in found else "it is not served"
                said = {"file": str(error.file), "problem": error.reason}
                _LOG.error("a new certificate is not sound: %s", what, extra=said)
        return found

    def take(self, certificates: dict[Pair, Certificate]) -> None:
        """Show these from now on. Connections that are open stay as they are."""
        fresh = [one for pair, one in certificates.items() if self._loaded.get(pair) is not one]
        gone = [pair for pair in self._loaded if pair not in certificates]
        self._loaded = certificates
        self._arrange()
        for one in fresh:
            _LOG.info("a new certificate is served", extra={"file": str(one.pair.chain), "hosts": " ".join(one.hosts)})
        for pair in gone:
            _LOG.info("a certificate is served no more: its files are gone", extra={"file": str(pair.chain)})

    def _arrange(self) -> None:
        """Of two for the same name the one that is valid for longer."""
        exact: dict[str, ssl.SSLContext] = {}
        below: dict[str, ssl.SSLContext] = {}
        fallback: ssl.SSLContext | None = None
        for one in sorted(self._loaded.values(), key=lambda one: one.expires):
            for host in one.hosts:
                star, _, rest = host.partition(".")
                if star == "*":
                    below[rest] = one.context
                else:
                    exact[host] = one.context
            if one.pair == self._default or (self._default is None and one.pair.name == DEFAULT):
                fallback = one.context
            self._warn(one)
        self._exact, self._below, self.fallback = exact, below, fallback

    def _warn(self, one: Certificate) -> None:
        rest = one.expires - time.time()
        if rest < _SOON_SECONDS:
            text = "a certificate has expired" if rest < 0 else "a certificate expires soon"
            _LOG.warning(text, extra={"file": str(one.pair.chain), "days": round(rest / 86400, 1)})
        if not one.hosts and one.pair.name not in ("", DEFAULT):
            _LOG.warning("a certificate names no host: it is never chosen", extra={"file": str(one.pair.chain)})

    async def follow(self) -> None:
        """Look at the files for ever. They are read beside the loop, which serves on meanwhile."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            known = len(self._seen)
            changed = await asyncio.to_thread(self.look)
            if changed or len(self._seen) != known:
                self.take(await asyncio.to_thread(self.read, changed))


def served(cert: str, key: str, folder: str, protocols: Sequence[str]) -> Certificates | None:
    """What the three flags ask for, empty where they are not given; None where TLS is off. `protocols` are for ALPN.

    Raises `InvalidSpec` with every problem, by the flags' names.
    """
    for given, flag, missing in ((cert, "--tls-cert", "--tls-key"), (key, "--tls-key", "--tls-cert")):
        if given and not (cert and key):
            raise InvalidSpec([Problem(missing, f"must be given beside {flag}: the other file of the pair")])
    if not cert and not folder:
        return None
    default = Pair("", Path(cert), Path(key)) if cert else None
    return Certificates(default, Path(folder) if folder else None, protocols)

"""Which endpoint a request is for: `<endpoint>.<domain>` or one of its hosts, else `/endpoints/<endpoint>/…`.

By host the path stays as it is; by path the prefix is cut off. Host names and endpoint names compare without case,
as in DNS and in Azure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from router.policy.grammar import is_host

Route = TypeVar("Route")

PREFIX = b"/endpoints/"


class Table(Generic[Route]):
    """Every endpoint by its names, lower case, as bytes from the wire."""

    __slots__ = ("hosts", "names")

    def __init__(self, names: Mapping[bytes, Route], hosts: Mapping[bytes, Route]) -> None:
        self.names = names
        self.hosts = hosts

    def find(self, target: bytes, host: bytes) -> tuple[Route | None, bytes]:
        """(route, target for the replica); no route where nothing matches.

        `target` is the request target in origin form, `host` the Host header's value.
        """
        route = self.hosts.get(host)
        if route is None and host:
            route = self.hosts.get(host_name(host))
        if route is not None:
            return route, target
        if not target.startswith(PREFIX):
            return None, target
        name, slash, rest = target[len(PREFIX) :].partition(b"/")
        query = name.find(b"?")
        if query >= 0:
            # `/endpoints/name?a=b/c`: the slash belongs to the query.
            name, rest = name[:query], b"?" + target[len(PREFIX) + query + 1 :]
            slash = b"/"
        return self.names.get(name) or self.names.get(name.lower()), (slash or b"/") + rest


def host_name(host: bytes) -> bytes:
    """The name in a Host value: lower case, without port and without a closing dot."""
    if host.startswith(b"["):
        return host.partition(b"]")[0].lower() + b"]"
    return host.partition(b":")[0].lower().rstrip(b".")


_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


def origin_form(target: bytes, host: bytes) -> tuple[bytes, bytes] | None:
    """(origin-form target, host) of a request target in origin or absolute form; None for any other form.

    Also None where an absolute target names another host than the Host header: neighbours may go by one or the other.
    """
    if target.startswith(b"/"):
        return target, host
    scheme, separator, rest = target.partition(b"://")
    port = _DEFAULT_PORTS.get(scheme.lower())
    if not separator or port is None:
        return None
    authority, slash, path = rest.partition(b"/")
    authority, question, query = authority.partition(b"?")
    if not is_host(authority) or (host and _without_port(authority, port) != _without_port(host, port)):
        return None
    if question:
        return b"/?" + query + slash + path, authority
    return slash + path or b"/", authority


def _without_port(authority: bytes, port: bytes) -> bytes:
    """In lower case, without the port that is meant where none is written."""
    return authority.lower().removesuffix(b":").removesuffix(port)

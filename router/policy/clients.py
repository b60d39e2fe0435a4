"""Who one client is, by its address: IPv4 by the whole of it, IPv6 by its /64, which is what one customer gets."""

from __future__ import annotations

import ipaddress

_NETWORK_BITS = 64


def client_of(address: str) -> str:
    """What all addresses of one client have in common; an address that is none stands for itself."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ipaddress.AddressValueError:
        return address
    mapped = found.ipv4_mapped
    if mapped is not None:
        return str(mapped)
    return str(ipaddress.IPv6Address(int(found) >> _NETWORK_BITS << _NETWORK_BITS)) + f"/{_NETWORK_BITS}"

"""Whose a network address is: under this name it has its fair share, and its wrong tokens are counted."""

from __future__ import annotations

import ipaddress

LOOPBACK = "ip:loopback"
# Of IPv6: one household has all the rest.
NETWORK_BITS = 64


def origin(name: str) -> str:
    """One name for all the addresses that one machine can take at will: `ip:` and an address become `ip:` and the IPv4
    address, also of one that is mapped into IPv6, the network of an IPv6 address, or `ip:loopback`. What is no such
    name stays as it is."""
    kind, _, host = name.partition(":")
    if kind != "ip":
        return name
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return name
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback:
        return LOOPBACK
    if isinstance(address, ipaddress.IPv6Address):
        return f"ip:{ipaddress.ip_network((address.packed, NETWORK_BITS), strict=False)}"
    return f"ip:{address}"

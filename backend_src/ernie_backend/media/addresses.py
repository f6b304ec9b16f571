"""Which network addresses media may be fetched from; resolves nothing and opens nothing."""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_METADATA = frozenset(map(ipaddress.ip_address, ("169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254")))
"""Where clouds hand credentials to whoever asks: AWS, Google and others; Azure (a public address); Alibaba; Oracle; AWS over IPv6."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_RELAYS: tuple[Network, ...] = tuple(map(ipaddress.ip_network, ("192.88.99.0/24", "2001::/32", "2002::/16")))
"""6to4 and Teredo: an address of these hides another one."""
_PRIVATE: tuple[Network, ...] = tuple(
    map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "100.64.0.0/10", "fc00::/7", "::1/128"))
)


def is_allowed(text: str, *, allow_private: bool) -> bool:
    """Whether to connect to an address. `allow_private` adds loopback, private, unique-local and shared (CGNAT) ones.

    Never allowed: cloud metadata, link-local, multicast, unspecified, reserved and relayed addresses, and whatever is no address.
    """
    try:
        address = _embedded(ipaddress.ip_address(text))
    except ValueError:
        return False
    if address in _METADATA:
        return False
    return _is_public(address) or (allow_private and _is_in(address, _PRIVATE))


def _embedded(address: Address) -> Address:
    """The IPv4 address within a mapped (::ffff:a.b.c.d) or a NAT64 one, which is where the packets go."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_public(address: Address) -> bool:
    if _is_in(address, _RELAYS) or address.is_multicast or address.is_reserved or not address.is_global:
        return False
    return address in _GLOBAL_UNICAST or isinstance(address, ipaddress.IPv4Address)


def _is_in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)

"""Addresses: which of them a row may make this process connect to."""

import ipaddress

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(*texts: str) -> tuple[_Network, ...]:
    return tuple(map(ipaddress.ip_network, texts))


#: IPv4 that is not the public internet. `is_global` alone would let 168.63.129.16, 192.0.0.192 and 224.0.0.1 pass.
_SPECIAL_V4 = _networks(
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",  # Azure's wire server
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",  # 192.0.0.192 is Oracle's metadata
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
#: All of IPv6 that is given out. Outside it lie loopback, link-local, unique local, multicast, and the forms that hold
#: an IPv4 address: ::ffff:0:0/96, ::/96, 64:ff9b::/96, 64:ff9b:1::/48.
_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
_SPECIAL_V6 = _networks(
    "2001::/23",  # Teredo holds an IPv4 address; ORCHID, benchmarks
    "2001:db8::/32",
    "2002::/16",  # 6to4 holds an IPv4 address
    "2620:4f:8000::/48",
    "3ffe::/16",
    "3fff::/20",
)
#: What `allow_private` opens; everything else that is not public stays closed.
_PRIVATE = _networks(
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
)
#: Where clouds hand out credentials: closed whatever is allowed.
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254",  # AWS, Azure, Google and most others
            "169.254.170.2",  # AWS containers
            "169.254.170.23",  # AWS pods
            "169.254.0.23",  # Tencent
            "169.254.42.42",  # Scaleway
            "100.100.100.200",  # Alibaba
            "168.63.129.16",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",  # Google
            "fd00:42::42",  # Scaleway
        ),
    )
)


def may_connect(address: str, *, allow_private: bool = False) -> bool:
    """Whether `address`, as getaddrinfo writes it, is public; or private, where that is allowed."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if parsed in _METADATA or getattr(parsed, "scope_id", None):
        return False
    return _is_public(parsed) or (allow_private and any(parsed in network for network in _PRIVATE))


def _is_public(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _SPECIAL_V4)
    return address in _UNICAST_V6 and not any(address in network for network in _SPECIAL_V6)

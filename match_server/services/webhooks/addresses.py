"""The network addresses that webhooks may call.

An administrator sets the URL, but the server calls it from inside its network. Many receivers are
in the local network (Home Assistant, Node-RED), so private addresses are allowed unless the
settings forbid them. Never allowed are addresses where clouds hand out credentials of the machine
(link-local addresses and some others), and addresses that carry another address inside.
"""

import ipaddress
import socket
from urllib.parse import SplitResult

from shared.errors import Unavailable

_PORTS = {"http": 80, "https": 443}


def port_of(parts: SplitResult) -> int:
    return parts.port or _PORTS[parts.scheme]


def addresses_of(parts: SplitResult, *, private: bool) -> list[str]:
    """The addresses of the host of a URL that may be called. The caller connects to one of them.

    So the name is resolved only once, and a name server cannot return another address later. Raises
    Unavailable if the name cannot be resolved, Refused if none of its addresses is allowed.
    """
    try:
        resolved = socket.getaddrinfo(parts.hostname, port_of(parts), type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(f"the host name cannot be resolved: {error.strerror}") from error
    except UnicodeError as error:
        raise Refused("the host name is invalid") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in resolved))
    allowed = [address for address in addresses if _allowed(address, private=private)]
    if not allowed:
        raise Refused("no address of the host may be called by a webhook")
    return allowed


class Refused(Exception):
    """An address that may not be called."""


def _allowed(text: str, *, private: bool) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if isinstance(address, ipaddress.IPv6Address) and address in _TRANSLATED:
        address, private = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF), False
    if any(address in network for network in _NEVER):
        return False
    if any(address in network for network in _PRIVATE):
        return private
    globally = address.version == 4 or address in _GLOBAL
    return globally and address.is_global and not address.is_multicast


def _networks(*names: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(name) for name in names)


_PRIVATE = _networks(
    "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7",
    "100.64.0.0/10",  # of providers and overlay networks
)  # fmt: skip
_NEVER = _networks(
    # Where clouds hand out credentials (besides 169.254.169.254, which is link-local).
    "100.100.100.200/32", "192.0.0.0/24", "168.63.129.16/32", "fd00:ec2::/32", "fd20:ce::254/128",
    # Addresses with another address inside: 6to4, Teredo.
    "2002::/16", "2001::/32",
)  # fmt: skip
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")  # NAT64: an IPv4 address is inside
_GLOBAL = ipaddress.IPv6Network("2000::/3")

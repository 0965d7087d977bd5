"""Where a webhook may lead: to http and https, and never to what only a machine itself can see.

An administrator names the address, but the server is who calls it, from inside the network. Many
receivers stand at home (Home Assistant, Node-RED), so private addresses are allowed unless the
settings forbid them. Never is where clouds give out the machine's credentials (link-local addresses
and some others), nor what only carries another address.
"""

import ipaddress
import socket
from urllib.parse import SplitResult

from shared.errors import Unavailable

_PORTS = {"http": 80, "https": 443}


def port_of(parts: SplitResult) -> int:
    return parts.port or _PORTS[parts.scheme]


def addresses_of(parts: SplitResult, *, private: bool) -> list[str]:
    """The addresses of a URL's host that may be called; the caller connects to one of these.

    So the name is looked up once: one that answers otherwise a moment later gains nothing. Raises
    Unavailable when the name cannot be looked up, Refused when it leads where nothing may lead.
    """
    try:
        found = socket.getaddrinfo(parts.hostname, port_of(parts), type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(f"the host name cannot be looked up: {error.strerror}") from error
    except UnicodeError as error:
        raise Refused("the host name is none") from error
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    allowed = [address for address in addresses if _allowed(address, private=private)]
    if not allowed:
        raise Refused("the host's addresses are none that a webhook may call")
    return allowed


class Refused(Exception):
    """An address that is not called, whatever it would answer."""


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
    "100.64.0.0/10",  # of providers, and of overlay networks at home
)  # fmt: skip
_NEVER = _networks(
    # Where clouds give out credentials (besides 169.254.169.254, which is link-local).
    "100.100.100.200/32", "192.0.0.0/24", "168.63.129.16/32", "fd00:ec2::/32", "fd20:ce::254/128",
    # What carries another address inside: 6to4, Teredo.
    "2002::/16", "2001::/32",
)  # fmt: skip
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")  # NAT64: an IPv4 address is inside
_GLOBAL = ipaddress.IPv6Network("2000::/3")

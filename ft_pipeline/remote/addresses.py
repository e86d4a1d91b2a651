"""Which addresses a source may have.

A public server must not lead this machine to services that only this machine can reach:

- Link-local addresses (169.254.169.254 has the credentials of a cloud machine) are never asked.
- A redirect never leads to a more private address: not from a public one to a private one, and not to this machine.
- Private addresses may be named in a YAML, because companies have servers there, but only with https.
- This machine (loopback) may be named, also with plain http.
"""

import ipaddress
import socket
from enum import IntEnum

from ft_pipeline.errors import UserError


class Reach(IntEnum):
    """From where an address can be reached, the most private last."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2


def reach_of(host: str, port: int) -> Reach:
    """Return from where a host can be reached, by all addresses of its name.

    PUBLIC if the name is unknown here: a proxy may know it. Raises UserError for link-local addresses.
    """
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError:
        return Reach.PUBLIC
    addresses = [ipaddress.ip_address(str(address).partition("%")[0]) for address in found]
    mapped = [getattr(address, "ipv4_mapped", None) or address for address in addresses]
    for address in mapped:
        if address.is_link_local or address.is_multicast or address.is_unspecified:
            raise UserError(f"{host} has the address {address}, which is not asked. Name a server that has the file.")
    return max((_reach_of_address(address) for address in mapped), default=Reach.PUBLIC)


def _reach_of_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Reach:
    if address.is_loopback:
        return Reach.LOOPBACK
    return Reach.PUBLIC if address.is_global else Reach.PRIVATE

"""Whose request it is, where proxies that are trusted pass it on."""

import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

_Address = IPv4Address | IPv6Address
_TELL = (b"x-forwarded-for", b"forwarded")
_FOR = re.compile(r'(?:^|[;,])\s*for="?(?:\[([^\]]*)\]|([^;,":]*))', re.IGNORECASE)


def networks(text: str) -> str:
    """The same text. Raises ValueError where `Proxies` would."""
    Proxies(text)
    return text


class Proxies:
    """Those whose word is taken for whom they forward."""

    def __init__(self, networks: str) -> None:
        """`networks` as in `CHOREO_TRUSTED_PROXIES`: `10.0.0.0/8,127.0.0.1`. Raises ValueError."""
        self._networks: Sequence[IPv4Network | IPv6Network] = [
            ip_network(one.strip()) for one in networks.split(",") if one.strip()
        ]

    def client(self, peer: str, headers: Mapping[bytes, bytes]) -> str:
        """The last address in the chain that is no proxy of ours: who stands before it may say anything.

        The peer's own where it is no proxy, or says it in two ways: then a client may have said one of them.
        """
        address = address_of(peer)
        said = {name: headers[name].decode("latin-1") for name in _TELL if name in headers}
        if len(said) != 1 or not self._trusts(address):
            return peer
        ((name, text),) = said.items()
        chain = (
            text.split(",") if name == b"x-forwarded-for" else ["".join(one) for one in _FOR.findall(text)]
        )
        for one in map(address_of, reversed(chain)):
            if one is None:
                break
            address = one
            if not self._trusts(one):
                break
        return str(address)

    def _trusts(self, address: _Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def address_of(text: str) -> _Address | None:
    """An IPv4 address that is written as IPv6 is the one it is."""
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address

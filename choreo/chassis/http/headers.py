"""A request's headers, read once and to a bound, and the host it names."""

import re
from collections.abc import Iterable, Mapping, Sequence

from choreo.chassis.http.problems import Problem, malformed

MOST = 100
MOST_BYTES = 32 * 1024
"""Of all names and values."""

_PORT = re.compile(rb":[0-9]*$")


def read(pairs: Sequence[tuple[bytes, bytes]]) -> Mapping[bytes, bytes]:
    """431 where there are too many. Repeated headers are joined as RFC 9110 says, so a second token or key
    never goes unnoticed.
    """
    if len(pairs) > MOST or sum(len(name) + len(value) for name, value in pairs) > MOST_BYTES:
        raise too_large()
    headers: dict[bytes, bytes] = {}
    for name, value in pairs:
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def too_large() -> Problem:
    detail = f"A request may have {MOST} headers, and {MOST_BYTES} bytes of them, at most."
    return Problem(431, "headers_too_large", detail, headers={"Connection": "close"})


class Hosts:
    """The names a service answers to, so that no page of a stranger's reaches one by a name of its own that
    was made to mean this machine (DNS rebinding).
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._ours = frozenset(name.strip().lower().encode() for name in names)

    def check(self, pairs: Sequence[tuple[bytes, bytes]], http_version: str, *, any_name: bool) -> None:
        """400 where not one host is named, 421 where it is a foreign one. HTTP/1.0 need name none."""
        hosts = [value for name, value in pairs if name == b"host"]
        if len(hosts) > 1 or (not hosts and http_version != "1.0"):
            raise malformed("host_malformed", "A request names one Host.")
        if hosts and not any_name and _PORT.sub(b"", hosts[0]).lower() not in self._ours:
            raise Problem(421, "misdirected_request", "This is no host of that name (see CHOREO_HOSTS).")

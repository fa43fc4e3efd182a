"""How many files, and so connections, a process may have open."""

import resource

_MANY = 10_240
"""Where macOS ends."""


def allow_many() -> int:
    """Raises the soft limit, often 256 or 1024, as far as the hard one allows, and says where it is now.

    As the Go runtime does: whoever waits, and whoever is turned away, holds a connection meanwhile.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = _MANY if hard == resource.RLIM_INFINITY else min(_MANY, hard)
    if soft != resource.RLIM_INFINITY and soft < many:
        resource.setrlimit(resource.RLIMIT_NOFILE, (many, hard))
        soft = many
    return many if soft == resource.RLIM_INFINITY else soft

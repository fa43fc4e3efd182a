"""Several processes of one service: how many, and what each is called."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from choreo.chassis.registry import service_names
from choreo.errors import UsageError

MOST = 9
"""Of one service: so all its ports stay within the thousand that begins at the port base."""


@dataclass(frozen=True, order=True)
class Replica:
    """The n-th process of a service, counted from 1."""

    service: str
    number: int

    @property
    def name(self) -> str:
        """The first is called like the service, whether or not there are others."""
        return self.service if self.number == 1 else f"{self.service}-{self.number}"


def read_counts(text: str) -> dict[str, int]:
    """`order=2,billing=3`, by service. Raises `UsageError`."""
    counts: dict[str, int] = {}
    for pair in text.split(",") if text else ():
        service, _, count = pair.partition("=")
        if service not in service_names():
            raise UsageError(f"{pair!r}: not one of {', '.join(service_names())} is before the =.")
        if service in counts:
            raise UsageError(f"{service} is named twice.")
        if not (count.isascii() and count.isdigit() and 1 <= int(count) <= MOST):
            raise UsageError(f"{pair!r}: of a service there may be 1 to {MOST} processes.")
        counts[service] = int(count)
    return counts


def replicas_of(counts: Mapping[str, int]) -> Iterator[Replica]:
    for service, count in counts.items():
        yield from (Replica(service, number) for number in range(1, count + 1))

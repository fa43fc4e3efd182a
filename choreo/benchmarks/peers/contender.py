"""What it takes to be measured beside the others."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from choreo.benchmarks.peers.tables import Tables
from choreo.benchmarks.users import OrderMaker

USERS = 200


class Running(Protocol):
    """One that takes orders: `POST /orders` with the shop's token, body and 202."""

    port: int
    tables: Tables

    @property
    def pids(self) -> Mapping[str, int]:
        """Of everything that works for it, by name."""

    async def makers(self) -> Sequence[OrderMaker]:
        """Of `USERS` users with 1 000 000.00 each. Called once."""

    def kill(self) -> None:
        """SIGKILL to all its programs and to the server that holds its work, at once."""

    def start_again(self) -> None:
        """After `kill`, on what is left. Returns at once."""


class Contender(Protocol):
    """One row of the comparison."""

    @property
    def name(self) -> str: ...

    @property
    def what(self) -> str:
        """What kind of solution it is, in a few words."""

    @property
    def lacks(self) -> str:
        """Which guarantees of the shop it leaves to whoever uses it."""

    def prepare(self, say: Callable[[str], None]) -> None:
        """Whatever has to be fetched or made once. Raises `Unavailable` where that cannot be had."""

    def versions(self) -> Mapping[str, str]:
        """Of what makes the difference. After `prepare`."""

    def running(self, directory: Path) -> AbstractContextManager[Running]:
        """Empty, ready, and gone afterwards; its files are below `directory`. Raises `Unavailable`."""

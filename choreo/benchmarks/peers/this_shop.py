"""The shop itself, as `choreo up` starts it, in one of its styles."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from choreo.benchmarks.peers.contender import USERS
from choreo.benchmarks.peers.servers import KafkaServer
from choreo.benchmarks.peers.tables import Tables
from choreo.benchmarks.users import OrderMaker, register_users
from choreo.demo.client import SHOP
from choreo.operations.acting.throwaway import ThrowawaySystem


@dataclass(frozen=True)
class Shop:
    name: str
    """Of the style, too."""
    what: str
    lacks: str

    def prepare(self, say: Callable[[str], None]) -> None:
        KafkaServer.prepare(say)

    def versions(self) -> Mapping[str, str]:
        return {}

    @contextmanager
    def running(self, directory: Path) -> Iterator["RunningShop"]:
        """Its home is a temporary directory of its own."""
        with ThrowawaySystem(style=self.name) as system:
            system.start()
            yield RunningShop(system)


class RunningShop:
    def __init__(self, system: ThrowawaySystem) -> None:
        self._system = system
        facts = system.run_file
        self._ports = facts["ports"]
        self.port = self._ports["order"]
        urls = facts["owner_urls"]
        self.tables = Tables(urls["order"], urls["billing"], urls["notification"])

    async def makers(self) -> Sequence[OrderMaker]:
        return await register_users(USERS, self._ports, lambda _: None)

    @property
    def pids(self) -> Mapping[str, int]:
        return self._system.pids

    def kill(self) -> None:
        """All of them at once."""
        for service in SHOP:
            os.kill(self.pids[service], signal.SIGKILL)

    def start_again(self) -> None:
        """The supervisor does."""

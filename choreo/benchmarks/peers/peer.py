"""A peer: a few programs in an environment of their own, and the servers they are made for."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import psycopg

from choreo.benchmarks.peers.contender import USERS
from choreo.benchmarks.peers.environment import COMMON, PROGRAMS, environment, home_of, version
from choreo.benchmarks.peers.servers import Server
from choreo.benchmarks.peers.tables import Tables
from choreo.benchmarks.users import OrderMaker, User
from choreo.chassis.database.connection import session
from choreo.chassis.http.auth import generate_key, sign
from choreo.embedded.part import AnswersHttp, Part, Program, accepts_connections, wait_ready
from choreo.embedded.ports import free_ports
from choreo.embedded.postgres import Postgres

DEPOSIT = 1_000_000_00
"""Minor units, as the shop's own users of a measurement have."""
_READY_WITHIN = 60.0

_OPEN = """/* peers.open: accounts with money, as two legs of an entry each */
WITH opened AS (
    INSERT INTO accounts (user_id, balance) SELECT unnest(%(users)s::uuid[]), %(deposit)s RETURNING user_id
)
INSERT INTO ledger (entry_id, side, user_id, kind, amount)
SELECT user_id, side, user_id, 'deposit', sign * %(deposit)s
FROM opened, (VALUES ('customer', 1), ('world', -1)) AS leg (side, sign)"""


@dataclass(frozen=True)
class Peer:
    name: str
    what: str
    lacks: str
    programs: Mapping[str, str]
    """Commands by name, which find the peer's modules; `{port}` is where customers come in, `{services}`
    where Restate does."""
    packages: Sequence[str] = ()
    """Of whose versions the peer is known by."""
    server: type[Server] | None = None
    """Which it needs beside Postgres."""

    def prepare(self, say: Callable[[str], None]) -> None:
        if self.server:
            self.server.prepare(say)
        environment(self.name, say)

    def versions(self) -> Mapping[str, str]:
        packages = {package: version(self.name, package) for package in self.packages}
        return {**packages, **(self.server.version(home_of(self.name)) if self.server else {})}

    @contextmanager
    def running(self, directory: Path) -> Iterator["RunningPeer"]:
        """Killed however the block is left: its data is of no use."""
        peer = RunningPeer(self, directory)
        try:
            peer.start()
            yield peer
        finally:
            peer.end()


class RunningPeer:
    def __init__(self, peer: Peer, directory: Path) -> None:
        self._peer, self._directory, self._home = peer, directory, home_of(peer.name)
        self.port, self._services = free_ports(2)
        self._signing_key = generate_key("peers")
        self._postgres = Postgres(directory / "postgres")
        self._server = peer.server(self._home, directory) if peer.server else None
        self._programs: list[Program] = []

    def start(self) -> None:
        _start(self._parts)  # no program yet
        wait_ready(self._parts, _READY_WITHIN)
        self._make_tables()
        if self._server:
            self._server.once_ready()
        self._programs += [self._program(name, command) for name, command in self._peer.programs.items()]
        _start(self._programs)
        wait_ready(self._programs, _READY_WITHIN)
        if self._server:
            self._server.once_served(self._services)

    def _make_tables(self) -> None:
        self._url, _ = self._postgres.create_service("shop")
        self.tables = Tables(self._url, self._url, self._url)
        with psycopg.connect(**session(self._url)) as conn:
            conn.execute((COMMON / "schema.sql").read_bytes())

    async def makers(self) -> Sequence[OrderMaker]:
        users = [uuid4() for _ in range(USERS)]
        with psycopg.connect(**session(self._url)) as conn:
            conn.execute(_OPEN, {"users": users, "deposit": DEPOSIT})
        return [OrderMaker(self._user(id)) for id in users]

    def _user(self, id: UUID) -> User:
        return User(id, str(id), sign(self._signing_key, id, now=time.time()))

    @property
    def pids(self) -> Mapping[str, int]:
        return {part.name: part.running.pid for part in self._parts}

    @property
    def _parts(self) -> list[Part]:
        return [self._postgres, *([self._server.part] if self._server else []), *self._programs]

    @property
    def _killed(self) -> list[Part]:
        """Whatever is the peer's own."""
        return [*([self._server.part] if self._server and self._server.killed else []), *self._programs]

    def kill(self) -> None:
        for part in self._killed:
            part.kill()

    def start_again(self) -> None:
        _start(self._killed)

    def end(self) -> None:
        for part in reversed(self._parts):
            if part.child:
                part.kill()

    def _program(self, name: str, template: str) -> Program:
        command, *words = template.format(port=self.port, services=self._services).split()
        return Program(
            name,
            [self._home / "bin" / command, *words],
            log=self._directory / f"{name}.log",
            probe=self._probe(template),
            env=self._environment(),
        )

    def _probe(self, template: str) -> Callable[[], bool]:
        """Whether it answers, of those that are asked something."""
        if "{port}" in template:
            return AnswersHttp(self.port, "/openapi.json")
        if "{services}" in template:
            return partial(accepts_connections, self._services)
        return lambda: True

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self._home / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": f"{COMMON}:{PROGRAMS / self._peer.name}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "SHOP_DATABASE_URL": self._url,
            "SHOP_PUBLIC_KEY": self._signing_key["x"],
            **(self._server.environment if self._server else {}),
        }


def _start(parts: Sequence[Part]) -> None:
    for part in parts:
        part.start()

"""What a peer may need beside Postgres. On loopback only, and what is answered is on disk."""

import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

from choreo.chassis.kafka.admin.topics import declare_topics
from choreo.embedded.home import cache_directory
from choreo.embedded.kafka import Kafka
from choreo.embedded.part import AnswersHttp, Part, Program
from choreo.embedded.ports import LOOPBACK, free_ports
from choreo.errors import Unavailable


class Server(ABC):
    """One run's, with its files below a directory."""

    part: Part
    environment: Mapping[str, str]
    """What the peer's programs are told of it."""
    killed = True
    """With the peer's programs."""

    @abstractmethod
    def __init__(self, home: Path, directory: Path) -> None:
        """`home` is where the peer's packages are. Not started yet."""

    @staticmethod
    @abstractmethod
    def prepare(say: Callable[[str], None]) -> None:
        """Raises `Unavailable` where it is not to be had."""

    @staticmethod
    @abstractmethod
    def version(home: Path) -> Mapping[str, str]:
        """Nothing, of those whose version all contenders share."""

    def once_ready(self) -> None:  # noqa: B027 - most have nothing to do then
        """Before the programs are started."""

    def once_served(self, services: int) -> None:  # noqa: B027 - nor then
        """When the programs are ready, one of them perhaps on the port `services`."""


class KafkaServer(Server):
    """Everybody's, so it is not killed."""

    killed = False
    _TOPICS, _PARTITIONS = ("orders", "payments"), 12

    def __init__(self, home: Path, directory: Path) -> None:
        port, controller_port = free_ports(2)
        self.part = self._kafka = Kafka(directory / "kafka", port, controller_port, cache=cache_directory())
        self.environment = {
            "SHOP_KAFKA": self._kafka.bootstrap,
            "SHOP_KAFKA_PASSWORD": self._kafka.admin.password,
        }

    @staticmethod
    def prepare(say: Callable[[str], None]) -> None:
        Kafka(Path(), 0, 1, cache=cache_directory(), say=say).prepare()

    @staticmethod
    def version(home: Path) -> Mapping[str, str]:
        return {}

    def once_ready(self) -> None:
        declare_topics(self._kafka.admin, self._TOPICS, self._PARTITIONS)


class RedisServer(Server):
    """The distribution's. What is acknowledged is on disk."""

    def __init__(self, home: Path, directory: Path) -> None:
        (port,) = free_ports(1)
        directory.joinpath("redis").mkdir()
        settings = {
            "bind": LOOPBACK,
            "port": str(port),
            "dir": str(directory / "redis"),
            "appendonly": "yes",
            "appendfsync": "always",
        }
        options = [word for name, value in settings.items() for word in (f"--{name}", value)]
        command = [_redis(), *options, "--save", ""]
        log = directory / "redis.log"
        self.part = Program("Redis", command, log=log, probe=lambda: _answers_ping(port))
        self.environment = {"SHOP_REDIS": f"redis://{LOOPBACK}:{port}/0"}

    @staticmethod
    def prepare(say: Callable[[str], None]) -> None:
        _redis()

    @staticmethod
    def version(home: Path) -> Mapping[str, str]:
        """`Redis server v=7.0.15 sha=...` → `7.0.15`."""
        said = subprocess.run([_redis(), "--version"], capture_output=True, text=True, check=True).stdout
        return {"Redis": said.partition("v=")[2].split()[0]}


class RestateServer(Server):
    """From its npm package. By default its log is synced before it is acknowledged."""

    def __init__(self, home: Path, directory: Path) -> None:
        packages = home / "node_modules" / "@restatedev"
        binaries = sorted(packages.glob("restate-server-*/bin/restate-server"))
        if not binaries:
            raise Unavailable("The npm package of Restate holds no server for this kind of machine.")
        ingress, self._admin, node = free_ports(3)
        settings = {
            "RESTATE_BASE_DIR": str(directory / "restate"),
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_ADVERTISED_HOST": LOOPBACK,
            "RESTATE_INGRESS__BIND_ADDRESS": f"{LOOPBACK}:{ingress}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"{LOOPBACK}:{self._admin}",
            "RESTATE_BIND_ADDRESS": f"{LOOPBACK}:{node}",
            "RESTATE_DISABLE_TELEMETRY": "true",
        }
        self.part = Program(
            "Restate",
            [binaries[0], "--no-logo"],
            log=directory / "restate.log",
            probe=AnswersHttp(ingress, "/restate/health"),
            env=settings,
        )
        self.environment = {"SHOP_RESTATE": f"http://{LOOPBACK}:{ingress}"}

    @staticmethod
    def prepare(say: Callable[[str], None]) -> None:
        """It comes with the peer's packages."""

    @staticmethod
    def version(home: Path) -> Mapping[str, str]:
        package = home / "node_modules" / "@restatedev" / "restate-server" / "package.json"
        return {"Restate server": json.loads(package.read_text())["version"]}

    def once_served(self, services: int) -> None:
        """As `restate deployments register`."""
        body = json.dumps({"uri": f"http://{LOOPBACK}:{services}"}).encode()
        request = urllib.request.Request(
            f"http://{LOOPBACK}:{self._admin}/deployments", body, {"Content-Type": "application/json"}
        )
        try:
            urllib.request.urlopen(request, timeout=20).close()
        except urllib.error.URLError as error:
            raise Unavailable(f"Restate did not take the services: {error}.") from error


def _redis() -> str:
    if not (binary := shutil.which("redis-server")):
        raise Unavailable("redis-server is not here: install the distribution's package of that name.")
    return binary


def _answers_ping(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1) as sock:
            sock.sendall(b"PING\r\n")
            return sock.recv(16).startswith(b"+PONG")
    except OSError:
        return False

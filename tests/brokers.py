"""Where the tests' Kafka comes from: our own, or with `--broker=testcontainers` a Docker engine's."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml

from choreo.chassis.kafka.access import KafkaAccess
from choreo.embedded.kafka import answers
from choreo.embedded.ports import LOOPBACK, free_ports
from choreo.embedded.testing import kafka_for_tests
from choreo.errors import Unavailable

BROKERS = ("embedded", "testcontainers")

_COMPOSE = Path(__file__).parents[1] / "docker-compose.kafka.yml"
_READY_WITHIN = 60.0


class Broker(Protocol):
    """A Kafka that can be taken away, and brought back with all it holds."""

    @property
    def bootstrap(self) -> str: ...
    @property
    def admin(self) -> KafkaAccess: ...
    def user(self, name: str) -> KafkaAccess: ...
    def start(self) -> None: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def wait_ready(self) -> None: ...


class KafkaInDocker:
    """The broker of docker-compose.kafka.yml, on a free port of this machine. It asks nobody for a name."""

    def __init__(self) -> None:
        kafka = yaml.safe_load(_COMPOSE.read_text())["services"]["kafka"]
        (self._port,) = free_ports(1)
        self.image: str = kafka["image"]
        self.environment: dict[str, str] = kafka["environment"] | {
            "KAFKA_ADVERTISED_LISTENERS": f"HOST://{self.bootstrap},INSIDE://localhost:19092"
        }
        self._made: Any = None

    @property
    def bootstrap(self) -> str:
        return f"{LOOPBACK}:{self._port}"

    @property
    def admin(self) -> KafkaAccess:
        return KafkaAccess(self.bootstrap)

    def user(self, name: str) -> KafkaAccess:
        return self.admin

    def start(self) -> None:
        if self._made is None:
            from testcontainers.core.container import DockerContainer  # slow, and seldom needed

            self._made = DockerContainer(self.image).with_envs(**self.environment)
            self._made.ports["9092/tcp"] = (LOOPBACK, self._port)
            self._made.start()
        else:
            self._made.get_wrapped_container().start()

    def kill(self) -> None:
        self._made.get_wrapped_container().kill()

    def pause(self) -> None:
        self._made.get_wrapped_container().pause()

    def resume(self) -> None:
        self._made.get_wrapped_container().unpause()

    def wait_ready(self) -> None:
        deadline = time.monotonic() + _READY_WITHIN
        while not answers(LOOPBACK, self._port):
            if time.monotonic() > deadline:
                raise Unavailable(f"Kafka in Docker was not ready within {_READY_WITHIN:.0f} s.")
            time.sleep(0.1)

    def remove(self) -> None:
        if self._made is not None:
            self._made.stop()


def broker(name: str) -> AbstractContextManager[Broker]:
    """A running one, of this kind."""
    return kafka_in_docker() if name == "testcontainers" else kafka_for_tests()


@contextmanager
def kafka_in_docker() -> Iterator[KafkaInDocker]:
    kafka = KafkaInDocker()
    try:
        kafka.start()
        kafka.wait_ready()
        yield kafka
    finally:
        kafka.remove()


def require_engine(ping: Callable[[], object] | None = None) -> None:
    """`pytest.UsageError`, naming the cause, if no Docker engine answers."""
    try:
        (ping or _ping)()
    except Exception as error:
        raise pytest.UsageError(
            f"--broker=testcontainers needs a Docker engine, and none answers ({error}): start one, or leave "
            "--broker away and the tests start a Kafka of their own."
        ) from None


def _ping() -> None:
    from testcontainers.core.docker_client import DockerClient

    DockerClient().client.ping()

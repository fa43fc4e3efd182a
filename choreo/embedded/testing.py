"""Throw-away Kafka and Postgres for tests: on free ports, in temporary directories, gone afterwards.

They also go when the test run is killed: see `choreo.embedded.process.Child`.
"""

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from choreo.chassis.registry import service_names
from choreo.chassis.settings import OBSERVER
from choreo.embedded.home import cache_directory
from choreo.embedded.kafka import Kafka
from choreo.embedded.ports import free_ports, require_free
from choreo.embedded.postgres import Postgres
from choreo.errors import Unavailable


@contextmanager
def kafka_for_tests() -> Iterator[Kafka]:
    """A running Kafka with a user for each service and the observer, who may do nothing yet. Call from the
    main thread.
    """
    with tempfile.TemporaryDirectory(prefix="choreo-") as directory:
        port, controller_port = free_ports(2)
        kafka = Kafka(Path(directory), port, controller_port, cache=cache_directory())
        with running_with_users(kafka):
            yield kafka


@contextmanager
def running_with_users(kafka: Kafka) -> Iterator[None]:
    """A user for each service and the observer, who may do nothing yet. Killed however the block is left."""
    try:
        kafka.start()
        kafka.wait_ready()
        kafka.admit(dict.fromkeys((*service_names(), OBSERVER), ()))
        yield
    finally:
        if kafka.child:
            kafka.kill()


@contextmanager
def postgres_for_tests(settings: dict[str, str] | None = None) -> Iterator[Postgres]:
    """A running Postgres; `settings` win over its usual ones. Call from the main thread.

    It need not outlive a loss of power, as its directory does not: without fsync databases come and go fast.
    """
    with tempfile.TemporaryDirectory(prefix="choreo-") as directory:
        Path(directory).chmod(0o711)  # where we are root Postgres is somebody else, and may enter
        postgres = Postgres(Path(directory) / "postgres", settings={"fsync": "off"} | (settings or {}))
        try:
            postgres.start()
            postgres.wait_ready()
            yield postgres
        finally:
            postgres.stop()
            postgres.clear_away()


_WIDTH = 1_200
"""From a system's first port to where the next one's may be."""


def free_port_base() -> int:
    """A value for CHOREO_PORT_BASE under which a whole system finds its ports free.

    Between the look and the start another process may take them, so those that test side by side look in
    different places.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = 20_000 // workers
    first = 10_000 + worker * share
    services = [100 * replica + number for replica in range(4) for number in range(1, 25)]
    while True:
        base = random.randrange(first, first + max(share - _WIDTH, 1), 100)
        try:
            for offset in (*services, 25, *(1092 + 10 * node + port for node in range(3) for port in (0, 1))):
                require_free(base + offset, "a test")
        except Unavailable:
            continue
        return base

"""What docker-compose.kafka.yml says, without Docker: its Kafka from the jars, its SQL on our Postgres."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from choreo.embedded.home import cache_directory
from choreo.embedded.kafka import Kafka, answers
from choreo.embedded.part import Program
from choreo.embedded.ports import LOOPBACK, free_ports
from choreo.embedded.postgres import Postgres, binaries
from choreo.embedded.testing import postgres_for_tests
from tests.embedded.test_up import ROOT
from tests.services import SERVICES
from tests.unit.test_containers import PARTS

PASSWORDS = ROOT / "deploy" / "passwords.sh"


@pytest.fixture(scope="module")
def passwords(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """What stands in .env."""
    directory = tmp_path_factory.mktemp("env")
    subprocess.run(["sh", str(PASSWORDS)], cwd=directory, check=True)
    file = directory / ".env"
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_text()
    again = subprocess.run(["sh", str(PASSWORDS)], cwd=directory, capture_output=True)
    assert again.returncode != 0 and file.read_text() == before, "what is there stays"
    told = dict(line.split("=", 1) for line in before.splitlines())
    secrets = [value for name, value in told.items() if name.endswith("_PASSWORD")]
    assert len(set(secrets)) == len(secrets) and all(re.fullmatch("[0-9a-f]{48}", one) for one in secrets)
    return told


def filled(value: str, passwords: Mapping[str, str]) -> str:
    """As compose reads it: a name that is not set is an error."""
    return re.sub(r"\$\{(\w+):\?[^}]+\}", lambda found: passwords[found[1]], value)


@contextmanager
def kafka_of_compose(directory: Path, passwords: Mapping[str, str]) -> Iterator[int]:
    """The port of its listener for this machine. The image turns `KAFKA_A_B` into `a.b`."""
    host, inside, controller = free_ports(3)
    settings = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): filled(value, passwords)
        for name, value in PARTS["kafka"]["environment"].items()
        if name.startswith("KAFKA_")
    }
    settings |= {
        "listeners": f"HOST://{LOOPBACK}:{host},INSIDE://{LOOPBACK}:{inside},CONTROLLER://{LOOPBACK}:{controller}",
        "advertised.listeners": f"HOST://{LOOPBACK}:{host},INSIDE://{LOOPBACK}:{inside}",
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller}",
        "log.dirs": str(directory / "data"),
        "log.cleaner.dedupe.buffer.size": "4194304",  # our Java has little memory
    }
    maker = Kafka(directory, host, controller, cache=cache_directory())
    maker._write_configuration()  # formats the directory
    properties = directory / "compose.properties"
    properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    command = [*maker.prepare().command(), "kafka.Kafka", str(properties)]
    kafka = Program("Kafka", command, log=directory / "log", probe=lambda: answers(LOOPBACK, host))
    try:
        kafka.start()
        kafka.wait_ready()
        yield host
    finally:
        if kafka.child:
            kafka.kill()


def test_kafka_asks_for_names_and_lets_each_service_do_its_own(
    tmp_path: Path, passwords: Mapping[str, str]
) -> None:
    with kafka_of_compose(tmp_path, passwords) as port:
        bootstrap = f"{LOOPBACK}:{port}"
        nobody = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        with pytest.raises(KafkaException):
            nobody.list_topics(timeout=3)
        environment = os.environ | passwords | {"KAFKA_BOOTSTRAP_SERVERS": bootstrap}
        command = [str(Path(sys.executable).with_name("choreo")), "provision"]
        for word in ("made", "as it must be"):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            assert all(line.endswith(word) for line in done.stdout.splitlines())
        for name, there in (("order", {"order-events", "user-events", "billing-events"}), ("observer", None)):
            client = AdminClient(
                {
                    "bootstrap.servers": bootstrap,
                    "security.protocol": "SASL_PLAINTEXT",
                    "sasl.mechanism": "PLAIN",
                    "sasl.username": name,
                    "sasl.password": passwords[f"{name.upper()}_KAFKA_PASSWORD"],
                }
            )
            seen = set(client.list_topics(timeout=10).topics)
            assert seen == (there or {f"{service}-events" for service in SERVICES})


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_for_tests() as postgres:
        yield postgres


def test_each_role_has_a_password_and_a_database_of_its_own(
    server: Postgres, passwords: Mapping[str, str]
) -> None:
    script = ROOT / "deploy" / "databases.sql"
    command = [str(binaries() / "psql"), "--no-psqlrc", "-q", "-f", str(script), server.admin_url]
    environment = {name: filled(value, passwords) for name, value in PARTS["postgres"]["environment"].items()}
    without = subprocess.run(command, env={"LC_ALL": "C"}, capture_output=True, text=True)
    assert without.returncode != 0, "a password that is not given is an error"
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for service in SERVICES:
        for part, role in (("migrate", f"{service}_owner"), (service, service)):
            url = filled(PARTS[part]["environment"][f"{service.upper()}_DATABASE_URL"], passwords)
            here = url.replace("@postgres:5432/", "@/") + f"&host={server.socket_directory}"
            with psycopg.connect(here) as conn:
                assert conn.info.user == role and "require_auth=scram-sha-256" in url
            for other in {*SERVICES, "postgres"} - {service}:
                with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                    psycopg.connect(here.replace(f"/{service}?", f"/{other}?"))

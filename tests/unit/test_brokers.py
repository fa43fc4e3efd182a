"""Whose Kafka the tests run on. Neither kind is started here."""

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

import pytest

from tests import brokers

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("name", "chosen"), [("embedded", "ours"), ("testcontainers", "docker's")])
def test_the_broker_that_was_asked_for_is_taken(
    monkeypatch: pytest.MonkeyPatch, name: str, chosen: str
) -> None:
    monkeypatch.setattr(brokers, "kafka_for_tests", lambda: nullcontext("ours"))
    monkeypatch.setattr(brokers, "kafka_in_docker", lambda: nullcontext("docker's"))
    with brokers.broker(name) as broker:
        assert str(broker) == chosen


def test_an_engine_that_answers_is_fine() -> None:
    brokers.require_engine(lambda: True)


def test_without_an_engine_the_cause_is_named() -> None:
    def away() -> NoReturn:
        raise ConnectionError("no such socket")

    with pytest.raises(pytest.UsageError, match="no such socket"):
        brokers.require_engine(away)


def test_without_an_engine_no_test_runs(tmp_path: Path) -> None:
    nowhere = os.environ | {
        "DOCKER_HOST": f"unix://{tmp_path}/docker.sock",
        "PYTEST_ADDOPTS": "-p no:schemathesis",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--broker=testcontainers", "tests/unit/test_tidy.py"],
        cwd=ROOT,
        env=nowhere,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--broker=testcontainers needs a Docker engine" in done.stderr
    assert "passed" not in done.stdout


def test_a_broker_in_docker_is_the_composed_one_and_says_where_it_is() -> None:
    kafka = brokers.KafkaInDocker()
    assert f"HOST://{kafka.bootstrap}" in kafka.environment["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert kafka.image.startswith("apache/kafka:")
    assert kafka.bootstrap.startswith("127.0.0.1:")

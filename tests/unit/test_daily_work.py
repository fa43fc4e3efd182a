"""What the verbs for daily work read and print, without a system."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from choreo.chassis.environment import read_env_file
from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.settings import Settings
from choreo.cli.main import app
from choreo.cli.running.env import kafbat_lines, kcat_lines
from choreo.cli.running.psql import without_password
from choreo.operations.reading.logs import LogTail, log_files

OBSERVER = KafkaAccess("127.0.0.1:9092", "SASL_PLAINTEXT", username="observer", password="s3cret")


# -- logs ------------------------------------------------------------------------------------------------


def test_a_log_is_followed_line_by_line_also_once_it_is_emptied(tmp_path: Path) -> None:
    log = tmp_path / "order.log"
    log.write_text("one\ntwo\nthree\nfo")
    tail = LogTail(log, last=2)
    assert tail.new_lines() == ["two", "three"]
    assert tail.new_lines() == []
    with log.open("a") as file:
        file.write("ur\nfive\n")
    assert tail.new_lines() == ["four", "five"]
    log.write_text("anew\n")
    assert tail.new_lines() == ["anew"]


def test_a_log_that_begins_while_it_is_followed_is_told_whole(tmp_path: Path) -> None:
    tail = LogTail(tmp_path / "order.log", last=0)
    assert tail.new_lines() == []
    (tmp_path / "order.log").write_text("one\ntwo\n")
    assert tail.new_lines() == [], "it was there before it was first read, and of that nothing is asked for"
    with (tmp_path / "order.log").open("a") as file:
        file.write("three\n")
    assert tail.new_lines() == ["three"]


def test_logs_are_told_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"order.log": "a\nb\n", "kafka-1.log": "c\n", "order.old.log": "d\n"}.items():
        (tmp_path / "logs").mkdir(exist_ok=True)
        (tmp_path / "logs" / name).write_text(text)
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    assert list(log_files(tmp_path / "logs")) == ["kafka-1", "order"]
    assert CliRunner().invoke(app, ["logs", "-n", "1"]).output == "kafka-1 | c\norder   | b\n"
    assert CliRunner().invoke(app, ["logs", "order"]).output == "a\nb\n"
    assert str(CliRunner().invoke(app, ["logs", "orders"]).exception) == (
        "orders has no log: there are kafka-1, order."
    )


# -- a client of one's own -------------------------------------------------------------------------------


def test_no_password_is_seen_among_the_processes() -> None:
    url, variables = without_password("postgresql://observer:a%2Fb@/choreo_order?host=/run/x")
    assert (url, variables) == ("postgresql://observer@/choreo_order?host=/run/x", {"PGPASSWORD": "a/b"})
    url, _ = without_password("postgresql://me:secret@db.example:5432/order?sslmode=verify-full")
    assert url == "postgresql://me@db.example:5432/order?sslmode=verify-full"


def test_kcat_gets_the_observers_access_and_nothing_of_our_own_clients() -> None:
    assert list(kcat_lines(OBSERVER)) == [
        "bootstrap.servers=127.0.0.1:9092",
        "security.protocol=SASL_PLAINTEXT",
        "sasl.mechanism=SCRAM-SHA-512",
        "sasl.username=observer",
        "sasl.password=s3cret",
    ]


def test_kafbat_gets_it_as_javas_clients_have_it_and_may_change_nothing() -> None:
    told = dict(line.split("=", 1) for line in kafbat_lines(OBSERVER))
    assert told["KAFKA_CLUSTERS_0_READONLY"] == "true"
    assert told["KAFKA_CLUSTERS_0_PROPERTIES_SASL_JAAS_CONFIG"] == (
        "org.apache.kafka.common.security.scram.ScramLoginModule required "
        'username="observer" password="s3cret";'
    )


# -- .env ------------------------------------------------------------------------------------------------


def test_a_file_has_settings_beneath_those_of_the_environment_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".env"
    file.write_text(
        "CHOREO_PORT_BASE=9000\nexport KAFKA_USERNAME='admin'\nORDER_KAFKA_USERNAME=order\n"
        "CHOREO_PARTITIONS=3\nLD_PRELOAD=evil.so\nPATH=/evil\n"
    )
    monkeypatch.setenv("CHOREO_ENV_FILE", str(file))
    monkeypatch.setenv("CHOREO_PARTITIONS", "5")
    for name in ("CHOREO_PORT_BASE", "KAFKA_USERNAME", "ORDER_KAFKA_USERNAME"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    path = os.environ["PATH"]
    read_env_file()
    settings = Settings()
    assert (settings.port_base, settings.partitions, settings.kafka_username) == (9000, 5, "admin")
    assert settings.kafka_usernames == {"order": "order"}
    assert os.environ["PATH"] == path and "LD_PRELOAD" not in os.environ

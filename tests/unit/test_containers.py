"""docker-compose.kafka.yml and Dockerfile, held against what they name. No Docker engine is needed."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from choreo.chassis.registry import port_of
from choreo.chassis.settings import OBSERVER, Settings
from choreo.cli.main import imported
from tests.services import SERVICES

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.kafka.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
PARTS: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: part for name, part in PARTS.items() if "build" in part}
ONCE = {name for name, part in PARTS.items() if part["restart"].startswith("on-failure")}
ASKED = re.compile(r"\$\{(\w+):\?run sh deploy/passwords\.sh\}")
"""A password: compose ends with these words where it is not set."""


def test_every_service_and_what_it_needs_is_there() -> None:
    assert set(PARTS) >= {*SERVICES, "kafka", "postgres", "mail", "migrate", "provision"}
    assert {name for name, part in PARTS.items() if "profiles" in part} == {"prometheus", "grafana"}


def test_kafka_can_be_started_alone_and_keeps_facts_for_ever() -> None:
    kafka = PARTS["kafka"]
    assert "depends_on" not in kafka and "profiles" not in kafka
    assert kafka["ports"] == ["127.0.0.1:9092:9092"]
    assert "HOST://127.0.0.1:9092" in kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    settings = kafka["environment"]
    assert settings["KAFKA_LOG_RETENTION_MS"] == settings["KAFKA_LOG_RETENTION_BYTES"] == "-1"
    assert settings["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_pinned_published_on_loopback_and_says_when_it_works(name: str) -> None:
    part = PARTS[name]
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d[\w.-]*", part["image"]), "a version, not latest"
    assert all(port.startswith("127.0.0.1:") for port in part.get("ports", []))
    assert ("healthcheck" in part) == (name not in ONCE)
    assert all(isinstance(value, str) for value in part.get("environment", {}).values())
    for volume in part.get("volumes", []):
        source = volume.split(":")[0]
        assert (ROOT / source).exists() if source.startswith("./") else source in COMPOSE["volumes"]
    for needed, how in part.get("depends_on", {}).items():
        wanted = "service_completed_successfully" if needed in ONCE else "service_healthy"
        assert needed in PARTS and how == {"condition": wanted}


@pytest.mark.parametrize("name", OURS)
def test_ours_run_a_command_that_exists_with_settings_that_exist(name: str) -> None:
    match OURS[name]["command"]:
        case ["python", "-m", module]:
            assert find_spec(f"{module}.__main__")
        case ["choreo", verb, *options]:
            assert set(options) <= {option for one in imported(verb).params for option in one.opts}
        case other:
            pytest.fail(f"nobody knows {other}")
    for variable, value in OURS[name]["environment"].items():
        assert variable in variables()
        if variable.endswith(("_USERNAME", "_PASSWORD", "_PROTOCOL", "_MECHANISM")):
            continue
        host = urlsplit(ASKED.sub("x", value) if "://" in value else f"//{value}").hostname
        assert host in {*PARTS, "0.0.0.0"}


def variables() -> set[str]:
    """What `Settings` reads from the environment."""
    of_services = {
        f"{who.upper()}_{what}"
        for who in (*SERVICES, OBSERVER)
        for what in ("DATABASE_URL", "KAFKA_USERNAME", "KAFKA_PASSWORD")
    }
    return of_services | {
        str(getattr(field.validation_alias, "choices", [f"CHOREO_{name.upper()}"])[0])
        for name, field in Settings.model_fields.items()
    }


def test_no_password_is_told_and_each_role_has_its_own() -> None:
    text = FILE.read_text()
    assert text.count("${") == len(ASKED.findall(text))
    told = (ROOT / "deploy" / "passwords.sh").read_text().upper()
    assert all(f"{name.split('_')[0]}" in told for name in set(ASKED.findall(text)))
    for name in SERVICES:
        wanted = {f"{name.upper()}_KAFKA_PASSWORD", f"{name.upper()}_DATABASE_PASSWORD"}
        assert set(ASKED.findall(json.dumps(PARTS[name]["environment"]))) == wanted
        assert PARTS[name]["environment"][f"{name.upper()}_KAFKA_USERNAME"] == name
    for part in (*SERVICES, "provision"):
        assert PARTS[part]["environment"]["KAFKA_SECURITY_PROTOCOL"] == "SASL_PLAINTEXT"
    assert "PLAINTEXT" not in PARTS["kafka"]["environment"]["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].replace(
        "SASL_PLAINTEXT", ""
    )


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_tables_and_topics_and_has_its_own_database_and_port(name: str) -> None:
    part, port = PARTS[name], port_of(name, Settings())
    assert set(part["depends_on"]) == {"migrate", "provision"}
    assert part["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"http://127.0.0.1:{port}/health/serving" in part["healthcheck"]["test"][-1]
    databases = {key: value for key, value in part["environment"].items() if key.endswith("_DATABASE_URL")}
    assert list(databases) == [f"{name.upper()}_DATABASE_URL"]
    url = urlsplit(ASKED.sub("x", *databases.values()))
    assert (url.username, url.path) == (name, f"/{name}")
    owner = urlsplit(ASKED.sub("x", PARTS["migrate"]["environment"][f"{name.upper()}_DATABASE_URL"]))
    assert (owner.username, owner.path, owner.hostname) == (f"{name}_owner", url.path, url.hostname)


def test_the_image_installs_what_is_locked_and_runs_as_nobody_special() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base) for base in bases)
    install = next(
        number for number, line in enumerate(lines) if "--require-hashes -r requirements-service.lock" in line
    )
    assert lines.index("COPY requirements-service.lock .") < install < lines.index("COPY . .")
    assert [line for line in lines if line.startswith("USER")] == ["USER shop"]
    left_out = set((ROOT / ".dockerignore").read_text().split())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.strip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert not left_out & {*packages, "pyproject.toml", project["project"]["readme"]}


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (503, 1), (None, 1)])
def test_the_image_is_healthy_while_its_service_takes_requests(status: int | None, exit_code: int) -> None:
    (told,) = re.findall(r"^HEALTHCHECK .* CMD (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    python, *arguments = json.loads(told)
    assert python == "python"
    with a_service(status) as port:
        done = subprocess.run(
            [sys.executable, *arguments], env=os.environ | {"CHOREO_PORT_BASE": str(port - 2)}
        )
    assert done.returncode == exit_code


@contextmanager
def a_service(status: int | None) -> Iterator[int]:
    """Yields its port: the second above one where nobody listens. None: it hangs up."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/health/serving"
            if status:
                self.send_response(status)
                self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_compose_reads_it() -> None:
    """Its own reading is the better judge; it needs the compose client, not an engine."""
    client = shutil.which("docker")
    if not client or subprocess.run([client, "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not installed")
    done = subprocess.run(
        [client, "compose", "-f", FILE, "--profile", "observability", "config", "--format", "json"],
        capture_output=True,
        text=True,
        env=os.environ | dict.fromkeys(ASKED.findall(FILE.read_text()), "secret"),
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["services"]) == set(PARTS)

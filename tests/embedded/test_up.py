"""`choreo up` as a process: real Kafka, Postgres and mail, and stand-ins for the services."""

import json
import os
import signal
import smtplib
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from choreo.embedded.fork_server import is_possible
from choreo.embedded.mail import read_maildir
from choreo.embedded.ports import LOOPBACK
from choreo.embedded.postgres import Postgres
from choreo.embedded.testing import free_port_base
from tests.services import SERVICES

DATABASES = [f"{service.upper()}_DATABASE_URL" for service in SERVICES]
ROOT = Path(__file__).parents[2]

STAND_IN = """
import http.server, os, socket

class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

server = http.server.HTTPServer(("", 0), Ready, bind_and_activate=False)
server.socket = socket.socket(fileno=int(os.environ["CHOREO_OWN_HTTP_FD"]))
print(" ".join(sorted(name for name in os.environ if name.endswith("_URL"))), flush=True)
server.serve_forever()
"""


THE_REST_IS_REAL = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n"
"""What a service is made of is found where it lies; only what runs is another's."""


@dataclass
class Place:
    """A home and ports of its own for one system."""

    directory: Path
    port_base: int

    @property
    def home(self) -> Path:
        return self.directory / "a home"

    def run_file(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.home / "run.json").read_text())
        return facts

    def choreo(self, *arguments: str, **more: str) -> "subprocess.Popen[str]":
        outer = {
            name: value
            for name, value in os.environ.items()
            if not name.endswith("_URL") and "KAFKA_" not in name
        }
        own = {"CHOREO_HOME": str(self.home), "CHOREO_PORT_BASE": str(self.port_base)}
        return subprocess.Popen(
            [sys.executable, "-m", "choreo.cli.main", *arguments],
            cwd=self.directory,
            env=outer | own | {"PYTHONPATH": f"{self.directory}:{ROOT}"} | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def refusal(self, *arguments: str, **more: str) -> tuple[int, str]:
        """Exit code and the one sentence."""
        process = self.choreo(*arguments, **more)
        _, error = process.communicate(timeout=60)
        assert error.count("\n") == 1, error
        return process.returncode, error

    @contextmanager
    def running(self, *arguments: str, **more: str) -> Iterator["subprocess.Popen[str]"]:
        """From ready on; if the test did not end it, it is killed."""
        with self.choreo("up", *arguments, **more) as system:
            try:
                wait_for_line(system, "Ctrl-C stops everything")
                yield system
            finally:
                system.kill()


Running = tuple[Place, "subprocess.Popen[str]"]
"""A system, and where it is."""


def wait_for_line(system: "subprocess.Popen[str]", text: str) -> None:
    assert system.stdout is not None
    seen = []
    for line in system.stdout:
        seen.append(line)
        if text in line:
            return
    pytest.fail(f"ended without saying {text!r}: {seen}")


def write_stand_ins(directory: Path) -> None:
    for service in SERVICES:
        package = directory / f"{service}_service"
        package.mkdir()
        (package / "__init__.py").write_text(THE_REST_IS_REAL)
        (package / "__main__.py").write_text(STAND_IN)


@contextmanager
def a_place(directory: Path) -> Iterator[Place]:
    write_stand_ins(directory)
    place = Place(directory, free_port_base())
    yield place
    Postgres(place.home / "data" / "postgres").clear_away()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with a_place(tmp_path) as place:
        yield place


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for all tests that leave it running."""
    with a_place(tmp_path_factory.mktemp("running")) as place, place.running() as system:
        yield place, system


def processes(facts: dict[str, Any]) -> list[psutil.Process]:
    """All of one system, with children, such as Postgres' own."""
    parts = [psutil.Process(pid) for pid in facts["pids"].values()]
    return parts + [child for part in parts for child in part.children(recursive=True)]


def assert_all_end(expected: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(expected, timeout=30)
    assert alive == []


def open_to_others(home: Path) -> list[Path]:
    """What this machine's other users can read or list; Postgres' socket is in a closed directory."""
    return [path for path in (home, *home.rglob("*")) if is_open_to_others(path)]


def is_open_to_others(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:  # Kafka renames what it has written: a name of before is gone
        return False
    return not stat.S_ISLNK(mode) and not stat.S_ISSOCK(mode) and bool(mode & 0o066)


def test_starts_everything_hands_each_service_its_own_and_stops_cleanly(place: Place) -> None:
    with place.running() as system:
        facts = place.run_file()
        assert (place.home / "run.json").stat().st_mode & 0o777 == 0o600
        observer = place.home / "secrets" / "observer.json"
        assert observer.stat().st_mode & 0o777 == 0o600
        password = json.loads(observer.read_text())["kafka"]["password"]
        assert password not in (place.home / "run.json").read_text()
        assert set(facts["pids"]) == {"kafka", "postgres", "mail", *SERVICES}
        assert (place.home / "logs" / "billing.log").read_text().startswith("BILLING_DATABASE_URL\n")
        logged = (place.home / "logs" / "notification.log").read_text()
        assert logged.startswith("NOTIFICATION_DATABASE_URL SMTP_URL\n")

        with smtplib.SMTP(LOOPBACK, place.port_base + 25) as mail:
            mail.sendmail("shop@example.org", ["ann@example.org"], "Subject: Confirmed\n\nThank you")
        assert [message["Subject"] for message in read_maildir(Path(facts["maildir"]))] == ["Confirmed"]

        console = f"http://{LOOPBACK}:{place.port_base + 5}/"
        assert facts["urls"]["console"] == console
        at_rest = len(facts["pids"]) + is_possible()  # and the fork server
        assert len(psutil.Process(system.pid).children()) == at_rest, "nobody has looked yet"
        assert httpx2.get(f"{console}flows", timeout=60, trust_env=False).status_code == 200
        assert open_to_others(place.home) == []
        expected = psutil.Process(system.pid).children(recursive=True)
        assert len(expected) > len(facts["pids"])
        system.send_signal(signal.SIGINT)
        assert system.wait(30) == 0
        assert_all_end(expected)
    assert not (place.home / "run.json").exists()


def test_killed_with_sigkill_it_leaves_no_process_and_starts_again_on_its_data(place: Place) -> None:
    with place.running("--replicas", "billing=2") as system:
        expected = processes(place.run_file())
        urls = place.run_file()["owner_urls"]
        system.kill()
        assert_all_end(expected)
    with place.running("--no-console") as system:
        assert place.run_file()["owner_urls"] == urls
        assert "console" not in place.run_file()["urls"]
        system.send_signal(signal.SIGTERM)
        assert system.wait(30) == 0


def test_each_of_several_processes_has_a_name_a_log_and_a_port_and_all_stop(place: Place) -> None:
    """And traces are exported, as there is somewhere to; that nobody listens there holds up nothing."""
    collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    with place.running("--replicas", "order=3,user=2", **collector) as system:
        facts = place.run_file()
        named = {*SERVICES, "user-2", "order-2", "order-3"}
        assert set(facts["pids"]) == {"kafka", "postgres", "mail", "otel"} | named
        wait_for_line(system, "otel is ready")
        logged = (place.home / "logs" / "otel.log").read_text()
        assert logged.startswith("exporting traces to 127.0.0.1:1, of what was decided since 2")
        assert facts["own_ports"]["order"] == [place.port_base + 2 + 100 * number for number in (1, 2, 3)]
        assert {file.stem for file in (place.home / "logs").iterdir()} >= named
        expected = processes(facts)
        system.send_signal(signal.SIGINT)
        assert system.wait(30) == 0
        assert_all_end(expected)


def test_a_second_system_is_refused_and_the_first_goes_on(running: Running) -> None:
    place, system = running
    for arguments in (["up"], ["up", "--fresh"]):
        code, sentence = place.refusal(*arguments)
        assert (code, "A system already runs from" in sentence) == (69, True)
    assert system.poll() is None
    assert len(processes(place.run_file())) >= 7


def test_a_running_system_gets_more_processes_and_fewer(running: Running) -> None:
    place, system = running

    def scale(counts: str) -> str:
        said, error = place.choreo("scale", counts).communicate(timeout=120)
        assert error == ""
        return said

    before = place.run_file()
    assert scale("order=3,user=2") == "order: 3, all ready; before 1\nuser: 2, all ready; before 1\n"
    more = place.run_file()
    assert more["pids"].keys() - before["pids"].keys() == {"order-2", "order-3", "user-2"}
    assert scale("order=2") == "order: 2, all ready; before 3\n"
    assert not psutil.pid_exists(more["pids"]["order-3"])
    with closing(socket.create_server((LOOPBACK, more["own_ports"]["order"][2]))):
        code, sentence = place.refusal("scale", "order=3")
    assert (code, "needed for order-3" in sentence) == (69, True)
    psutil.Process(more["pids"]["order-2"]).kill()
    wait_for_line(system, "order-2 ended by itself (exit -9)")
    wait_for_line(system, "order-2 is ready again")
    assert place.run_file()["pids"].items() >= before["pids"].items(), "the others went on"


def test_a_part_that_dies_is_started_again(running: Running) -> None:
    place, system = running
    for part, name in (("order", "order"), ("postgres", "Postgres"), ("kafka", "Kafka")):
        psutil.Process(place.run_file()["pids"][part]).kill()
        wait_for_line(system, f"{name} ended by itself (exit -9)")
        wait_for_line(system, f"{name} is ready again")


@pytest.mark.parametrize("offset", [3, 5, 25, 103, 1092])
def test_a_taken_port_is_named_and_nothing_is_left_running(place: Place, offset: int) -> None:
    port = place.port_base + offset
    with closing(socket.create_server((LOOPBACK, port))):
        code, sentence = place.refusal("up")
    assert (code, f"Port {port}" in sentence, "CHOREO_PORT_BASE" in sentence) == (69, True, True)
    assert not list(place.home.glob("data/*/data"))


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "sentence"),
    [
        (["up"], {"USER_DATABASE_URL": "postgresql:///x"}, 69, "ORDER_DATABASE_URL"),
        (
            ["up"],
            dict.fromkeys(DATABASES, "postgresql:///x?host=/nowhere"),
            69,
            "USER_DATABASE_URL cannot be",
        ),
        (["up"], {"CHOREO_HOME": "/dev/null/home"}, 69, "choose another place with CHOREO_HOME"),
        (["up"], {"CHOREO_HOME": "/tmp/one, two"}, 69, "no comma"),
        (["up"], {"CHOREO_HOME": '/tmp/a "home"'}, 69, "double quote"),
        (["up"], {"CHOREO_HOME": "/tmp" + "/long" * 200}, 69, "800 bytes at most"),
        (["up"], {"CHOREO_PORT_BASE": "high"}, 69, "CHOREO_PORT_BASE is not usable"),
        (["provision"], {}, 69, "KAFKA_BOOTSTRAP_SERVERS is not set"),
        (["scale", "order=2"], {}, 69, "No system runs from"),
        (["scale", ""], {}, 64, "as order=3"),
        (["up", "--replicas", "orders=2"], {}, 64, "not one of user, order, billing, notification"),
        (["up", "--replicas", "order=0"], {}, 64, "there may be 1 to 9 processes"),
        (["up", "--replicas", "order=10"], {}, 64, "there may be 1 to 9 processes"),
        (["up", "--replicas", "order=two"], {}, 64, "there may be 1 to 9 processes"),
        (["up", "--replicas", "order=2,order=3"], {}, 64, "order is named twice"),
    ],
)
def test_a_wrong_call_is_told_what_to_correct(
    place: Place, arguments: list[str], environment: dict[str, str], code: int, sentence: str
) -> None:
    got, said = place.refusal(*arguments, **environment)
    assert got == code
    assert sentence in said


@pytest.mark.parametrize("arguments", [["up", "--no-such-option"], ["no-such-verb"], []])
def test_wrong_usage_exits_64(place: Place, arguments: list[str]) -> None:
    with place.choreo(*arguments) as process:
        assert process.wait(30) == 64

"""Several processes of a service, on one real system, and what becomes of it when one of them is killed."""

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from shutil import copytree
from threading import Event, Semaphore, Timer

import pytest

from choreo.chaos.faults.clean import killed
from choreo.chaos.programme import keep_evidence
from choreo.chaos.trial import Trial
from choreo.embedded.ports import LOOPBACK
from choreo.operations.acting.throwaway import ThrowawaySystem
from choreo.operations.reading.checkup import examine
from choreo.operations.reading.installation import find_installation
from tests.chaos.rates import RATES
from tests.e2e.outside import Shop, until
from tests.services import SERVICES
from tests.shop import PATIENCE

ROOT = Path(__file__).parents[2]
CLIENTS = 8
GIVE_UP_SECONDS = 120.0
"""Then what is waited for ends, and so does the test."""
REPLICAS = "user=2,order=3,notification=2"


@pytest.fixture(scope="module")
def system() -> Iterator[ThrowawaySystem]:
    with ThrowawaySystem(("choreo.cli.main", "up", "--json", "--replicas", REPLICAS)) as system:
        system.start()
        yield system


class Knocking:
    """Clients who come to one port again and again, each time by a new connection."""

    def __init__(self, port: int) -> None:
        self.met: Counter[str] = Counter()
        """Statuses and errors."""
        self._port, self._enough, self._ended = port, Event(), Semaphore(0)

    @contextmanager
    def running(self) -> Iterator[None]:
        with ThreadPoolExecutor(CLIENTS) as threads:
            clients = [threads.submit(self._client) for _ in range(CLIENTS)]
            try:
                yield
            finally:
                self._enough.set()
        for client in clients:
            client.result()

    def goes_on(self) -> None:
        """Every client may have been at it since this was called."""
        while self._ended.acquire(blocking=False):
            pass
        for _ in range(3 * CLIENTS):
            assert self._ended.acquire(timeout=PATIENCE)

    def _client(self) -> None:
        while not self._enough.is_set():
            connection = HTTPConnection(LOOPBACK, self._port, timeout=PATIENCE)
            try:
                connection.request("GET", "/health/live")
                self.met[str(connection.getresponse().status)] += 1
            except OSError as error:
                self.met[type(error).__name__] += 1
            finally:
                connection.close()
                self._ended.release()


def test_the_doctor_asks_each_of_them(system: ThrowawaySystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHOREO_HOME", str(system.home))
    found = asyncio.run(examine(find_installation()))
    asked = {(finding.about, finding.check) for finding in found if finding.check.startswith("ready")}
    several = {("user", "ready: user-2"), ("order", "ready: order-2"), ("order", "ready: order-3")}
    assert asked == {(service, "ready") for service in SERVICES} | several | {
        ("notification", "ready: notification-2")
    }
    assert not [finding for finding in found if finding.needs_a_person]


@pytest.mark.parametrize("name", ["order", "order-2", "order-3", "billing"])
def test_a_restart_refuses_no_connection(system: ThrowawaySystem, name: str) -> None:
    """What the killed process had accepted is cut. Others answer the rest; where there is none, it waits."""
    clients = Knocking(system.run_file["ports"][name.partition("-")[0]])
    with clients.running():
        clients.goes_on()
        killed(name).strike(system, Random(1))
        clients.goes_on()
    cut = clients.met.pop("ConnectionResetError", 0) + clients.met.pop("RemoteDisconnected", 0)
    assert clients.met.keys() == {"200"}
    assert cut <= CLIENTS


def test_every_promise_holds_when_each_of_several_is_killed(system: ThrowawaySystem) -> None:
    """So the one whose relay owns the shards is among them."""
    trial = Trial(system, 1, RATES)
    for name in ("order", "order-2", "order-3"):
        outcome = trial.put_through(killed(name))
        if outcome.violations:
            print(f"The evidence is in {keep_evidence(trial)}")
        assert outcome.violations == ()


def test_a_service_run_by_hand_decides_by_what_was_just_saved_and_then_goes_back(
    system: ThrowawaySystem, tmp_path: Path
) -> None:
    """Its code is a copy. While it is begun anew who connects waits; nothing that was accepted is lost."""
    copytree(ROOT / "order_service", tmp_path / "order_service")
    decide = tmp_path / "order_service" / "decide.py"
    ada = Shop(system.run_file["port_base"]).customer("100.00")
    command = [sys.executable, "-m", "choreo.cli.main", "run", "order", "--reload"]
    placed = [ada.order("1.00").json()["id"]]
    with subprocess.Popen(
        command, cwd=tmp_path, env=system.environment, stdout=subprocess.PIPE, text=True
    ) as by_hand:
        assert by_hand.stdout is not None
        giving_up = Timer(GIVE_UP_SECONDS, by_hand.kill)
        giving_up.daemon = True
        giving_up.start()
        next(line for line in by_hand.stdout if "this terminal's" in line)
        placed.append(ada.order("2.00").json()["id"])
        clients = Knocking(system.run_file["ports"]["order"])
        with clients.running():
            clients.goes_on()
            decide.write_text(decide.read_text().replace("command.description", "'by the new code'"))
            next(line for line in by_hand.stdout if "was saved" in line)
            placed.append(ada.order("3.00").json()["id"])
        by_hand.send_signal(signal.SIGINT)
        for line in by_hand.stdout:
            print(line, end="")
        giving_up.cancel()
    assert by_hand.returncode == 0
    cut = clients.met.pop("ConnectionResetError", 0) + clients.met.pop("RemoteDisconnected", 0)
    assert clients.met.keys() == {"200"} and cut <= CLIENTS
    until(
        lambda: system.run_file, lambda facts: not facts["by_hand"] and len(facts["own_ports"]["order"]) == 3
    )
    told = [(order["id"], order["status"], order["description"]) for order in ada.items("/orders")]
    assert told == [
        (placed[2], "confirmed", "by the new code"),
        (placed[1], "confirmed", None),
        (placed[0], "confirmed", None),
    ]

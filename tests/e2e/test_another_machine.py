"""A machine set up for somebody else: another zone, variables meant for other programs, a proxy."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from choreo.embedded.home import cache_directory
from choreo.embedded.kafka import Kafka
from choreo.operations.acting.throwaway import ThrowawaySystem
from tests.e2e.outside import Shop

NOWHERE = "http://127.0.0.1:9"
MACHINE = {
    "TZ": "Asia/Kolkata",
    **dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), NOWHERE),
    "PGPORT": "9",
    "PGHOST": "127.0.0.1",
    "PGUSER": "nobody",
    "PGDATESTYLE": "German",
    "PGTZ": "America/New_York",
    "PGOPTIONS": "-c default_transaction_read_only=on",
    "PGSSLMODE": "verify-full",
    "BROKER_URL": "kafka://127.0.0.1:9",
    "BROKER_MAX_POLL_INTERVAL": "0.1",
}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawaySystem]:
    # The one thing that goes through a proxy, where there is one, is the download.
    Kafka(tmp_path_factory.mktemp("kafka"), 0, 0, cache=cache_directory()).prepare()
    with pytest.MonkeyPatch.context() as machine, ThrowawaySystem() as system:
        for name, value in MACHINE.items():
            machine.setenv(name, value)
        system.start()
        yield system


@pytest.fixture(scope="module")
def shop(system: ThrowawaySystem) -> Iterator[Shop]:
    shop = Shop(system.port_base)
    with shop.http:
        yield shop


def choreo(system: ThrowawaySystem, *arguments: str, **environment: str) -> str:
    """What it printed; it exits 0."""
    done = subprocess.run(
        [sys.executable, "-m", "choreo.cli.main", *arguments],
        env=system.environment | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_shop_and_its_tools_do_what_they_do_elsewhere(system: ThrowawaySystem, shop: Shop) -> None:
    assert os.environ["TZ"] == MACHINE["TZ"]
    ada = shop.customer()
    order = ada.order("100.00").json()
    assert ada.cancel(order["id"]).status_code == 202
    ada.notified(2)
    told = ada.get(f"/orders/{order['id']}").json()
    assert (order["status"], told["status"]) == ("confirmed", "refunded")
    times = [
        *(told[name] for name in ("created_at", "updated_at")),
        ada.get("/account").json()["created_at"],
        *(entry["at"] for entry in ada.items("/account/entries")),
        *(notification["sent_at"] for notification in ada.items("/notifications")),
    ]
    assert all(time.endswith("Z") for time in times), times
    assert "All is well." in choreo(system, "doctor")
    assert "PaymentRefunded" in choreo(system, "trace", order["id"])
    for zone in ("Asia/Kolkata", "UTC"):
        choreo(system, "verify", TZ=zone)
        choreo(system, "rebuild", "billing", TZ=zone)
    recording = str(system.home.parent / "recording.ndjson")
    choreo(system, "record", "-o", recording)
    choreo(system, "verify", recording, TZ="America/New_York")

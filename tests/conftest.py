"""One Kafka and one Postgres for a process that tests; topics and databases for each test."""

import gc
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import AliasChoices

from choreo.chassis.database.migrate import migrate
from choreo.chassis.environment import ignore_libpq_variables
from choreo.chassis.settings import OBSERVER, Settings
from choreo.embedded.postgres import Postgres
from choreo.embedded.testing import postgres_for_tests
from choreo.styles.composition import COLLABORATION, STYLES
from tests.brokers import BROKERS, Broker, broker, require_engine
from tests.services import SERVICES
from tests.shop import Shop, a_shop
from tests.styles import wire

_CHAOS = "tests/chaos/"
_KILLS_KAFKA = tuple(f"tests/choreography/test_{name}.py" for name in ("positions", "cancel", "money", "log"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--without",
        metavar="GUARD",
        help="take a guard of the delivery promise out, to see which tests notice (docs/delivery.md)",
    )
    parser.addoption("--style", choices=STYLES, default=COLLABORATION, help="of the contract's system")
    parser.addoption("--broker", choices=BROKERS, default=BROKERS[0], help="whose Kafka the tests run on")


def pytest_configure(config: pytest.Config) -> None:
    _stand_alone()
    _keep_bytecode()
    _log_plain_tracebacks()
    if config.getoption("--broker") == "testcontainers":
        require_engine()
    if guard := config.getoption("--without"):
        from tests.removals.guards import take_out  # here, as the ordinary run has no use for it

        take_out(guard)


def _stand_alone() -> None:
    """No test meets the installation whose settings stand in the environment, nor needs the machine's zone:
    every other worker, and whatever it starts, is in India.
    """
    ignore_libpq_variables()
    os.environ["CHOREO_ENV_FILE"] = os.devnull
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        os.environ.pop(
            str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"CHOREO_{name.upper()}", None
        )
    for name in list(os.environ):
        if name.startswith("OTEL_") or name.endswith(
            ("_DATABASE_URL", "_KAFKA_USERNAME", "_KAFKA_PASSWORD", "_KAFKA_CERTIFICATE_FILE")
        ):
            del os.environ[name]
    if int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 2:
        os.environ["TZ"] = "Asia/Kolkata"
        time.tzset()


def _keep_bytecode() -> None:
    """Some hundred interpreters are started, and each would compile all of it anew where the environment says
    that none may leave what it compiled.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def _log_plain_tracebacks() -> None:
    """One with the variables of every frame takes half a second to draw, and nobody reads it."""
    *before, _ = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*before, plain])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Kafka is killed while it has few topics: with those of a hundred tests it starts half as fast."""
    first = (_CHAOS, *_KILLS_KAFKA)
    items.sort(key=lambda item: [not item.nodeid.startswith(place) for place in first])


def pytest_collection_finish() -> None:
    """What is imported and collected stays: the collector of cycles need not look through it in each test."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By files, and `tests/chaos` as if it were one: its load takes a core or more, and most of the others
    wait most of their time, so that the two go well together and two of the first kind do not.
    """
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    class OneLoadAtATime(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return _CHAOS if nodeid.startswith(_CHAOS) else str(super()._split_scope(nodeid))

    return OneLoadAtATime(config, log)


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config) -> Iterator[Broker]:
    with broker(pytestconfig.getoption("--broker")) as kafka:
        yield kafka


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with postgres_for_tests() as postgres:
        yield postgres


@pytest.fixture(scope="session")
def templates(postgres: Postgres) -> dict[str, str]:
    """A migrated database per service, to be copied."""
    names = {service: f"template_{service}" for service in SERVICES}
    for service, name in names.items():
        owner_url, _ = postgres.create_service(service, database=name)
        migrate(service, owner_url, service, OBSERVER)
    return names


@pytest.fixture
async def closed_shop(
    kafka: Broker, postgres: Postgres, templates: dict[str, str], tmp_path: Path
) -> AsyncIterator[Shop]:
    """Nothing runs yet."""
    async with a_shop(kafka, postgres, templates, tmp_path / "mail") as shop:
        yield shop


@pytest.fixture
async def shop(closed_shop: Shop) -> Shop:
    """All services, ready."""
    await closed_shop.start(*SERVICES)
    return closed_shop


@pytest.fixture(params=STYLES)
async def styled_shop(closed_shop: Shop, request: pytest.FixtureRequest) -> Shop:
    """As `shop`, in each style."""
    wire(closed_shop, request.param)
    await closed_shop.start(*SERVICES)
    return closed_shop

from collections.abc import Iterator

import pytest

from choreo.embedded.kafka import Kafka
from choreo.embedded.postgres import Postgres
from tests.fuzz.running import Served, served


@pytest.fixture(scope="package")
def running(
    kafka: Kafka,
    postgres: Postgres,
    templates: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """One shop for all the tests here: whatever is asked of it, it must stand."""
    with served(kafka, postgres, templates, tmp_path_factory.mktemp("mail") / "box") as shop:
        yield shop

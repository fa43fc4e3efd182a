"""What replay makes, and what it must not."""

from importlib import import_module

import pytest

from chassis.settings import SERVICES, Settings
from chassis.tables import ASIDE
from replay.services import services


@pytest.mark.parametrize("name", SERVICES)
def test_every_table_of_a_service_is_on_a_shelf_or_declared_aside(name: str) -> None:
    tables = import_module(f"{name}_service.tables").metadata.tables.values()
    shelved = {shelf.table.name for shelf in services(Settings())[name].shelves.shelves}
    assert {table.name for table in tables if not table.info.get(ASIDE)} == shelved - {"signing_keys"}

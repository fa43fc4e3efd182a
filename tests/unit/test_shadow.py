"""What replay makes, and what it must not."""

from importlib import import_module

import pytest

from choreo.chassis.database.tables import ASIDE
from choreo.chassis.registry import services
from choreo.chassis.settings import SERVICES, Settings
from choreo.message.decider import Command


@pytest.mark.parametrize("name", SERVICES)
def test_every_table_of_a_service_is_on_a_shelf_or_declared_aside(name: str) -> None:
    tables = import_module(f"{name}_service.tables").metadata.tables.values()
    mapped = {mapping.table.name for mapping in services(Settings())[name].store.mappings}
    assert {table.name for table in tables if not table.info.get(ASIDE)} == mapped - {"signing_keys"}


@pytest.mark.parametrize("name", SERVICES)
def test_whatever_a_journal_can_hold_is_known_to_replay(name: str) -> None:
    here = f"{name}_service.commands"
    wishes = {one for one in vars(import_module(here)).values() if _is_command_of(here, one)}
    reacted = {
        one for one in vars(import_module(f"{name}_service.react")).values() if _is_command_of(here, one)
    }
    assert wishes - reacted == set(services(Settings())[name].obeys)


def _is_command_of(module: str, one: object) -> bool:
    return isinstance(one, type) and issubclass(one, Command) and one.__module__ == module

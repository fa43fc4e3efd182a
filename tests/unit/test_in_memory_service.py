"""What replay makes, and what it must not."""

from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from typing import get_args, get_type_hints

import pytest

from choreo.chassis.database.tables import signing_keys
from choreo.chassis.registry import services
from choreo.chassis.settings import Settings
from choreo.message.decider import Command, types_of
from choreo.message.signing_key import SigningKeyPublished
from choreo.message.state import SHARED_FACTS
from choreo.replay.engine.in_memory_service import InMemoryService
from tests.services import SERVICES
from tests.unit.spec import START, event


@pytest.mark.parametrize("name", SERVICES)
def test_whatever_a_journal_can_hold_is_known_to_replay(name: str) -> None:
    here = f"{name}_service.commands"
    wishes = {one for one in vars(import_module(here)).values() if _is_command_of(here, one)}
    service = services(Settings())[name]
    reacted: set[type[Command]] = set()
    if service.decider.react:
        reacted |= set(types_of(*get_args(get_type_hints(service.decider.react)["return"])))
    assert wishes - reacted == set(service.commands)
    decide = service.decider.decide
    decide = decide.func if isinstance(decide, partial) else decide
    assert wishes == set(types_of(get_type_hints(decide)["command"]))


def _is_command_of(module: str, one: object) -> bool:
    return isinstance(one, type) and issubclass(one, Command) and one.__module__ == module


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_keeps_the_signing_keys_it_is_told_of_and_decides_nothing_because_of_them(
    name: str,
) -> None:
    service = services(Settings())[name]
    assert SigningKeyPublished in SHARED_FACTS
    assert (SigningKeyPublished in service.consumes) == (name != "user"), (
        "it is the user service that decides"
    )
    in_memory = InMemoryService(service)
    for not_after in (datetime(2031, 1, 1, tzinfo=UTC), datetime(2030, 1, 2, tzinfo=UTC)):
        told = SigningKeyPublished(kid="k1", public_jwk={"kty": "OKP"}, not_after=not_after)
        taken = in_memory.take("k1", event(told, 1), START)
        assert taken.run().events == ()
        (written,) = in_memory.keep("k1", taken)
        assert (written[0].table, written[2]) == (signing_keys, told)
        assert taken.state.signing_keys.keys() <= {"k1"}
    assert written[1] and written[1].not_after == datetime(2031, 1, 1, tzinfo=UTC), (
        "a key that is told of again is found"
    )

"""One input through a service's functions, whatever the service."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from choreo.chassis.registry import services
from choreo.chassis.settings import Settings
from choreo.chassis.transaction.step import Decider, hear, obey
from choreo.message.decider import UserCommand
from choreo.message.envelope import Cause, Event
from choreo.message.fact import Fact
from events.billing import MoneyDeposited
from tests.services import SERVICES
from tests.unit.spec import event

ADA = uuid4()
MONDAY = datetime(2030, 1, 7, tzinfo=UTC)
Applied = tuple[Event[Fact], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split(UserCommand):
    times: int


def decide(command: Split, state: Applied, now: datetime) -> list[Fact]:
    return [
        MoneyDeposited(entry_id=UUID(int=number), user_id=ADA, amount=1, balance=number)
        for number in range(command.times)
    ]


def evolve(state: Applied, event: Event[Fact]) -> Applied:
    return (*state, event)


def react(event: Event[Any], state: Applied) -> list[Split]:
    return [Split(cause=event.cause, user_id=ADA, times=2)] if event.data.amount > 1 else []


DECIDER = Decider[Applied]("billing", decide, evolve, react)


def test_facts_of_one_type_and_one_cause_have_ids_and_numbers_of_their_own() -> None:
    command = Split(cause=Cause.root(uuid4()), user_id=ADA, times=4)
    first, again = (obey(DECIDER, (), command, MONDAY, 7) for _ in range(2))
    assert first.events == again.events, "and the same ones, whenever it is decided"
    assert len({one.id for one in first.events}) == 4
    assert [one.sequence for one in first.events] == [8, 9, 10, 11]
    assert first.sequence == 11


def test_what_is_heard_takes_the_next_number_and_what_follows_those_behind_it() -> None:
    heard = event(MoneyDeposited(entry_id=uuid4(), user_id=ADA, amount=2, balance=2), 1)
    outcome = hear(DECIDER, (), heard, MONDAY, 7)
    assert [one.applied_sequence for one in outcome.state] == [8, 9, 10]
    assert [one.sequence for one in outcome.events] == [9, 10]
    assert outcome.sequence == 10


@pytest.mark.parametrize("name", SERVICES)
def test_rows_are_asked_for_by_their_key_and_by_their_own_name_each_by_its_own_values(name: str) -> None:
    for mapping in services(Settings())[name].store.mappings:
        ways = [mapping.loaded_with_key is not None, mapping.loaded_by_id is not None]
        asked = mapping._select.text
        assert [f"${number}" in asked for number in (1, 2, 3)] == [any(ways), all(ways), False]
        if ways[0]:
            assert f"{mapping.key} = ANY($1" in asked

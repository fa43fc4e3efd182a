"""What a service says twice is compared, and each difference is a sentence with its cure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import Column, MetaData, Table, Text

from billing_service import commands as billing
from billing_service import tables
from billing_service.state import Account, Billing
from choreo.chassis import agreement
from choreo.chassis.agreement import all_disagreements, disagreements, require_agreement
from choreo.chassis.registry import descriptions, examples
from choreo.chassis.service import Follow, Id, Service
from choreo.chassis.transaction.state_store import StateStore, TableMapping
from choreo.errors import Unavailable
from choreo.message.catalog import published_by
from choreo.message.decider import Decision
from choreo.message.envelope import Event
from events.billing import PaymentConfirmed
from events.order import OrderCreated
from events.user import UserRegistered
from tests.installing import installed_without


@pytest.fixture
def service() -> Service[Any]:
    return descriptions()["billing"]


def test_our_services_agree_with_themselves() -> None:
    assert all_disagreements() == []
    require_agreement([])
    with pytest.raises(Unavailable, match=r"^this\.$"):
        require_agreement(["this.", "that."])


def test_a_fact_that_is_heard_of_a_service_that_is_not_installed() -> None:
    with installed_without("order"):
        assert all_disagreements() == [
            f"billing: it hears {fact}, and no order service is installed: install it, or take the fact out "
            "of Consumed."
            for fact in ("OrderCreated", "OrderCancelled")
        ]
    with installed_without("user"):
        assert (
            "order: it hears SigningKeyPublished, and no user service is installed, so that every request "
            "with a token gets 503: install it."
        ) in all_disagreements()


def test_an_example_is_asked_for_of_every_fact_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    less = {type: event for type, event in examples().items() if type != "OrderCreated"}
    monkeypatch.setattr(agreement, "examples", lambda: less)
    (told,) = all_disagreements()
    assert told.startswith("order: there is no example of OrderCreated: name one in service.py (examples)")


def test_a_fact_that_is_consumed_and_not_evolved(service: Service[Any]) -> None:
    def evolve(state: Billing, event: Event[UserRegistered]) -> Billing:
        return state

    decided = [fact.__name__ for fact in published_by("billing")]
    told = disagreements(replace(service, decider=replace(service.decider, evolve=evolve)))
    assert (
        "billing: Consumed names OrderCreated and evolve has no case for it: add one, or do not name it."
        in told
    )
    assert len(told) == len(decided) + len(service.own_consumed) - 1


def test_a_fact_that_is_evolved_and_not_consumed(service: Service[Any]) -> None:
    less = tuple(fact for fact in service.own_consumed if fact is not OrderCreated)
    told = disagreements(replace(service, own_consumed=less, follows=()))
    assert [sentence.partition(",")[0] for sentence in told] == [
        "billing: evolve has a case for OrderCreated",
        "billing: react has a case for OrderCreated",
    ]


def test_a_command_that_is_not_taken_and_one_that_nobody_asks_for(service: Service[Any]) -> None:
    def decide(command: billing.Deposit, state: Billing, now: datetime) -> Decision:
        return []

    def react(event: Event[Any], state: Billing) -> Sequence[billing.OpenAccount]:
        return []

    only = replace(service.decider, decide=decide, react=None)
    assert disagreements(replace(service, decider=only, commands=(billing.Deposit, billing.Withdraw))) == [
        "billing: Commands or react name Withdraw and decide does not take it: add a case for it."
    ]
    assert disagreements(replace(service, decider=only, commands=())) == [
        "billing: decide takes Deposit and nobody asks for it: name it in Commands, or take it out."
    ]
    reacting = replace(only, react=react)
    told = disagreements(replace(service, decider=reacting, commands=(billing.Deposit,)))
    assert any("name OpenAccount and decide does not take it" in sentence for sentence in told)


def test_a_fact_without_an_example(service: Service[Any]) -> None:
    there = examples().keys() - {"PaymentConfirmed"}
    assert disagreements(service, there) == [
        "billing: there is no example of PaymentConfirmed: name one in service.py (examples), or in "
        "events/examples.py."
    ]


def test_what_follows_from_a_fact_that_is_not_heard_or_is_somebody_elses(service: Service[Any]) -> None:
    told = disagreements(replace(service, follows=(Follow(PaymentConfirmed, (OrderCreated,)),)))
    assert told == [
        "billing: it decides because of PaymentConfirmed, and does not hear it: name it in Consumed.",
        "billing: OrderCreated shall follow from PaymentConfirmed, and is not decided here: name it among "
        "its events, or take it out of follows.",
    ]


def test_a_field_that_is_asked_for_and_is_not_there(service: Service[Any]) -> None:
    due = Follow(OrderCreated, (PaymentConfirmed,), about="order_id", due="tomorrow")
    assert disagreements(replace(service, follows=(due,))) == [
        "billing: follows ask for tomorrow of OrderCreated, which has none: correct it."
    ]
    assert disagreements(replace(service, ids=(Id("deposit", "SELECT", in_commands="deposit_id"),))) == [
        "billing: the deposit is looked for in deposit_id of commands, and none has it: correct ids."
    ]


@dataclass(frozen=True, slots=True)
class Noted(Account):
    note: str = ""


def test_a_field_without_a_column_and_a_column_without_a_field(service: Service[Any]) -> None:
    def with_accounts(row: type[Any], table: Table) -> Service[Any]:
        (accounts, *others) = service.own_store.mappings
        mapping = TableMapping(accounts.field, table, row, accounts.key, single=True, loaded_with_key={})
        return replace(service, own_store=StateStore(Billing, (mapping, *others)))

    assert disagreements(with_accounts(Noted, tables.accounts)) == [
        "billing: Noted has the field note and the table accounts no such column: add it to tables.py and "
        "run `choreo migration billing`, or take the field away."
    ]
    wider = tables.accounts.to_metadata(MetaData())
    wider.append_column(Column("memo", Text))
    assert disagreements(with_accounts(Account, wider)) == [
        "billing: the table accounts has the column memo and Account no such field: add it."
    ]


def test_a_table_in_which_nothing_of_a_state_is_kept(service: Service[Any]) -> None:
    accounts, payments, ledger = service.own_store.mappings
    assert {mapping.table.name for mapping in (accounts, payments, ledger)} == {
        "accounts",
        "payments",
        "ledger",
    }
    assert disagreements(replace(service, own_store=StateStore(Billing, (accounts, payments)))) == [
        "billing: no row of a state is kept in the table ledger: map it in store.py, or say NOT_REPLAYED "
        "of it in tables.py."
    ]

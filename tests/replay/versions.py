"""A fact that has had a past version, for a service to hear. `introduce` is called in each process."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from billing_service import service as billing_service
from billing_service.evolve import Consumed
from billing_service.evolve import evolve as _evolve
from billing_service.react import react as _react
from billing_service.state import Billing
from choreo.message.catalog import FACT_OF_TYPE, SOURCE_OF_TYPE
from choreo.message.codec import Record, encode
from choreo.message.decider import Command
from choreo.message.envelope import Event
from choreo.message.upcast import UPCASTERS
from tests.component.alone import an_event
from tests.replay.goodwill import GoodwillGranted


def introduce(patch: pytest.MonkeyPatch | None = None) -> None:
    """Into the catalogue, and into what billing hears: it adds to the balance. Without `patch`, for good."""
    patch = patch or pytest.MonkeyPatch()
    name = GoodwillGranted.__name__
    patch.setitem(FACT_OF_TYPE, name, GoodwillGranted)
    patch.setitem(SOURCE_OF_TYPE, name, "order")
    patch.setitem(UPCASTERS, (name, 1), lift_from_1)
    patch.setattr(billing_service, "Consumed", Consumed | GoodwillGranted)
    patch.setattr(billing_service, "evolve", evolve)
    patch.setattr(billing_service, "react", react)


def lift_from_1(data: dict[str, Any]) -> dict[str, Any]:
    return {"user_id": data["user_id"], "amount": data["euros"] * 100}


def evolve(state: Billing, event: Event[Any]) -> Billing:
    if not isinstance(event.data, GoodwillGranted):
        return _evolve(state, event)
    if state.account is None:
        return state
    return replace(state, account=replace(state.account, balance=state.account.balance + event.data.amount))


def react(event: Event[Any], state: Billing) -> Sequence[Command]:
    return [] if isinstance(event.data, GoodwillGranted) else _react(event, state)


def of_version_2(user: UUID, amount: int) -> Record:
    return encode(an_event(GoodwillGranted(user_id=user, amount=amount)))


def of_version_1(user: UUID, euros: int) -> Record:
    """As the release that knew no other wrote it."""
    today = of_version_2(user, 1)
    value = f'{{"user_id":"{user}","euros":{euros}}}'.encode()
    headers = [
        (name, b"urn:choreo:GoodwillGranted:1" if name == "ce_dataschema" else told)
        for name, told in today.headers
    ]
    return Record(today.key, value, headers)

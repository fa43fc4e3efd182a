"""The law of `tests/unit/test_choreography.py` on the real Kafka and Postgres.

Customers act out scripts at once, as fast as they are answered, while a deadline of 50 ms goes off beside
them: cancels, expiries, payments and registrations overtake each other wherever they may.
"""

import asyncio
from datetime import timedelta
from typing import Literal, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from choreo.demo.client import Customer
from order_service import admission, expiry
from tests.choreography.ending import ending, introduce, settled, stranger
from tests.law import breaches
from tests.services import SERVICES
from tests.shop import Shop


class Act(NamedTuple):
    what: Literal["register", "deposit", "withdraw", "order", "cancel", "wait"]
    number: int
    """Units of money, or which order."""


Script = list[Act]

acts = st.builds(
    Act,
    st.sampled_from(["register", "deposit", "order", "order", "cancel", "cancel", "withdraw", "wait"]),
    st.integers(1, 4),
)
known = st.just([Act("register", 0), Act("wait", 0), Act("deposit", 4)])
scripts = st.tuples(st.just([]) | known, st.lists(acts, max_size=8)).map(lambda parts: parts[0] + parts[1])


@pytest.fixture
async def hurried(closed_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr(expiry, "_PAUSE", 0.01)
    # So short a deadline is no reason to turn anybody away: a busy machine takes a second for an order.
    monkeypatch.setattr(admission, "_LEAST", timedelta(minutes=1))
    closed_shop.settings = closed_shop.settings.model_copy(update={"own": {"order": {"decide_within": 0.05}}})
    await closed_shop.start(*SERVICES)
    return closed_shop


@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # threads of Kafka's clients do
@given(st.lists(scripts, min_size=8, max_size=16))
@settings(
    max_examples=10,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)
async def test_money_and_status_agree_in_the_end_whatever_came_when(
    hurried: Shop, scripts: list[Script]
) -> None:
    cast = [(stranger(hurried), script) for script in scripts]
    await asyncio.gather(*(play(hurried, who, script) for who, script in cast))
    await settled(hurried)
    found = await ending(hurried)
    assert breaches(found) == []


async def play(shop: Shop, who: Customer, script: Script) -> None:
    """Whatever is answered: who has no account yet cannot deposit, and what is over is not cancelled."""
    orders: list[str] = []
    registered = False
    for act in script:
        match act.what:
            case "register" if not registered:
                registered = True
                await introduce(shop, who)
            case "deposit":
                await who.deposit(f"{act.number}.00")
            case "withdraw":
                await who.withdraw(f"{act.number}.00")
            case "order":
                orders.append((await who.order(f"{act.number}.00")).raise_for_status().json()["id"])
            case "cancel" if orders:
                answer = await who.cancel(orders[act.number % len(orders)])
                assert answer.status_code in (202, 409), answer.text
            case "wait" if orders:
                await who.get("order", f"/orders/{orders[-1]}", wait=20)
            case "wait" if registered:
                await shop.account_of(who)
    if not registered:
        await introduce(shop, who)

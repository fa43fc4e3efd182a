"""By which ids people may ask for what happened: in a recording, and that each service declares its own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner

from choreo.chassis.registry import services
from choreo.chassis.settings import Settings
from choreo.cli.main import app
from choreo.errors import UsageError
from choreo.message.codec import encode
from choreo.message.envelope import Event
from choreo.message.fact import Fact
from choreo.replay.sources.records import OutboxRecord
from choreo.replay.trace.ids import Wanted, named_in, the_one
from events.examples import story
from events.user import UserRegistered
from tests.replay.constructed import Constructed, a_story
from tests.unit.facts import ADA

IDS = {name: service.ids for name, service in services(Settings()).items()}


@pytest.fixture(scope="module")
def shop() -> Constructed:
    return a_story()


@pytest.fixture(scope="module")
def file(shop: Constructed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop.recorded(tmp_path_factory.mktemp("recorded") / "story.ndjson")


def traced(id: str, file: Path) -> tuple[int, list[Any], str]:
    """Exit code, flows, what is said on standard error."""
    result = CliRunner().invoke(app, ["trace", id, str(file), "--json"])
    return result.exit_code, json.loads(result.stdout)["flows"] if result.stdout else [], result.stderr


def the(shop: Constructed, type: str) -> Event[Any]:
    return next(event for events in shop.topics.values() for event in events if event.type == type)


def test_whatever_id_of_an_order_is_at_hand_its_flows_are_shown(shop: Constructed, file: Path) -> None:
    ordered, paid = the(shop, "OrderCreated"), the(shop, "PaymentConfirmed")
    told = the(shop, "NotificationSent") if shop.topics.get("notification") else paid
    order = str(ordered.data.order_id)
    code, flows, _ = traced(order, file)
    assert (code, len(flows)) == (0, 2), "it was placed and cancelled"
    for id in (
        f"  {order.upper()}\n",
        order.replace("-", ""),
        order[:8],
        order[:11],
        f"{order[:8]}…",
        str(paid.data.payment_id),
        str(paid.id)[:12],
        str(told.id),
        str(ordered.correlation_id),
        f"00-{ordered.trace_id}-00f067aa0ba902b7-01",
        "order-events[0]@0",
    ):
        assert traced(id, file)[:2] == (0, flows), id


def test_a_user_is_found_by_login_and_address_however_they_are_spelt(shop: Constructed, file: Path) -> None:
    code, flows, _ = traced(str(ADA), file)
    assert code == 0 and len(flows) > 5
    account = str(the(shop, "AccountCreated").data.account_id)
    for name in ("Ada", " \uff41\uff24\uff21 ", "ADA@Example.org", str(ADA)[:8], str(ADA).upper()):
        assert traced(name, file)[:2] == (0, flows), name
    assert {flow["flow"] for flow in traced(account, file)[1]} == {
        str(the(shop, "AccountCreated").correlation_id)
    }


def test_a_user_is_a_key_by_any_of_these_and_an_event_a_moment(shop: Constructed, file: Path) -> None:
    def said(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return result.exit_code, result.stdout

    paid = the(shop, "PaymentConfirmed")
    for key in ("ada", str(paid.data.order_id), str(ADA)[:10]):
        state = ["state", "billing", "--at", str(paid.id)[:8], "--key", key, file]
        assert said(*state) == said("state", "billing", "--at", paid.id, "--key", ADA, file)
        replay = ["replay", file, "--service", "billing", "--until", f" {str(paid.id)[:8]}", "--key", key]
        whole = ["replay", file, "--service", "billing", "--until", paid.id, "--key", ADA]
        assert said(*replay) == said(*whole)
        assert said(*whole)[0] == 0


def test_what_nothing_has_is_a_sentence_and_so_is_too_little_of_an_id(shop: Constructed, file: Path) -> None:
    for id in (str(the(shop, "OrderCreated").id)[:7], "grace", str(UUID(int=7)), "order-events[0]@700"):
        code, flows, says = traced(id, file)
        assert (code, flows) == (1, []) and id in says and len(says.splitlines()) == 1, says


def registered(id: UUID, login: str) -> Event[Fact]:
    told = next(event for event in story() if event.type == "UserRegistered")
    return replace(told, key=str(id), data=UserRegistered(user_id=id, login=login, email="a@example.org"))


def test_what_begins_two_ids_or_names_two_users_is_one_sentence_that_lists_them() -> None:
    ada = "abcdef01-0000-5000-8000-000000000001"
    grace = "abcdef01-0000-5000-8000-000000000002"
    both = [
        OutboxRecord("user", encode(registered(UUID(id), login)))
        for id, login in ((ada, "abcdef01"), (grace, "grace"))
    ]
    for text, listed in (
        ("ABCDEF01", f"user and login {ada}, user {grace}"),
        ("A@example.org", f"e-mail address {ada}, e-mail address {grace}; say which"),
    ):
        wanted = Wanted.of(text)
        with pytest.raises(UsageError) as several:
            the_one(named_in(both, IDS, wanted), wanted)
        assert listed in str(several.value) and len(str(several.value).splitlines()) == 1
    wanted = Wanted.of("Grace")
    assert [one.id for one in the_one(named_in(both, IDS, wanted), wanted)] == [grace]

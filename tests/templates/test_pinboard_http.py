"""The pinboard service alone: over HTTP with its real database, while the test plays the consumer."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from choreo.demo.client import Customer
from choreo.embedded.postgres import Postgres
from events.user import UserRegistered
from tests.component.alone import Alone, alone, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pinboard(postgres: Postgres, templates: dict[str, str]) -> AsyncIterator[Alone]:
    async with alone("pinboard", postgres, templates) as service:
        yield service


async def holder(pinboard: Alone) -> Customer:
    customer = await pinboard.customer()
    user = UserRegistered(user_id=customer.id, login=customer.login, email=f"{customer.login}@example.com")
    await pinboard.hear(user)
    return customer


async def test_it_is_not_there_before_the_registration_is_heard(pinboard: Alone) -> None:
    early = await pinboard.customer()
    assert_problem(await early.get("pinboard", "/pinboard"), 404, "not_found")
    too_early = await early.post("pinboard", "/pinboard/notes", {"text": "Strings"})
    assert_problem(too_early, 404, "not_found")
    assert too_early.headers["Retry-After"] == "1"


async def test_the_same_request_again_pins_nothing_more(pinboard: Alone) -> None:
    ada = await holder(pinboard)
    first = await ada.post("pinboard", "/pinboard/notes", {"text": "Strings"}, "once")
    again = await ada.post("pinboard", "/pinboard/notes", {"text": "Strings"}, "once")
    assert (first.status_code, again.json()) == (201, first.json())
    assert (await ada.get("pinboard", "/pinboard")).json()["notes"] == 1


async def test_notes_come_in_pages_newest_first(pinboard: Alone) -> None:
    ada = await holder(pinboard)
    for text in ("one", "two", "three"):
        (await ada.post("pinboard", "/pinboard/notes", {"text": text})).raise_for_status()
    page = (await ada.get("pinboard", "/pinboard/notes", limit=2)).json()
    assert [note["text"] for note in page["items"]] == ["three", "two"]
    rest = (await ada.get("pinboard", "/pinboard/notes", cursor=page["next"])).json()
    assert ([note["text"] for note in rest["items"]], rest["next"]) == (["one"], None)

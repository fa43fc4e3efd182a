"""The console as a person has it: in a real Chromium, on a live system and on a recording, by keys alone."""

import re
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, ViewportSize, async_playwright

from billing_service import service as billing_service
from billing_service.evolve import evolve
from billing_service.state import Billing
from choreo.cli.debugging.record import recorded
from choreo.console import app as console
from choreo.console import views
from choreo.console.server import server_of
from choreo.console.views import Views
from choreo.embedded.ports import LOOPBACK, listen
from choreo.embedded.postgres import Postgres
from choreo.message.envelope import Event
from choreo.operations.reading.replay_source import System
from choreo.replay.sources.recording import Recording
from events.order import OrderCreated
from tests.brokers import Broker
from tests.services import SERVICES
from tests.shop import Shop, a_shop

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_MS = 120_000.0
"""For anything that comes by itself, on a machine with much else to do."""
WIDE, NARROW = ViewportSize(width=1280, height=800), ViewportSize(width=360, height=640)

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium"),
    pytest.mark.asyncio(loop_scope="module"),
]


@contextmanager
def served(where: System) -> Iterator[str]:
    """Yields its address. In a thread, as its views are in a loop of their own elsewhere."""
    with listen(0, "a test") as listening:
        server = server_of(Views(where), [LOOPBACK])
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://{LOOPBACK}:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


TOO_MUCH = 1313
"""Over this order billing stumbles."""


def stumbling(state: Billing, event: Event[Any]) -> Billing:
    if isinstance(event.data, OrderCreated) and event.data.price == TOO_MUCH:
        raise ZeroDivisionError("a bug")
    return evolve(state, event)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(
    kafka: Broker, postgres: Postgres, templates: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Shop]:
    """In which an order was paid, another rejected, and one parked. It goes on."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(billing_service, "evolve", stumbling)
        async with a_shop(kafka, postgres, templates, tmp_path_factory.mktemp("mail") / "mail") as shop:
            await shop.start(*SERVICES)
            ada, bob = await shop.customer("400.00"), await shop.customer("20.00")
            for price, becomes in (("100.00", "confirmed"), ("500.00", "rejected")):
                assert (await ada.order(price, wait=30)).json()["status"] == becomes
            assert (await bob.order("13.13")).status_code == 202
            await shop.notified(ada, 2)
            yield shop


@pytest.fixture(scope="module")
def live(shop: Shop) -> Iterator[str]:
    """Its console, which has nothing but the observer's credential."""
    roles = {name: name for name in SERVICES}
    observer = replace(
        shop.installation, database_urls=shop.observer_urls, owner_urls={}, runtime_roles=roles
    )
    with pytest.MonkeyPatch.context() as monkeypatch, served(observer) as address:
        monkeypatch.setattr(console, "_LOOK_AGAIN_SECONDS", 0.1)
        monkeypatch.setattr(console, "_LEAST_REST", 0.0)
        yield address


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


class Person:
    """Who has a page open, and nothing but a keyboard."""

    def __init__(self, page: Page) -> None:
        page.set_default_timeout(PATIENCE_MS)
        self.page = page
        self.wrong: list[str] = []
        """What the browser's own console says."""
        page.on("console", lambda told: self.wrong.append(told.text) if told.type != "log" else None)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("requestfailed", lambda request: self._failed(request.url, request.failure or ""))

    def _failed(self, url: str, why: str) -> None:
        if "ERR_ABORTED" not in why:  # as what is followed is by whoever leaves the page
            self.wrong.append(f"{url}: {why}")

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.page.keyboard.press(key)

    async def go(self, *keys: str) -> str:
        """Returns what the page that these keys lead to says."""
        async with self.page.expect_navigation():
            await self.press(*keys)
        return await self.reads()

    async def move_to(self, text: str) -> None:
        """Along the list, until what is chosen says so."""
        for _ in range(50):
            await self.press("j")
            if text in await self.page.evaluate("document.activeElement.textContent"):
                return
        raise AssertionError(f"no {text} in {await self.reads()}")

    async def reads(self) -> str:
        return await self.page.inner_text("main")


@pytest_asyncio.fixture(loop_scope="module")
async def person(chromium: Browser) -> AsyncIterator[Person]:
    """Whose browser has nothing to complain of."""
    page = await chromium.new_page()
    person = Person(page)
    yield person
    await page.close()
    assert person.wrong == []


# -- keys ----------------------------------------------------------------------------------------------


async def test_by_keys_alone_one_finds_why_what_the_balance_was_and_which_line_decided(
    live: str, person: Person
) -> None:
    await person.page.goto(live)
    await person.go("g", "f")
    rejected = await person.go("4")
    assert "PaymentRejected" in rejected and "PaymentConfirmed" not in rejected
    await person.press("j")
    flow = await person.go("Enter")
    assert re.search(r"PaymentRejected.*insufficient_funds, balance 300\.00", flow), "why"
    await person.move_to("billing then")
    payments = await person.go("Enter")
    assert re.search(r"PaymentRejected.*billing_service/decide\.py:\d+", payments, re.S), "the line"
    await person.press("?")
    keys = await person.page.inner_text("dialog")
    (accounts,) = re.findall(r"(\d)\s+accounts", keys)
    await person.press("Escape")
    await person.go(accounts)
    before = await person.go("ArrowLeft")
    assert re.search(r"balance\s.*\s300\.00\s", before, re.S), "the balance before it"
    assert "balance 400.00 → 300.00" in before


async def test_a_key_does_nothing_in_a_field_and_with_the_browsers_own_keys(
    live: str, shop: Shop, person: Person
) -> None:
    await person.page.goto(f"{live}/flows")
    await person.press("Control+f", "/")
    await person.page.keyboard.type("g4?j")
    assert await person.page.input_value("#q") == "g4?j"
    assert not await person.page.is_visible("dialog")
    await person.press("Escape", "g", "x", "?")
    assert await person.page.is_visible("dialog")
    assert "any id, login or place" in await person.page.inner_text("dialog")
    await person.press("4")
    assert person.page.url == f"{live}/flows", "what is open is closed first"
    await person.press("Escape")
    assert not await person.page.is_visible("dialog")
    found = await person.go("/", *f"{shop.settings.topic_prefix}order-events", "Enter")
    assert "OrderCreated" in found


# -- what changes by itself ----------------------------------------------------------------------------

SHIFTS = """
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.shifted = (window.shifted ?? 0) + entry.value;
}).observe({type: "layout-shift", buffered: true});
"""
KEPT = """
document.addEventListener("htmx:sse:before:message", (event) => {
  if (event.defaultPrevented) console.log("kept");
});
"""
A_LITTLE = 0.1
"""Of the window, as web.dev's Cumulative Layout Shift counts it: what is below is good."""


async def test_a_new_flow_comes_onto_the_first_page_unless_somebody_is_there(
    live: str, shop: Shop, person: Person
) -> None:
    page = person.page
    carl = await shop.customer("50.00")
    await page.goto(live)
    await page.evaluate(SHIFTS)
    flow = (await carl.order("1.23", wait=30)).headers["Flow-Id"]
    await page.wait_for_selector(f"#f-{flow}")
    await page.wait_for_function(
        f"document.getElementById('f-{flow}').textContent.includes('NotificationSent')"
    )
    assert (await page.evaluate("window.shifted ?? 0")) < A_LITTLE
    await person.press("j")
    chosen = await page.evaluate("document.activeElement.href")
    for_later = (await carl.order("2.34", wait=30)).headers["Flow-Id"]
    async with page.expect_event("console", lambda told: told.text == "kept"):
        await page.evaluate(KEPT)
    assert await page.evaluate("document.activeElement.href") == chosen
    assert await page.query_selector(f"#f-{for_later}") is None
    await person.press("Escape")
    await page.wait_for_selector(f"#f-{for_later}")


async def test_a_flow_is_seen_while_it_runs_and_no_longer(live: str, shop: Shop, person: Person) -> None:
    page = person.page
    dora = await shop.customer("50.00")
    await shop.stop("billing")
    order = (await dora.order("1.00")).json()["id"]
    await page.goto(f"{live}/flows/{order}")
    assert "PaymentConfirmed or PaymentRejected" in await person.reads()
    async with page.expect_event("console", lambda told: told.text == "message"):
        await page.evaluate("document.addEventListener('htmx:sse:close', e => console.log(e.detail.reason))")
        await shop.start("billing")
    assert re.search(r"PaymentConfirmed amount", await person.reads())
    await page.reload()
    assert await page.query_selector("#live") is None, "it has ended"


async def test_a_verification_is_begun_followed_and_cancelled_by_keys(live: str, person: Person) -> None:
    await person.page.goto(live)
    await person.go("g", "v")
    assert "Verifying since" in await person.go("v")
    await person.page.wait_for_selector("main h2, main .gap")
    assert "Verified: match" in await person.reads()
    assert "What if since" in await person.go("w")
    assert "It was cancelled." in await person.go("c")


# -- tables --------------------------------------------------------------------------------------------


async def test_a_table_is_there_by_pages_and_each_row_leads_to_its_past(
    live: str, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "_ROWS", 1)
    await person.page.goto(f"{live}/at/billing/accounts")
    seen = {await person.page.inner_text("tbody tr")}
    while await person.page.query_selector("a[rel=next]"):
        await person.go("n")
        seen.add(await person.page.inner_text("tbody tr"))
    assert len(seen) >= 2 and any("300.00" in row for row in seen)
    await person.press("j")
    assert "What became of row" in await person.go("Enter")


# -- every screen --------------------------------------------------------------------------------------


async def screens(person: Person, address: str, topic: str) -> list[str]:
    """Every screen there is, each with something on it."""
    await person.page.goto(f"{address}/flows?outcome=rejected")
    flow = await person.page.get_attribute("[data-row]", "href")
    await person.page.goto(f"{address}{flow}")
    then = await person.page.get_attribute("[data-row]", "href")
    fixed = "/", "/flows", "/at", f"/log/{topic}", "/verify", "/parked"
    return [*fixed, *(path for path in (flow, then, f"{then}&diff=live") if path)]


SERIOUS = {"serious", "critical"}


@pytest.mark.parametrize("of", ["a live system", "a recording"])
async def test_every_screen_is_for_everybody(
    of: str, live: str, shop: Shop, chromium: Browser, tmp_path: Path
) -> None:
    """Light and dark, wide and narrow, and nothing is amiss in the browser's console."""
    with ExitStack() as stack:
        address = live
        if of == "a recording":
            await recorded(shop.installation, tmp_path / "shop.ndjson")
            address = stack.enter_context(served(Recording(tmp_path / "shop.ndjson")))
        page = await chromium.new_page()
        person = Person(page)
        for path in await screens(person, address, f"{shop.settings.topic_prefix}order-events"):
            await page.set_viewport_size(WIDE)
            await page.goto(address + path)
            for scheme in ("light", "dark"):
                await page.emulate_media(color_scheme=scheme)
                found = (await Axe().run(page)).response["violations"]
                told = [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in SERIOUS]
                assert told == [], (path, scheme)
            await page.set_viewport_size(NARROW)
            assert await page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"], path
        assert person.wrong == []
        await page.close()

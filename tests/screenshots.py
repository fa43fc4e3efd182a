"""Makes the pictures in docs/console/ anew, of a system that is started for the purpose and gone afterwards.

    make pictures

They are to be looked at before they are committed: no test does.
"""

from pathlib import Path
from uuid import UUID

from playwright.sync_api import Page, ViewportSize, sync_playwright

from choreo.benchmarks.observe import Journals
from choreo.operations.acting.throwaway import ThrowawaySystem, asked_to_stop
from tests.e2e.outside import Shop, until
from tests.replay.test_console_in_chromium import CHROMIUM

FOLDER = Path("docs", "console")
SIZE = ViewportSize(width=1000, height=640)


def main() -> None:
    if CHROMIUM is None:
        print(f"{FOLDER} is left as it is: there is no Chromium here (apt-get install chromium)")
        return
    with asked_to_stop(), ThrowawaySystem() as system:
        system.start()
        shop = Shop(system.port_base)
        _story(shop, Journals(system.run_file["owner_urls"]))
        FOLDER.mkdir(exist_ok=True)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport=SIZE, base_url=f"http://127.0.0.1:{system.port_base + 5}")
            page.set_default_timeout(120_000)
            _take(page, shop)
            browser.close()


def _story(shop: Shop, journals: Journals) -> None:
    """Somebody pays, somebody cannot, and an order of a third is parked."""
    unlucky = shop.customer("10.00")
    with journals.billing_refuses(UUID(unlucky.id)):
        unlucky.order("1.00", wait=0)
        until(journals.parked, lambda count: count == 1)
    for price in ("100.00", "500.00"):
        customer = shop.customer("400.00")
        customer.order("25.00")
        customer.order(price)
    customer.notified(2)


def _take(page: Page, shop: Shop) -> None:
    def picture(name: str) -> None:
        page.screenshot(path=FOLDER / f"{name}.png")
        print(f"{FOLDER}/{name}.png is written")

    page.goto("/")
    customer = shop.customer("400.00")
    while "…" in (page.text_content(".map") or ""):  # of one look there are no rates
        customer.order("1.00")
    picture("now")
    page.goto("/flows")
    picture("flows")
    page.goto("/flows?outcome=rejected")
    page.click("[data-row]")
    picture("flow")
    page.click("text=billing then")
    page.click("text=accounts")
    picture("time-machine")
    page.goto("/at/billing/accounts")
    picture("table")
    page.goto("/log/order-events")
    picture("log")
    page.goto("/parked")
    picture("dead-letters")
    page.goto("/verify")
    page.click("[data-key=v]")
    page.wait_for_selector("main h2, main .gap")
    picture("verify")


if __name__ == "__main__":
    main()

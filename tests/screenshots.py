"""Makes the pictures in docs/console/ anew, of a system that is started for the purpose and gone afterwards.

    make pictures

They are to be looked at before they are committed: no test does.
"""

from pathlib import Path

from playwright.sync_api import Page, ViewportSize, sync_playwright

from choreo.operations.acting.throwaway import ThrowawaySystem, asked_to_stop
from tests.e2e.outside import Shop
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
        _story(shop)
        FOLDER.mkdir(exist_ok=True)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport=SIZE, base_url=f"http://127.0.0.1:{system.port_base + 5}")
            page.set_default_timeout(120_000)
            _take(page)
            browser.close()


def _story(shop: Shop) -> None:
    for price in ("100.00", "500.00"):
        customer = shop.customer("400.00")
        customer.order("25.00")
        customer.order(price)
    customer.notified(2)


def _take(page: Page) -> None:
    def picture(name: str) -> None:
        page.screenshot(path=FOLDER / f"{name}.png")
        print(f"{FOLDER}/{name}.png is written")

    page.goto("/")
    picture("now")
    page.goto("/flows")
    picture("flows")
    page.goto("/flows?outcome=rejected")
    page.click("[data-row]")
    picture("flow")
    page.click("text=billing then")
    page.click("text=accounts")
    picture("time-machine")
    page.goto("/log/order-events")
    picture("log")
    page.goto("/parked")
    picture("dead-letters")
    page.goto("/verify")
    page.click("text=Verify >> css=button")
    page.wait_for_selector("main h2, main .gap")
    picture("verify")


if __name__ == "__main__":
    main()

"""The mission's story, over HTTP, on the real Kafka and Postgres, in each style."""

from choreo.demo.client import Customer, registration
from tests.shop import Shop


async def test_the_story(styled_shop: Shop) -> None:
    shop = styled_shop
    user = shop.clients["user"]
    ada = await Customer.register(shop.clients, "Ada")
    assert (await user.post("/users", json=registration("ADA"))).status_code == 409
    assert (await shop.clients["billing"].get("/account")).status_code == 401

    account = (await shop.account_of(ada)).json()
    assert account["balance"] == "0.00"
    assert (await ada.deposit("400.00")).json()["balance"] == "400.00"
    assert await ada.orders() == []

    confirmed = await ada.order("100.00", wait=30)
    assert (confirmed.status_code, confirmed.json()["status"]) == (201, "confirmed")
    assert (await ada.account()).json()["balance"] == "300.00"
    (told,) = await shop.notified(ada, 1)
    assert (told["kind"], told["order_id"]) == ("order_confirmed", confirmed.json()["id"])

    rejected = (await ada.order("500.00", wait=30)).json()
    assert (rejected["status"], rejected["reason"]) == ("rejected", "insufficient_funds")
    assert (await ada.account()).json()["balance"] == "300.00"
    assert [order["status"] for order in await ada.orders()] == ["rejected", "confirmed"]
    sorry, glad = await shop.notified(ada, 2)
    assert (sorry["kind"], glad["kind"]) == ("order_rejected", "order_confirmed")
    assert sorry["order_id"] == rejected["id"]

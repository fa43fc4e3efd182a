"""The pinboard service among the others, on the real Kafka and Postgres."""

from tests.shop import Shop


async def test_who_registers_has_a_pinboard(closed_shop: Shop) -> None:
    await closed_shop.start("user", "pinboard")
    ada = await closed_shop.customer()
    await closed_shop.until(
        "pinboard", ada, lambda: ada.get("pinboard", "/pinboard"), lambda answer: answer.status_code == 200
    )
    (await ada.post("pinboard", "/pinboard/notes", {"text": "Strings"})).raise_for_status()
    assert closed_shop.rows("pinboard", "SELECT user_id, notes FROM boards") == [(ada.id, 1)]

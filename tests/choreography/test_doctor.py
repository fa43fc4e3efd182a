"""`choreo doctor` on a shop: content while all is well, and for each trouble the line that names it."""

import asyncio
from collections.abc import Mapping

import psycopg
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from choreo.chassis.kafka.admin.topics import declare_topics
from choreo.message.codec import Record
from choreo.operations.reading import checkup
from choreo.operations.reading.checkup import Finding, examine
from choreo.operations.reading.installation import Installation
from tests.choreography.ending import caught_up
from tests.choreography.test_parking import producing
from tests.services import TOPICS
from tests.shop import PARTITIONS, Shop

HOUR = "now() - interval '1 hour'"


@pytest.fixture
async def busy(shop: Shop) -> Shop:
    """With a customer whose order is settled and mailed."""
    ada = await shop.customer("400.00")
    await ada.order("100.00", wait=30)
    await shop.until(
        "notification",
        ada,
        ada.notifications,
        lambda found: [told["status"] for told in found] == ["sent"],
    )
    await caught_up(shop)
    return shop


async def troubles(shop: Shop) -> Mapping[tuple[str, str], Finding]:
    """What needs a person. These services listen on no port, so nobody answers there."""
    found = await examine(shop.installation)
    prefix = shop.settings.topic_prefix
    return {
        (finding.about.removeprefix(prefix), finding.check.replace(prefix, "")): finding
        for finding in found
        if finding.needs_a_person and finding.check != "ready"
    }


def change(shop: Shop, service: str, statement: str) -> None:
    """Somebody did this to the database behind the service's back."""
    with psycopg.connect(shop.owner_urls[service]) as conn:
        conn.execute(statement.encode())


async def test_all_is_well_where_all_is_handled(busy: Shop) -> None:
    assert await troubles(busy) == {}
    checks = {
        finding.check.replace(busy.settings.topic_prefix, "") for finding in await examine(busy.installation)
    }
    assert {"holds", "replayable", "retention", "ready", "unpublished", "parked", "grants"} < checks
    assert {"reads user-events", "reads order-events", "reads billing-events"} < checks


async def test_what_is_unfinished_for_long_needs_a_person(
    busy: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await busy.stop()
    change(
        busy,
        "order",
        "INSERT INTO outbox (event_id, key, partition, value, headers, decided_at)"
        f" VALUES (gen_random_uuid(), 'k', 0, '', '', {HOUR})",
    )
    change(busy, "order", f"UPDATE orders SET status = 'created', created_at = {HOUR}")
    change(busy, "billing", "UPDATE payments SET outcome = 'waiting'")
    change(busy, "billing", f"UPDATE journal SET decided_at = {HOUR}")
    change(busy, "notification", f"UPDATE notifications SET status = 'pending', created_at = {HOUR}")
    found = await troubles(busy)
    assert set(found) == {
        ("order", "unpublished"),
        ("order", "waiting: undecided orders"),
        ("billing", "waiting: orders without an account"),
        ("notification", "waiting: mails to be sent"),
    }
    assert found["order", "unpublished"].says.startswith("1, the oldest for 36")


async def test_a_parked_event_needs_a_person_at_once(busy: Shop) -> None:
    async with producing(busy) as send:
        await send(Record(b"nobody", b"{}", []))
    await caught_up(busy)
    found = await troubles(busy)
    assert set(found) == {("billing", "parked")}
    assert found["billing", "parked"].cure == "choreo dlq ls"


async def test_what_nobody_reads_for_long_needs_a_person(busy: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await busy.stop("billing")
    async with producing(busy) as send:
        await send(Record(b"nobody", b"{}", []))
    assert await troubles(busy) == {}, "it may still be read in time"
    monkeypatch.setattr(checkup, "LONG", -60.0)  # as if a minute and more had passed
    found = await troubles(busy)
    assert set(found) == {("billing", "reads order-events")}
    assert found["billing", "reads order-events"].says.startswith("lag 1, some of it longer")


async def test_a_service_that_may_too_little_or_too_much_needs_a_person(busy: Shop) -> None:
    change(busy, "billing", "REVOKE INSERT ON payments FROM billing")
    change(busy, "billing", "GRANT UPDATE ON ledger TO billing")
    found = await troubles(busy)
    assert set(found) == {("billing", "grants")}
    assert found["billing", "grants"].says == "UPDATE on ledger is too much, INSERT on payments is missing"


async def test_a_topic_that_forgets_or_is_another_one_needs_a_person(busy: Shop) -> None:
    await busy.stop()
    admin = AdminClient(busy.kafka.admin.confluent())
    user, order, billing = (
        busy.settings.topic_prefix + TOPICS[name] for name in ("user", "order", "billing")
    )

    def act() -> None:
        retention = ConfigEntry("retention.ms", "60000", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, user, incremental_configs=[retention])
        for done in admin.incremental_alter_configs([resource]).values():
            done.result()
        places = [TopicPartition(billing, partition, -1) for partition in range(PARTITIONS)]
        for done in admin.delete_records(places).values():
            done.result()
        for done in admin.delete_topics([order]).values():
            done.result()
        declare_topics(busy.kafka.admin, [order], PARTITIONS)

    await asyncio.to_thread(act)
    found = await troubles(busy)
    assert set(found) == {
        ("user-events", "retention"),
        ("billing-events", "replayable"),
        ("billing", "reads order-events"),
    }
    assert found["user-events", "retention"].says == "forgets facts: retention.ms=60000"
    assert "is not the log that billing has read" in found["billing", "reads order-events"].says


async def test_a_topic_that_is_gone_needs_a_person(busy: Shop) -> None:
    await busy.stop()
    admin = AdminClient(busy.kafka.admin.confluent())
    topic = busy.settings.topic_prefix + TOPICS["notification"]
    await asyncio.to_thread(admin.delete_topics([topic])[topic].result)
    found = await troubles(busy)
    assert set(found) == {("Kafka", "topics")}
    assert f"the topic {topic} is not there" in found["Kafka", "topics"].says


async def test_databases_and_kafka_that_are_away_are_findings_too(closed_shop: Shop) -> None:
    away = closed_shop.settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    urls = dict.fromkeys(closed_shop.owner_urls, "postgresql://nobody@127.0.0.1:1/nothing")
    found = await examine(Installation(away, urls))
    assert [(finding.about, finding.check) for finding in found if finding.check != "ready"] == [
        ("Kafka", "answers"),
        *((name, "database") for name in urls),
    ]

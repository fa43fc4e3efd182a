"""That a position is an identity and not a number, on the real Kafka: what was read, and is it still there.

As in `test_log.py` the facts are registrations, each of which opens one account.
"""

import asyncio
import os
from collections.abc import Iterable

import psycopg
import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from choreo.embedded.kafka import Kafka
from choreo.message.codec import Record, TopicRecord
from choreo.operations.reading.checkup import examine
from choreo.replay.sources.live import open_live
from tests.brokers import Broker
from tests.choreography.test_consumer import apps_of_sessions
from tests.choreography.test_log import READ, Log, a_registration, log, looks_often, looks_once

__all__ = ["log", "looks_often", "looks_once"]


# A log that was cut and has grown again.


async def test_a_log_that_was_cut_and_has_grown_again_is_not_read(log: Log, kafka: Kafka) -> None:
    """It is longer than what was read, and its facts below that were acknowledged and never read."""
    cut = Cut(log, kafka)
    await log.register(READ)
    await log.read_to_its_end()
    await log.shop.stop("billing")
    await cut.and_grown_again(READ + 2)
    await log.shop.begin("billing")
    said = await log.says_instead_of_reading_past(
        2 * READ, "does not have at offset 5", "cut and has grown again"
    )
    assert (log.accounts(), log.position()) == (2 * READ, 2 * READ)
    doctor = await examine(log.shop.installation)
    assert any(said in f"{finding.says}" and finding.needs_a_person for finding in doctor), doctor


async def test_a_log_that_is_cut_while_it_is_read_is_not_read_on(
    looks_once: None, log: Log, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has grown again before anything more is fetched. What comes next is of another leader."""
    sessions = apps_of_sessions(monkeypatch)
    await log.shop.stop("billing")
    await log.shop.start("billing")
    cut = Cut(log, kafka)
    await log.register(READ)
    await log.read_to_its_end()
    sessions[-1].pause(log.place)
    await cut.and_grown_again(2 * READ)
    sessions[-1].resume(log.place)
    await log.says_instead_of_reading_past(2 * READ, "does not have at offset 5", "cut and has grown again")
    assert (log.accounts(), log.position()) == (2 * READ, 2 * READ)


async def test_a_log_that_lost_only_markers_and_has_grown_again_is_not_read(log: Log, kafka: Kafka) -> None:
    """The last record is still there. Behind it stands what nobody has read, where there was no record."""
    await log.read_to_its_end()
    cut = Cut(log, kafka)
    await transaction(log, [a_registration()], commits=False)
    await log.read_to_its_end()
    await log.shop.stop("billing")
    await cut.and_grown_again(3)
    await log.shop.begin("billing")
    await log.says_instead_of_reading_past(
        READ + 2, f"does not have at offset {READ + 1}", "cut and has grown again"
    )
    assert (log.accounts(), log.position()) == (READ, READ + 2)


async def test_a_new_leader_of_the_same_log_is_read_on(looks_once: None, log: Log, kafka: Broker) -> None:
    for _ in range(2):
        kafka.kill()
        kafka.start()
        await asyncio.to_thread(kafka.wait_ready)
        await log.register(READ)
        await log.read_to_its_end()
    assert log.accounts() == 3 * READ


async def test_a_position_of_before_takes_its_identity_from_the_next_record(log: Log) -> None:
    await log.shop.stop("billing")
    with psycopg.connect(log.shop.owner_urls["billing"]) as conn:
        conn.execute("UPDATE positions SET last_offset = -1, last_digest = '', leader_epoch = -1")
    await log.shop.start("billing")
    await log.register(1)
    await log.read_to_its_end()
    ((last, digest, epoch),) = log.shop.rows(
        "billing",
        "SELECT last_offset, last_digest, leader_epoch FROM positions WHERE topic = %s AND partition = 0",
        log.topic,
    )
    assert (last, len(digest), epoch) == (READ, 16, (await log.there()).leader_epoch)


# Offsets nobody has.


@pytest.mark.parametrize("ends", ["with a record", "with a marker"])
async def test_offsets_without_a_record_are_passed_and_what_was_aborted_is_not_applied(
    log: Log, ends: str
) -> None:
    await transaction(log, [a_registration(), a_registration()])
    await transaction(log, [a_registration()], commits=False)
    await transaction(log, [a_registration()])
    await transaction(log, [a_registration()], commits=False)
    if ends == "with a record":
        await log.register(1)
    await log.read_to_its_end()
    assert log.accounts() == READ + 3 + (ends == "with a record")
    await log.shop.stop("billing")
    await log.shop.start("billing")
    await log.register(1)
    await log.read_to_its_end()
    assert log.accounts() == READ + 4 + (ends == "with a record")


async def test_a_replay_passes_them_too(log: Log) -> None:
    """And says of each record from where on there was none."""
    await transaction(log, [a_registration(), a_registration()])
    await transaction(log, [a_registration()], commits=False)
    await transaction(log, [a_registration()])
    await log.read_to_its_end()
    shop = log.shop
    async with open_live(shop.kafka.admin, shop.owner_urls, shop.settings) as live:
        items = [item async for batch in live.batches() for item in batch]
    found = [item for item in items if isinstance(item, TopicRecord) and item.partition == 0]
    assert [(record.begin, record.offset) for record in found if record.topic == log.topic] == [
        *[(offset, offset) for offset in range(READ + 2)],
        (READ + 2, READ + 5),
    ]
    assert live.cut.spans[log.place].end == READ + 6


# A log that forgets.


async def test_a_compacted_topic_is_refused(looks_often: None, log: Log) -> None:
    for policy in ("compact", "compact,delete"):
        await set_policy(log, policy)
        await log.says(log.topic, f"cleanup.policy={policy}")
        await log.register(1)
        await set_policy(log, "delete")
        await log.read_to_its_end()
    assert log.accounts() == READ + 2


# Words the tests are written in.


class Cut:
    """Remembers where the log ends now, to cut it there later."""

    def __init__(self, log: Log, kafka: Kafka) -> None:
        if not isinstance(kafka, Kafka):
            pytest.skip("cuts files of the broker, which in a container are out of reach")
        self._log, self._kafka = log, kafka
        self._file = kafka.directory / "data" / "-".join(map(str, log.place)) / f"{0:020}.log"
        self._size = self._file.stat().st_size

    async def and_grown_again(self, people: int) -> None:
        self._kafka.kill()
        os.truncate(self._file, self._size)
        self._kafka.start()
        await asyncio.to_thread(self._kafka.wait_ready)
        await self._log.register(people)


async def transaction(log: Log, records: Iterable[Record], *, commits: bool = True) -> None:
    access = log.shop.kafka.admin
    async with AIOKafkaProducer(**access.aiokafka(), transactional_id=log.topic) as producer:
        await producer.begin_transaction()
        for record in records:
            await producer.send_and_wait(
                log.topic, record.value, record.key, partition=0, headers=record.headers
            )
        await (producer.commit_transaction() if commits else producer.abort_transaction())


async def set_policy(log: Log, policy: str) -> None:
    entry = ConfigEntry("cleanup.policy", policy, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, log.topic, incremental_configs=[entry])
    admin = AdminClient(log.shop.kafka.admin.confluent())
    for done in admin.incremental_alter_configs([resource]).values():
        await asyncio.wrap_future(done)

"""What may happen to a log, on the real Kafka: billing reads on rightly, or stops and says why.

The facts are registrations, each of which opens one account. How far was read is known to Postgres alone.
"""

import asyncio
import os
import struct
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from choreo.chassis.kafka.admin.topics import declare_topics
from choreo.chassis.kafka.log_reader import describe_retrying
from choreo.chassis.kafka.topic_log import PartitionLog
from choreo.embedded.kafka import Kafka
from choreo.message.codec import Record, encode
from events.user import UserRegistered
from tests.component.alone import an_event
from tests.locks import held
from tests.services import TOPICS
from tests.shop import PARTITIONS, Shop, eventually

READ = 3
"""So many registrations billing has read before anything happens to the log."""


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("choreo.chassis.kafka.consumer._WATCH", 0.1)


@pytest.fixture
def looks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only when it begins to read. What comes later it has to learn from Kafka."""
    monkeypatch.setattr("choreo.chassis.kafka.consumer._WATCH", 3600.0)


class Log:
    """A topic that billing reads. Everything goes to one partition."""

    def __init__(self, shop: Shop, of: str = "user") -> None:
        self.shop = shop
        self.topic = shop.settings.topic_prefix + TOPICS[of]
        self.place = (self.topic, 0)
        self._access = shop.kafka.admin
        self._admin = AdminClient(self._access.confluent())

    # What happens to it.

    async def register(self, people: int) -> None:
        await self.append([a_registration() for _ in range(people)])

    async def append(self, records: Iterable[Record]) -> None:
        """As one batch."""
        async with AIOKafkaProducer(
            **self._access.aiokafka(), max_batch_size=2**22, max_request_size=2**22
        ) as producer:
            batch = producer.create_batch()
            for record in records:
                assert batch.append(
                    timestamp=None, key=record.key, value=record.value, headers=record.headers
                )
            batch._buffer = _spoiled(batch._build())
            await (await producer.send_batch(batch, self.topic, partition=0))

    async def delete(self) -> None:
        await _done(self._admin.delete_topics([self.topic]))

    async def make(self) -> None:
        await asyncio.to_thread(declare_topics, self._access, [self.topic], PARTITIONS)

    async def forget_before(self, offset: int) -> None:
        await _done(self._admin.delete_records([TopicPartition(*self.place, offset)]))

    async def tell_group(self, offset: int) -> None:
        """Kafka believes that billing has read so far. It lets nobody say so while billing reads."""
        group = f"{self.shop.settings.topic_prefix}billing-service"
        offsets = [ConsumerGroupTopicPartitions(group, [TopicPartition(*self.place, offset)])]
        (told,) = await _done(self._admin.alter_consumer_group_offsets(offsets))
        assert [at.error for at in told.topic_partitions] == [None]

    async def there(self) -> PartitionLog:
        return (await describe_retrying(self._access, [self.topic]))[self.place]

    # What billing has made of it.

    def position(self) -> int:
        ((next_offset,),) = self.shop.rows(
            "billing", "SELECT next_offset FROM positions WHERE topic = %s AND partition = %s", *self.place
        )
        return int(next_offset)

    async def set_position(self, offset: int, topic_id: str | None = None) -> None:
        """As an operator does it: so far billing has read; by default it was the log that is there."""
        topic_id = topic_id or (await self.there()).begin.topic_id
        with psycopg.connect(self.shop.owner_urls["billing"]) as conn:
            conn.execute("UPDATE positions SET topic_id = %s WHERE topic = %s", [topic_id, self.topic])
            conn.execute(
                "UPDATE positions SET next_offset = %s WHERE topic = %s AND partition = %s",
                [offset, *self.place],
            )

    async def read_to_its_end(self) -> None:
        await eventually(self._unread, lambda count: count == 0)
        await self.shop.ready("billing")

    async def _unread(self) -> int:
        return (await self.there()).latest - self.position()

    def accounts(self) -> int:
        """How many registrations were applied, each exactly once: it opened an account, and no more."""
        numbers = [
            number for (number,) in self.shop.rows("billing", "SELECT sequence FROM keys WHERE sequence > 0")
        ]
        assert set(numbers) <= {2}, "a registration and an account are two facts"
        return len(numbers)

    async def lag(self) -> float | None:
        registry = self.shop.runtimes["billing"].metrics.registry
        return registry.get_sample_value("choreo_consumer_lag_records", {"topic": self.topic})

    async def says(self, *words: str) -> str:
        """Billing's word about its reading, once it has stopped for this reason."""
        return await eventually(self._said, lambda said: all(word in said for word in words))

    async def says_instead_of_reading_past(self, offset: int, *words: str) -> str:
        """The same, where it is told at once if billing reads on."""

        async def look() -> tuple[str, int]:
            return await self._said(), self.position()

        said, position = await eventually(
            look, lambda found: all(word in found[0] for word in words) or found[1] > offset
        )
        assert position <= offset, "billing read on"
        return said

    async def _said(self) -> str:
        jobs = (await self.shop.clients["billing"].get("/health/ready")).json()["jobs"]
        return str(jobs["consumer"]["cause"] or "")


@pytest.fixture
async def log(closed_shop: Shop) -> Log:
    """Billing runs, and has read some registrations."""
    log = Log(closed_shop)
    await log.register(READ)
    await closed_shop.start("billing")
    await log.read_to_its_end()
    return log


# Kafka's offsets are advice.


async def test_the_groups_offsets_moved_change_nothing(log: Log) -> None:
    """To before what was read, and to where no log reaches."""
    for told in (0, 1000):
        await log.shop.stop("billing")
        await log.register(READ)
        await log.tell_group(told)
        await log.shop.start("billing")
        await log.read_to_its_end()
    assert log.accounts() == log.position() == 3 * READ


# Another log in its place.


async def test_a_topic_made_anew_while_billing_was_stopped_is_not_read(log: Log) -> None:
    """Whether it holds less or more than what was read."""
    for records in (1, 2 * READ):
        await log.shop.stop("billing")
        await log.delete()
        await log.make()
        await log.register(records)
        await log.shop.begin("billing")
        await log.says("is not the log that billing has read", "made anew")
        assert (log.accounts(), log.position()) == (READ, READ)


async def test_a_topic_made_anew_is_noticed_at_once_where_it_lacks_what_is_next(
    looks_once: None, log: Log
) -> None:
    await log.delete()
    await log.make()
    await log.register(READ - 1)
    await log.says("is not the log that billing has read", "made anew")
    assert (log.accounts(), log.position()) == (READ, READ)


async def test_a_topic_made_anew_is_noticed_even_where_it_has_what_is_next(
    looks_often: None, log: Log
) -> None:
    await log.delete()
    await log.make()
    await log.register(2 * READ)
    await log.says("is not the log that billing has read", "made anew")
    assert READ <= log.accounts() <= log.position(), "at most what came after the offset that was next"
    await log.register(READ)
    await log.set_position(0)  # somebody has looked: all of this log is to be read
    await log.read_to_its_end()
    assert log.accounts() == READ + log.position(), "those read before the look are recognised"


async def test_a_topic_that_is_gone_stops_who_reads_it_and_nobody_else(shop: Shop) -> None:
    ada = await shop.customer("400.00")
    orders = Log(shop, "order")
    await orders.delete()
    assert orders.topic in await orders.says("is not there")
    assert (await ada.deposit("1.00")).status_code == 201
    assert (await ada.order("1.00")).status_code == 202
    for service in ("user", "order", "notification"):
        job = (await shop.clients[service].get("/health/ready")).json()["jobs"].get("consumer")
        assert job is None or job["ready"]
    eve = await shop.customer()
    await shop.until(
        "notification",
        eve,
        lambda: asyncio.to_thread(shop.rows, "notification", "SELECT user_id FROM recipients"),
        lambda rows: (eve.id,) in rows,
    )


# Less of the log than what was read, or than what was not.


async def test_a_log_that_lost_what_was_not_read_stops_billing(log: Log) -> None:
    await log.shop.stop("billing")
    await log.register(READ)
    await log.forget_before(READ + 1)
    await log.shop.begin("billing")
    await log.says(f"begins at offset {READ + 1}", f"read only up to {READ}", "lost")
    assert (log.accounts(), log.position()) == (READ, READ)
    await log.set_position(READ + 1)  # somebody gives that one up
    await log.read_to_its_end()
    assert log.accounts() == 2 * READ - 1


async def test_a_log_that_loses_what_was_not_read_stops_billing(looks_often: None, log: Log) -> None:
    """Billing has fetched these records and cannot write them yet."""
    async with held(log.shop.owner_urls["billing"], "LOCK TABLE journal IN SHARE MODE") as journal:
        await log.register(READ)
        await journal.keeps_waiting(sessions=1)
        await log.forget_before(2 * READ)
        await log.says(f"begins at offset {2 * READ}", f"read only up to {READ}", "lost")
    await log.read_to_its_end()
    assert log.accounts() == 2 * READ, "they were not lost after all"


async def test_a_log_that_loses_what_was_read_is_read_on(looks_often: None, log: Log) -> None:
    await log.forget_before(READ)
    await log.register(READ)
    await log.read_to_its_end()
    await log.shop.stop("billing")
    await log.forget_before(2 * READ)
    await log.shop.start("billing")
    await log.register(READ)
    await log.read_to_its_end()
    assert log.accounts() == 3 * READ


async def test_a_log_that_lost_its_end_with_the_power_stops_billing(
    looks_once: None, log: Log, kafka: Kafka
) -> None:
    """Kafka acknowledges what it has not yet on its disk; Postgres had it on its own."""
    if not isinstance(kafka, Kafka):
        pytest.skip("cuts files of the broker, which in a container are out of reach")
    file = kafka.directory / "data" / "-".join(map(str, log.place)) / f"{0:020}.log"
    size = file.stat().st_size
    await log.register(READ)
    await log.read_to_its_end()
    kafka.kill()
    os.truncate(file, size)
    kafka.start()
    await asyncio.to_thread(kafka.wait_ready)
    await log.says(f"ends at offset {READ}", f"read up to {2 * READ}", "cut")
    await log.register(READ + 1)
    assert (log.accounts(), log.position()) == (2 * READ, 2 * READ)


async def test_positions_that_this_log_cannot_have_stop_billing(looks_often: None, log: Log) -> None:
    """As after a restore of one without the other: the log ends too early, or is another one."""
    cut = f"ends at offset {READ}", f"read up to {READ + 1}", "cut"
    await log.set_position(READ + 1)
    await log.says(*cut)
    await log.shop.stop("billing")
    await log.shop.begin("billing")
    await log.says(*cut)
    await log.set_position(READ)
    await log.read_to_its_end()
    await log.set_position(READ, topic_id="another")
    await log.says("is not the log that billing has read", "made anew")
    await log.set_position(READ)
    await log.register(READ)
    await log.read_to_its_end()
    assert log.accounts() == 2 * READ


# How much of it is left to read.


async def test_what_is_left_to_read_is_measured(looks_often: None, log: Log) -> None:
    await eventually(log.lag, lambda records: records == 0)
    async with held(log.shop.owner_urls["billing"], "LOCK TABLE journal IN SHARE MODE"):
        await log.register(2)
        await eventually(log.lag, lambda records: records == 2)
    await eventually(log.lag, lambda records: records == 0)


# Records as no service writes them.


async def test_whatever_a_record_is_made_of_the_others_are_read(log: Log) -> None:
    """What is no event is parked. An event may have headers nobody knows, whatever their names."""
    no_json, no_user = "the data of this UserRegistered is wrong", "the key of this UserRegistered is not"
    no_type = "the header ce_type is missing"
    odd = [
        (renamed(a_registration(), "ce_type", NO_TEXT), no_type),
        (Record(b"", b"", []), no_type),
        (Record(None, b"", [("", b"\xff")]), no_type),
        (valued(a_registration(), "ce_type", None), "the header ce_type has no value"),
        (valued(a_registration(), "ce_type", b"\xff"), "the header ce_type is not UTF-8"),
        *[(replace(a_registration(), key=key), no_user) for key in (None, b"", b"\xff\0")],
        *[(replace(a_registration(), value=value), no_json) for value in (None, b"", b"\xff", A_MEGABYTE)],
    ]
    records = [record for record, _ in odd]
    await log.append([a_registration(), *records[:-1], a_registration()])
    await log.append([a_registration(), records[-1]])
    await log.append([valued(a_registration(), name, b"") for name in ("", "spare", NO_TEXT)])
    await log.append(
        replace(record, headers=[*record.headers, ("dd-pathway-ctx", b"\xff\0"), *more])
        for record in (a_registration(), a_registration())
        for more in ([("dd-pathway-ctx", b"")], [("spare", None)])
    )
    await log.read_to_its_end()
    errors = [error for (error,) in log.shop.rows("billing", "SELECT error FROM parked ORDER BY position")]
    assert [
        (error, why) for error, (_, why) in zip(errors, odd, strict=True) if not error.startswith(why)
    ] == []
    assert log.accounts() == READ + 3 + 3 + 2


NO_TEXT = "these bytes are no text"
"""As the name of a header: `Log.append` writes bytes in its place that are no UTF-8."""
A_MEGABYTE = b'"' + b"x" * (2**20 - 2**11) + b'"'
"""With its envelope as much as Kafka takes."""


def a_registration() -> Record:
    id = uuid4()
    return encode(an_event(UserRegistered(user_id=id, login=f"ada-{id}", email=f"{id}@example.com")))


def renamed(record: Record, header: str, name: str) -> Record:
    return replace(record, headers=[(name if old == header else old, value) for old, value in record.headers])


def valued(record: Record, header: str, value: bytes | None) -> Record:
    """With this header, whether it had it before or not."""
    others = [(name, old) for name, old in record.headers if name != header]
    return replace(record, headers=[*others, (header, value)])


async def _done(futures: Mapping[Any, "Future[Any]"]) -> list[Any]:
    return [await asyncio.wrap_future(future) for future in futures.values()]


def _spoiled(batch: bytes) -> bytearray:
    """As no producer here would write it, with a checksum that is right."""
    buffer = bytearray(batch.replace(NO_TEXT.encode(), b"\xff" * len(NO_TEXT)))
    struct.pack_into(">I", buffer, _CHECKSUM, calc_crc32c(bytes(buffer[_CHECKSUM + 4 :])))
    return buffer


_CHECKSUM = struct.calcsize(">qiib")
"""Where it is in a batch. It covers everything behind it."""

"""What is given to the judge: everything that can be read from outside, from its beginning.

Nothing here joins a group, commits an offset or writes a row.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from email.parser import BytesHeaderParser
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import psycopg
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader

from choreo.chaos.history import History, Place, Record, Request, Row
from choreo.chassis.database.connection import session
from choreo.chassis.registry import all_topics
from choreo.operations.reading.installation import observer_access

UNREADABLE = (psycopg.Error, KafkaException, TimeoutError)
"""What is raised where the evidence cannot be read."""

_KAFKA_TIMEOUT_SECONDS = 30.0
_AT_ONCE = 5_000

_OPEN_TABLES = """/* evidence.tables: all but those that hold secrets */
SELECT relname FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
AND coalesce(obj_description(oid, 'pg_class'), '') NOT LIKE 'secret%'"""


def collect(facts: Mapping[str, Any], requests: Sequence[Request]) -> History:
    """`facts` are those of run.json. Raises what is in `UNREADABLE`."""
    tables = {service: _tables(url) for service, url in facts["owner_urls"].items()}
    ends = end_offsets(facts)
    records, read = read_topics(facts, ends)
    mails = [_mail(file) for file in (Path(facts["maildir"]) / "new").glob("*")]
    return History(records, ends, tables, requests, mails, read)


@cache
def _mail(file: Path) -> tuple[str, str]:
    """Message-ID and recipient. A file of a Maildir never changes, and to read thousands takes seconds."""
    with file.open("rb") as content:
        headers = dict(BytesHeaderParser().parse(content).raw_items())
    return headers["Message-ID"], headers["To"].encode(errors="surrogateescape").decode()


def keep(history: History, directory: Path) -> None:
    """Lines of JSON, for whoever wants to see how it came about."""
    _write(directory / "records.ndjson", history.records)
    for service, tables in history.tables.items():
        for table, rows in tables.items():
            _write(directory / f"{service}.{table}.ndjson", rows)


def _write(path: Path, rows: Iterable[object]) -> None:
    with path.open("wb") as file:
        for row in rows:
            file.write(orjson.dumps(row, default=_text, option=orjson.OPT_APPEND_NEWLINE))


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def end_offsets(facts: Mapping[str, Any]) -> dict[Place, int]:
    """Of all partitions of all topics, which are named without their prefix. Raises KafkaException."""
    consumer = observing(facts)
    try:
        return ends_by(consumer, facts, _KAFKA_TIMEOUT_SECONDS)
    finally:
        consumer.close()


def ends_by(consumer: Consumer, facts: Mapping[str, Any], timeout_seconds: float) -> dict[Place, int]:
    """The same, asked by a client that is there."""
    prefix: str = facts["topic_prefix"]
    places = [(topic, number) for topic in all_topics(prefix) for number in range(facts["partitions"])]
    asked = [TopicPartition(*place, OFFSET_END) for place in places]
    found = consumer.offsets_for_times(asked, timeout=timeout_seconds)
    for at in found:
        if at.error:
            raise KafkaException(at.error)
    return {(at.topic.removeprefix(prefix), at.partition): at.offset for at in found}


def observing(facts: Mapping[str, Any]) -> Consumer:
    """A client that joins no group. It has to be closed."""
    return Consumer(
        {
            **observer_access(facts).confluent(),
            "group.id": "nobody",  # the client wants a name; who assigns himself joins no group
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )


def read_topics(facts: Mapping[str, Any], ends: Mapping[Place, int]) -> tuple[list[Record], dict[Place, int]]:
    """Every record from the first offset up to these, and where the reading of each partition ended."""
    consumer = observing(facts)
    try:
        consumer.list_topics(timeout=_KAFKA_TIMEOUT_SECONDS)  # else it would ask only half a second later
        consumer.assign([_at(facts, place, OFFSET_BEGINNING) for place, end in ends.items() if end])
        return _read(consumer, len(facts["topic_prefix"]), ends)
    finally:
        consumer.close()


def _read(
    consumer: Consumer, prefix_length: int, ends: Mapping[Place, int]
) -> tuple[list[Record], dict[Place, int]]:
    """A partition may end with offsets that have no record, as the markers of transactions: Kafka says that
    it is read to its end.
    """
    read = {place: 0 for place, end in ends.items() if end}
    records: list[Record] = []
    deadline = time.monotonic() + _KAFKA_TIMEOUT_SECONDS
    while any(next_offset < ends[place] for place, next_offset in read.items()):
        messages = consumer.consume(_AT_ONCE, timeout=0.05)
        if messages:
            deadline = time.monotonic() + _KAFKA_TIMEOUT_SECONDS
        for message in messages:
            place = message.topic()[prefix_length:], message.partition()
            if message.error() and message.error().code() == KafkaError._PARTITION_EOF:
                read[place] = min(message.offset(), ends[place])
                continue
            record = _record(message, prefix_length)
            if record.offset < ends[place]:
                records.append(record)
            read[place] = min(record.offset + 1, ends[place])
        if time.monotonic() > deadline:
            raise TimeoutError(f"not to be read to their ends: {read}")
    return records, read


def _record(message: Message, prefix_length: int) -> Record:
    if message.error():
        raise KafkaException(message.error())
    return Record(
        message.topic()[prefix_length:],
        message.partition(),
        message.offset(),
        message.key(),
        message.value(),
        tuple(message.headers() or ()),
    )


def _at(facts: Mapping[str, Any], place: Place, *offset: int) -> TopicPartition:
    topic, number = place
    return TopicPartition(facts["topic_prefix"] + topic, number, *offset)


def _tables(url: str) -> dict[str, Sequence[Row]]:
    """One snapshot of one service."""
    with psycopg.connect(**session(url), row_factory=dict_row) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        conn.adapters.register_loader("uuid", TextLoader)
        names = [row["relname"] for row in conn.execute(_OPEN_TABLES).fetchall()]
        return {
            name: conn.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(name))).fetchall()
            for name in names
        }

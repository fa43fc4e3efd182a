"""Reading journals from outside, also on a Postgres that is somebody else's."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from choreo.chassis.database.migrate import migrate
from choreo.demo.story import TIMEOUT_SECONDS
from choreo.embedded.postgres import Postgres
from choreo.embedded.testing import postgres_for_tests
from choreo.replay.trace import journals
from choreo.replay.trace.journals import Journal, JournalReader
from choreo.replay.trace.published_events import PublishedEvent
from tests.databases import Database, a_database
from tests.unit.test_timeline import seen

_BEGIN = "INSERT INTO positions VALUES (%s, %s, %s, '', '')"
_HEAR = """WITH heard AS (
    INSERT INTO journal (id, key, step, kind, type, topic, partition, "offset", outcome,
        received_at, decided_at, code_version)
    VALUES (%s, 'ada', 1, 'fact', 'OrderCreated', %s, %s, %s, 'applied', %s, %s, '')
)
UPDATE positions SET next_offset = next_offset + 1"""


@pytest.fixture
def database(postgres: Postgres, templates: dict[str, str]) -> Iterator[Database]:
    with a_database("user", postgres, templates) as database:
        yield database


def an_event_to_be_heard(owner_url: str) -> PublishedEvent:
    """The service has read all that came before it."""
    event = seen()
    with psycopg.connect(owner_url) as conn:
        conn.execute(_BEGIN, [event.topic, event.partition, event.offset])
    return event


def hear(owner_url: str, event: PublishedEvent) -> None:
    with psycopg.connect(owner_url) as conn:
        conn.execute(_HEAR, [event.id, event.topic, event.partition, event.offset, event.at, event.at])


async def read(owner_url: str, event: PublishedEvent, seconds: float = 0) -> Journal:
    return (await JournalReader({"user": owner_url}).read([event], seconds))["user"]


async def test_a_journal_tells_when_each_input_was_committed(database: Database) -> None:
    event = an_event_to_be_heard(database.owner_url)
    hear(database.owner_url, event)
    journal = await read(database.owner_url, event)
    (entry,) = journal.entries
    assert (entry.id, entry.offset, entry.received_at) == (event.id, event.offset, event.at)
    assert entry.committed_at is not None
    assert journal.has_read(event) is True


async def test_where_postgres_does_not_keep_that_it_is_not_known() -> None:
    with postgres_for_tests({"track_commit_timestamp": "off"}) as postgres:
        owner_url, _ = postgres.create_service("user")
        migrate("user", owner_url, "user")
        event = an_event_to_be_heard(owner_url)
        hear(owner_url, event)
        (entry,) = (await read(owner_url, event)).entries
    assert (entry.id, entry.committed_at) == (event.id, None)


async def test_reading_waits_until_the_service_has_read_the_event(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = an_event_to_be_heard(database.owner_url)
    assert (await read(database.owner_url, event)).has_read(event) is False
    look = journals.journal_of

    async def look_before_it_is_heard(*arguments: Any) -> Journal:
        found = await look(*arguments)
        if not found.entries:
            hear(database.owner_url, event)
        return found

    monkeypatch.setattr(journals, "journal_of", look_before_it_is_heard)
    journal = await read(database.owner_url, event, TIMEOUT_SECONDS)
    assert [entry.id for entry in journal.entries] == [event.id]


async def test_reading_could_not_write_if_it_wanted_to(database: Database) -> None:
    event = an_event_to_be_heard(database.owner_url)
    with psycopg.connect(database.owner_url) as conn:
        conn.execute("CREATE TABLE written (n int)")
        write = "INSERT INTO written VALUES (1) RETURNING n"
        conn.execute(f"CREATE FUNCTION write() RETURNS int LANGUAGE sql AS '{write}'".encode())
        conn.execute("ALTER TABLE positions RENAME TO known")
        conn.execute("CREATE VIEW positions AS SELECT *, write() FROM known")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        await read(database.owner_url, event)

"""Records of a topic, in the running system or in a recording, with what every service did with each."""

from dataclasses import replace

from choreo.chassis.registry import all_topics
from choreo.operations.reading.flows import consumed_types, settings_of
from choreo.operations.reading.installation import Installation
from choreo.operations.reading.replay_source import System, key_in
from choreo.replay.trace.log import (
    LogPage,
    Place,
    RecordFilter,
    RecordRead,
    page_of,
    page_recorded,
    read_live,
    read_recorded,
)


async def read_log(
    where: System, place: str, filter: RecordFilter, limit: int = 20
) -> tuple[LogPage, list[RecordRead]]:
    """Reads so many records from the place on, or the newest of a topic or partition.

    The key of the filter may be any id or name that is about one key. Raises `UsageError`.
    """
    settings = settings_of(where)
    at = Place.of(place, all_topics(settings.topic_prefix), settings.topic_prefix)
    if filter.key is not None:
        filter = replace(filter, key=await key_in(where, filter.key))
    if isinstance(where, Installation):
        page = await page_of(where.kafka, at, filter, limit, where.partition_of, settings.topic_prefix)
        return page, await read_live(page.records, where.database_urls, consumed_types(settings))
    page = page_recorded(where, at, filter, limit)
    return page, read_recorded(page.records, where, consumed_types(settings))

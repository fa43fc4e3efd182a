"""What goes through the running system, read in a moment: counters, which two looks make rates of."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx2
import psycopg

from choreo.chassis import clock
from choreo.chassis.backlog import Backlog, CountSince, read_backlog
from choreo.chassis.database.connection import Connection
from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.grants import AccessDenied, asking
from choreo.chassis.kafka.log_reader import LOG_UNREADABLE, answering
from choreo.chassis.kafka.topic_log import LogMismatch, PartitionLog, described
from choreo.chassis.registry import all_topics, port_of, services
from choreo.chassis.transaction import positions
from choreo.chassis.transaction.positions import TopicPartition
from choreo.embedded.ports import LOOPBACK
from choreo.message.catalog import topic_of
from choreo.operations.reading.installation import Installation
from choreo.replay.sources.recording import Recording
from choreo.replay.sources.rows import plain
from choreo.replay.trace.find import sessions
from choreo.styles.composition import has_kafka, hears_from_kafka

_ANSWER_WITHIN_SECONDS = 2.0

_INPUTS = """/* traffic.inputs: how many the journal has ever taken, as the statistics have it */
SELECT n_tup_ins FROM pg_stat_user_tables WHERE schemaname = 'public' AND relname = 'journal'"""

Read = Mapping[TopicPartition, int]


@dataclass(frozen=True)
class _InDatabase:
    inputs: int
    read: Read
    backlog: Backlog


Jobs = Mapping[str, Mapping[str, Any]]
"""By service, and by job, with the process' number where there are several."""


async def traffic(here: Installation, jobs: Jobs) -> dict[str, Any]:
    """Returns, of each topic, how many records it has had; of each service, how many inputs, how far it has
    read, what waits and since when, and each job of its processes. What is away is left out, and said
    under `away`: `examine` knows what to do about it.
    """
    away: list[str] = []
    log, databases = await asyncio.gather(_log(here, away), _databases(here, away))
    prefix = here.settings.topic_prefix
    topics = {
        topic: {"records": sum(there.latest for (name, _), there in log.items() if name == topic)}
        for topic in (all_topics(prefix) if log else ())
    }
    told = {
        name: _service(here, name, databases.get(name), log) | {"jobs": jobs.get(name, {})}
        for name in here.database_urls
    }
    return {"at": plain(clock.now()), "topics": topics, "services": told, "away": away}


def recorded(recording: Recording) -> dict[str, Any]:
    """Returns the same of a recording, as far as it knows: all that ever went through."""
    cut = recording.cut
    topics: dict[str, dict[str, int]] = {}
    for (topic, _), span in cut.spans.items():
        held = topics.setdefault(topic, {"records": 0})
        held["records"] += span.end - span.first
    known, counts = services(cut.settings), recording.manifest.get("counts") or {}
    told = {
        name: {
            "publishes": cut.topic_prefix + topic_of(name),
            "inputs": counts.get(f"journal of {name}"),
            "hears": {
                topic: {"read": topics[topic]["records"], "lag": 0}
                for topic in known[name].heard_topics(cut.topic_prefix)
                if topic in topics
            },
        }
        for name in cut.services
        if name in known
    }
    return {"topics": topics, "services": told, "away": []}


def _service(
    here: Installation,
    name: str,
    told: _InDatabase | None,
    log: Mapping[TopicPartition, PartitionLog],
) -> dict[str, Any]:
    prefix = here.settings.topic_prefix
    heard = here.service(name).heard_topics(prefix) if hears_from_kafka(here.style, name) and log else []
    if told is None:
        return {
            "publishes": prefix + topic_of(name),
            "inputs": None,
            "hears": dict.fromkeys(heard),
        }
    backlog = told.backlog
    return {
        "publishes": prefix + topic_of(name),
        "inputs": told.inputs,
        "hears": {topic: _heard(topic, told.read, log) for topic in heard},
        "unpublished": _count(backlog.unpublished),
        "waiting": _count(backlog.waiting),
        "parked": _count(backlog.parked),
    }


def _heard(topic: str, read: Read, log: Mapping[TopicPartition, PartitionLog]) -> dict[str, int]:
    places = {place: there.latest for place, there in log.items() if place[0] == topic}
    done = sum(read.get(place, 0) for place in places)
    # The log was asked first or last: what was read since then is no negative lag.
    return {"read": done, "lag": sum(max(0, end - read.get(place, 0)) for place, end in places.items())}


def _count(found: CountSince) -> dict[str, Any]:
    count, since = found
    return {"count": count, "since": _at(since)}


def _at(time: datetime | None) -> str | None:
    return None if time is None else str(plain(time))


async def _log(here: Installation, away: list[str]) -> Mapping[TopicPartition, PartitionLog]:
    if not has_kafka(here.style):
        return {}
    access: KafkaAccess = here.kafka
    try:
        async with answering(access), asking(access) as cluster:
            return await described(cluster, all_topics(here.settings.topic_prefix))
    except (AccessDenied, LogMismatch, *LOG_UNREADABLE) as error:
        away.append(f"Kafka: {str(error).splitlines()[0]}")
        return {}


async def _databases(here: Installation, away: list[str]) -> Mapping[str, _InDatabase]:
    async def ask(name: str) -> tuple[str, _InDatabase] | None:
        try:
            async with sessions({name: here.database_urls[name]}) as conns:
                return name, await _in_database(here, name, conns[name])
        except (psycopg.Error, OSError) as error:
            away.append(f"{name}'s database: {(str(error) or repr(error)).splitlines()[0]}")
            return None

    return dict(filter(None, await asyncio.gather(*(ask(name) for name in here.database_urls))))


async def _in_database(here: Installation, name: str, conn: Connection) -> _InDatabase:
    service = here.service(name)
    row = await (await conn.execute(_INPUTS.encode())).fetchone()
    read = await positions.read(conn, service.heard_topics(here.settings.topic_prefix))
    return _InDatabase(
        int(row[0]) if row else 0,
        {position.place: position.next_offset for position in read},
        await read_backlog(conn, service.waiting),
    )


async def jobs_of(here: Installation) -> Jobs:
    """As the services say; each asks its database and Kafka for that, which costs it some milliseconds."""
    async with httpx2.AsyncClient(timeout=_ANSWER_WITHIN_SECONDS, trust_env=False) as http:
        ports = {
            name: here.own_ports.get(name) or [port_of(name, here.settings)] for name in here.database_urls
        }
        asked = [
            (name, number, port) for name, of in ports.items() for number, port in enumerate(of, start=1)
        ]
        answers = await asyncio.gather(*(_ready(http, port) for _, _, port in asked))
    found: dict[str, dict[str, Any]] = {}
    for (name, number, _), jobs in zip(asked, answers, strict=True):
        for job, told in jobs.items():
            alone = len(ports[name]) == 1
            found.setdefault(name, {})[job if alone else f"{job} {number}"] = told
    return found


async def _ready(http: httpx2.AsyncClient, port: int) -> Mapping[str, Any]:
    try:
        answer = await http.get(f"http://{LOOPBACK}:{port}/health/ready")
        return dict(answer.json().get("jobs", {}))
    except (httpx2.TransportError, ValueError):
        return {
            "process": {"ready": False, "waiting": 0, "since": None, "cause": f"nobody answers on {port}"}
        }

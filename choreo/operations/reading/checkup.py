"""What there is to say about a system's health, each with what to do where a person is needed."""

import asyncio
import time
from asyncio import Task
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import Any

import httpx2
import psycopg
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.backlog import CountSince, read_backlog
from choreo.chassis.database.connection import Connection, raw_connection
from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.admin.acls import Acls, Unknowable, read_acls
from choreo.chassis.kafka.admin.client import RequestFailed, administering
from choreo.chassis.kafka.admin.topics import FOREVER, forgetting_settings
from choreo.chassis.kafka.grants import AccessDenied, Grant, asking
from choreo.chassis.kafka.log_reader import LOG_UNREADABLE, answering, retrying, see_that_it_answers
from choreo.chassis.kafka.topic_log import LogMismatch, PartitionLog, compare, compare_last_read, describe
from choreo.chassis.registry import all_topics, port_of, service_names
from choreo.chassis.service import Check, Service
from choreo.chassis.transaction import positions
from choreo.chassis.transaction.positions import Position, TopicPartition
from choreo.embedded.ports import LOOPBACK
from choreo.operations.reading.installation import Installation
from choreo.operations.replicas import Replica, replicas_of
from choreo.styles.composition import COLLABORATION, has_kafka, hears_from_kafka

LONG = 60.0
"""Seconds after which what is still unfinished needs a person."""
_REQUEST_TIMEOUT_SECONDS = 5.0

_GRANTS = """/* grants.missing: what the running service may not do and must, and may do and must not */
SELECT relname, privilege,
    description LIKE 'append-only%%' AND privilege IN ('UPDATE', 'DELETE') AS forbidden
FROM pg_class
CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
LEFT JOIN pg_description ON objoid = pg_class.oid AND objsubid = 0
WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'
AND has_table_privilege(coalesce(%(role)s::name, current_user), pg_class.oid, privilege)
    = coalesce(description LIKE 'append-only%%' AND privilege IN ('UPDATE', 'DELETE'), false)
ORDER BY relname, privilege"""


@dataclass(frozen=True)
class Finding:
    about: str
    """A topic or a service."""
    check: str
    says: str
    cure: str = ""
    """What a person should do; empty where all is well."""

    @property
    def needs_a_person(self) -> bool:
        return bool(self.cure)


def together(findings: Sequence[Finding]) -> list[Finding]:
    """Returns them so that what is said of one topic or service stands together."""
    about = list(dict.fromkeys(finding.about for finding in findings))
    return sorted(findings, key=lambda finding: about.index(finding.about))


def finding_as_dict(finding: Finding) -> dict[str, Any]:
    return asdict(finding) | {"needs_a_person": finding.needs_a_person}


@dataclass
class _Kafka:
    """What Kafka says. Empty where it could not be asked; then a finding says so."""

    findings: list[Finding] = field(default_factory=list)
    log: Mapping[TopicPartition, PartitionLog] = field(default_factory=dict)
    old: Mapping[TopicPartition, int] = field(default_factory=dict)
    """How far each partition had been written `LONG` ago."""


async def examine(installation: Installation) -> list[Finding]:
    """Topics first, then services. What cannot be asked is a finding, too; nothing is raised.

    All are asked at the same time: whoever is silent is waited for once.
    """
    kafka = asyncio.create_task(_kafka(installation))
    async with (
        installation.engines() as engines,
        httpx2.AsyncClient(timeout=_REQUEST_TIMEOUT_SECONDS, trust_env=False) as http,
    ):
        of_services = await asyncio.gather(
            *(_of_service(name, engine, http, kafka, installation) for name, engine in engines.items())
        )
    return [*(await kafka).findings, *chain.from_iterable(of_services)]


async def _kafka(installation: Installation) -> _Kafka:
    topics, told = all_topics(installation.settings.topic_prefix), _Kafka()
    try:
        if has_kafka(installation.style):
            await see_that_it_answers(installation.kafka)
            told.log, since, told.old = await retrying(partial(_ask_kafka, installation.kafka, topics))
            forgetting, acls = await asyncio.to_thread(_ask_admin, installation.kafka, topics)
            told.findings = [
                *_topics(forgetting, told.log, since, installation.settings.partitions),
                *_kafka_grants(acls, installation),
            ]
    except AccessDenied as denied:
        told.findings = [Finding("Kafka", "answers", str(denied), "correct them")]
    except LogMismatch as missing:
        cure = "restore it; a new cluster: choreo provision"
        told.findings = [Finding("Kafka", "topics", str(missing), cure)]
    except (*LOG_UNREADABLE, RequestFailed) as error:
        cure = "start it, or correct KAFKA_BOOTSTRAP_SERVERS"
        told.findings = [Finding("Kafka", "answers", f"{installation.kafka.bootstrap}: {error}", cure)]
    return told


async def _of_service(
    name: str,
    engine: AsyncEngine,
    http: httpx2.AsyncClient,
    kafka: Task[_Kafka],
    installation: Installation,
) -> list[Finding]:
    service, prefix = installation.service(name), installation.settings.topic_prefix
    ports = installation.own_ports.get(name) or [port_of(name, installation.settings)]
    replicas = zip(replicas_of({name: len(ports)}), ports, strict=True)
    ready = asyncio.gather(*(_ready(http, replica, port) for replica, port in replicas))
    told = await kafka if hears_from_kafka(installation.style, name) else _Kafka()
    asked = [_service(service, engine, prefix, told.log, told.old, installation)]
    if told.log and service.heard_topics(prefix):
        asked.append(_group(installation.kafka, service, prefix))
    return [*await ready, *chain.from_iterable(await asyncio.gather(*asked))]


async def _ask_kafka(
    access: KafkaAccess, topics: Sequence[str]
) -> tuple[Mapping[TopicPartition, PartitionLog], Mapping[TopicPartition, int], Mapping[TopicPartition, int]]:
    """The log as it is, the time of each partition's first record (milliseconds since the epoch; -1 where
    there is none), and how far it had been written `LONG` ago.
    """
    log = await describe(access, topics)
    async with asking(access) as cluster:
        first = await cluster.offsets(log, 0)
        young = await cluster.offsets(log, int(1000 * (time.time() - LONG)))
    since = {place: at for place, (_, at) in first.items()}
    old = {place: log[place].latest if offset < 0 else offset for place, (offset, _) in young.items()}
    return log, since, old


def _ask_admin(
    access: KafkaAccess, topics: Sequence[str]
) -> tuple[Mapping[str, Mapping[str, str]], Acls | Unknowable | None]:
    """The settings with which topics would forget facts, and the ACLs, or why they cannot be told."""
    with administering(access) as admin:
        forgetting = forgetting_settings(admin, topics, _REQUEST_TIMEOUT_SECONDS)
        try:
            return forgetting, read_acls(admin)
        except Unknowable as why:
            return forgetting, why


def _topics(
    forgetting: Mapping[str, Mapping[str, str]],
    log: Mapping[TopicPartition, PartitionLog],
    first: Mapping[TopicPartition, int],
    used: int,
) -> list[Finding]:
    times: dict[str, list[int]] = {}
    for (topic, _), timestamp in first.items():
        if timestamp >= 0:
            times.setdefault(topic, []).append(timestamp)
    findings = []
    for topic, wrong in forgetting.items():
        parts = {partition: there for (name, partition), there in log.items() if name == topic}
        count = sum(there.latest - there.earliest for there in parts.values())
        since = f"since {_utc(min(times[topic]))}" if topic in times else "nothing yet"
        grown = f", of which keys use {used}" if len(parts) > used else ""
        holds = f"{count} records in {len(parts)} partitions{grown}, {since}"
        strays = [number for number, there in parts.items() if number >= used and there.latest]
        moved = len(parts) < used or strays
        cure = f"set CHOREO_PARTITIONS={len(parts)}: a key stays where it is" if moved else ""
        findings.append(Finding(topic, "holds", holds, cure))
        lost = {number: there.earliest for number, there in parts.items() if there.earliest}
        if lost:
            where = ", ".join(f"[{number}] before {offset}" for number, offset in sorted(lost.items()))
            findings.append(
                Finding(topic, "replayable", f"records are gone: {where}", "restore the topic from a copy")
            )
        else:
            findings.append(Finding(topic, "replayable", "from its first record"))
        if wrong:
            told = ", ".join(f"{name}={value}" for name, value in wrong.items())
            must = ", ".join(f"{name}={FOREVER[name]}" for name in wrong)
            findings.append(Finding(topic, "retention", f"forgets facts: {told}", f"set {must} on it"))
        else:
            findings.append(Finding(topic, "retention", "for ever"))
    return findings


def _kafka_grants(acls: Acls | Unknowable | None, installation: Installation) -> list[Finding]:
    """For each service whether Kafka lets it do its work, and nothing else with what is this system's."""
    if isinstance(acls, Unknowable):
        return [Finding("Kafka", "grants", str(acls), "grant it, or look yourself")]
    if acls is None:
        return [Finding("Kafka", "grants", "no authorizer: everybody may do everything")]
    settings = installation.settings
    by_service = {name: installation.service(name).grants(settings.topic_prefix) for name in service_names()}
    needed: dict[str, set[Grant]] = {}
    for name, grants in by_service.items():  # several may have one name
        needed.setdefault(settings.kafka_access(name).principal, set()).update(grants)
    resources = {(grant.resource, grant.name) for grants in by_service.values() for grant in grants}
    resources.add(("cluster", "kafka-cluster"))
    findings = []
    for name in service_names():
        principal = settings.kafka_access(name).principal
        may = acls.allowed(principal, resources)
        told = [f"{grant} is missing" for grant in sorted(by_service[name] - may)]
        told += [f"{grant} is too much" for grant in sorted(may - needed[principal])]
        cure = f"choreo provision, or put it right for {principal}" if told else ""
        findings.append(Finding(name, "Kafka grants", ", ".join(told) or "as they must be", cure))
    return findings


async def _ready(http: httpx2.AsyncClient, replica: Replica, port: int) -> Finding:
    name, check = replica.service, "ready" if replica.number == 1 else f"ready: {replica.name}"
    try:
        answer = await http.get(f"http://{LOOPBACK}:{port}/health/ready")
    except httpx2.TransportError:
        return Finding(name, check, f"nobody answers on port {port}", "start it: choreo up")
    jobs = answer.json().get("jobs", {})
    said = "; ".join(
        f"{job}: {told['cause']} (got on at {told['since']})"
        for job, told in jobs.items()
        if not told["ready"]
    )
    if answer.status_code == 200:
        return Finding(name, check, "works")
    return Finding(name, check, said or f"answered {answer.status_code}", "see what it says, and its log")


async def _group(access: KafkaAccess, service: Service[object], prefix: str) -> list[Finding]:
    """Who is in its consumer group."""
    try:
        async with answering(access), asking(access) as cluster:
            group = await cluster.group(service.group(prefix))
    except LOG_UNREADABLE as error:
        return [Finding(service.name, "group", str(error), "ask again, and see that Kafka runs")]
    told = group.strangers(service.name)
    count = len(group.members)
    says = "; ".join(told) or f"{count} process{'' if count == 1 else 'es'} of its own"
    return [Finding(service.name, "group", says, "stop whoever it is" if told else "")]


async def _service(
    service: Service[object],
    engine: AsyncEngine,
    prefix: str,
    log: Mapping[TopicPartition, PartitionLog],
    old: Mapping[TopicPartition, int],
    installation: Installation,
) -> list[Finding]:
    name = service.name
    heard = service.heard_topics(prefix)
    try:
        async with raw_connection(engine) as conn:
            backlog = await read_backlog(conn, service.waiting)
            read = {position.place: position for position in await positions.read(conn, heard)}
            grants = await _grants(conn, installation.runtime_roles.get(name))
            checks = {check: await _told(conn, check) for check in service.checks}
    except (SQLAlchemyError, psycopg.Error, OSError) as error:
        reason = str(error).splitlines()[0] or repr(error)
        return [Finding(name, "database", reason, "see that it runs and that its URL is right")]
    findings = await asyncio.gather(
        *(_reads(name, topic, log, read, old, installation.kafka) for topic in heard if log)
    )
    if installation.style == COLLABORATION:
        findings.append(
            _age(name, "unpublished", backlog.unpublished, "see that Kafka runs and what its log says")
        )
    else:
        cure = "see who does not answer: /health/ready says it, under calls"
        findings.append(_age(name, "not told everybody", backlog.unpublished, cure))
    if service.waiting:
        what = service.waiting.what
        findings.append(_age(name, f"waiting: {what}", backlog.waiting, "see docs/operations.md, Waiting"))
    findings.append(_age(name, "parked", backlog.parked, "choreo dlq ls", long=0))
    findings.append(_granted(name, grants))
    for check, told in checks.items():
        findings.append(
            Finding(name, check.name, "; ".join(told) or "as they must be", check.cure if told else "")
        )
    return findings


async def _reads(
    name: str,
    topic: str,
    log: Mapping[TopicPartition, PartitionLog],
    read: Mapping[TopicPartition, Position],
    old: Mapping[TopicPartition, int],
    access: KafkaAccess,
) -> Finding:
    """Whether it has read this topic, and whether this is the topic it has read."""
    places = [place for place in log if place[0] == topic]
    try:
        for place in places:
            compare(name, log[place], read.get(place))
        async with answering(access), asking(access) as cluster:
            await compare_last_read(name, cluster, log, [read[place] for place in places if place in read])
    except LogMismatch as mismatch:
        return Finding(name, f"reads {topic}", str(mismatch), "see docs/operations.md, Another log")
    except LOG_UNREADABLE as error:
        return Finding(name, f"reads {topic}", str(error), "ask again, and see that Kafka runs")
    next_offset = {place: read[place].next_offset if place in read else 0 for place in places}
    lag = sum(log[place].latest - next_offset[place] for place in places)
    late = any(next_offset[place] < old[place] for place in places)
    says = f"lag {lag}" + (f", some of it longer than {LONG:.0f} s" if late else "")
    return Finding(name, f"reads {topic}", says, f"see whether {name} is ready, and its log" if late else "")


def _age(name: str, check: str, found: CountSince, cure: str, long: float = LONG) -> Finding:
    count, since = found
    if not count or since is None:
        return Finding(name, check, "none")
    age = (datetime.now(UTC) - since).total_seconds()
    return Finding(name, check, f"{count}, the oldest for {age:.0f} s", cure if age > long else "")


async def _told(conn: Connection, check: Check) -> Sequence[str]:
    return [text for (text,) in await (await conn.execute(check.query.encode())).fetchall()]


async def _grants(conn: Connection, role: str | None) -> Sequence[tuple[str, str, bool]]:
    return await (await conn.execute(_GRANTS.encode(), {"role": role})).fetchall()


def _granted(name: str, wrong: Sequence[tuple[str, str, bool]]) -> Finding:
    if not wrong:
        return Finding(name, "grants", "as they must be")
    told = [
        f"{privilege} on {table} {'is too much' if forbidden else 'is missing'}"
        for table, privilege, forbidden in wrong
    ]
    return Finding(name, "grants", ", ".join(told), f"as owner of the tables, put it right for role {name}")


def _utc(ms: int) -> str:
    return (
        datetime.fromtimestamp(ms / 1000, UTC)
        .isoformat(sep=" ", timespec="seconds")
        .replace("+00:00", " UTC")
    )

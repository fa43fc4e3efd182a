"""Looks once a second, while a trial runs, whether everybody who says that it is ready gets on.

What there is to do is asked of the databases and of Kafka. Besides, each job is taken at its own word.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from threading import Event
from typing import Any

import httpx2
import psycopg
from confluent_kafka import Consumer, KafkaException

from choreo.chaos.evidence import ends_by, observing
from choreo.chaos.history import Place
from choreo.chaos.judging.stalls import Look, Stalls, Work
from choreo.chassis.database.connection import session
from choreo.embedded.ports import LOOPBACK

_LOOK_EVERY_SECONDS = 1.0
_TIMEOUT_SECONDS = 2.0

_UNPUBLISHED = "SELECT partition, min(position) FROM outbox GROUP BY partition"
_POSITIONS = "SELECT topic, partition, next_offset FROM positions"
_MAILS = """SELECT count(*) FILTER (WHERE status <> 'pending') FROM notifications
HAVING count(*) FILTER (WHERE status = 'pending' AND user_id IN (SELECT user_id FROM recipients)) > 0"""
"""Known here by itself, as the judge knows what it knows: a description says what waits, not what gets on."""

Facts = Mapping[str, Any]
ToDo = dict[Work, Hashable]


class Watch:
    def __init__(self, facts: Callable[[], Facts]) -> None:
        """`facts` reads run.json, which is not there while nothing runs."""
        self._facts = facts
        self.told: list[str] = []
        """Who said that it is ready, and did not get on."""
        self.lag: list[tuple[float, int]] = []
        """Records that somebody has still to read, all together, by seconds since the epoch."""

    @contextmanager
    def running(self) -> Iterator[None]:
        enough = Event()
        with ThreadPoolExecutor(1) as thread:
            looking = thread.submit(self._run, enough)
            try:
                yield
            finally:
                enough.set()
        looking.result()

    def _run(self, enough: Event) -> None:
        stalls, eyes = Stalls(), _Eyes()
        with eyes:
            while not enough.wait(_LOOK_EVERY_SECONDS):
                self.told += stalls.judge(eyes.look(self._read_facts()))
                self.lag.append((time.time(), sum(eyes.unread.values())))

    def _read_facts(self) -> Facts | None:
        try:
            return self._facts()
        except (OSError, ValueError):
            return None


class _Eyes(ExitStack):
    """What cannot be asked now is as it was: nobody has got on with it as far as anybody could see."""

    def __init__(self) -> None:
        super().__init__()
        self._http = self.enter_context(httpx2.Client(timeout=_TIMEOUT_SECONDS, trust_env=False))
        self._kafka: Consumer | None = None
        self._ends: Mapping[Place, int] = {}
        self._stored: dict[str, ToDo] = {}
        self.unread: dict[str, int] = {}
        """Records, by the service that has still to read them."""
        self._sessions: dict[str, psycopg.Connection[tuple[Any, ...]]] = {}

    def look(self, facts: Facts | None) -> Look:
        at = time.monotonic()
        if facts is None:
            return Look(at, frozenset(), {})
        ready, work = set(), {}
        for service, ports in facts["own_ports"].items():
            jobs = [self._jobs(port) for port in ports]
            if None not in jobs:
                ready.add(service)
            for port, told in zip(ports, jobs, strict=True):
                for job, state in (told or {}).items():
                    if state["waiting"]:
                        work[service, f"what waits for its {job} on port {port}"] = state["since"]
        with suppress(KafkaException):
            self._kafka = self._kafka or self._observer(facts)
            self._ends = ends_by(self._kafka, facts, _TIMEOUT_SECONDS)
        for service, url in facts["owner_urls"].items():
            try:
                self._stored[service] = self._read(service, url, facts)
            except psycopg.Error:
                self._sessions.pop(service, None)
            work |= self._stored.get(service, {})
        return Look(at, frozenset(ready), work)

    def _observer(self, facts: Facts) -> Consumer:
        consumer = observing(facts)
        self.callback(consumer.close)
        return consumer

    def _jobs(self, port: int) -> Mapping[str, Any] | None:
        """None where it does not say that it is ready."""
        try:
            answer = self._http.get(f"http://{LOOPBACK}:{port}/health/ready")
        except httpx2.HTTPError:
            return None
        return dict(answer.json()["jobs"]) if answer.status_code == 200 else None

    def _read(self, service: str, url: str, facts: Facts) -> ToDo:
        if service not in self._sessions:
            conn = psycopg.connect(**session(url, connect_timeout=2), autocommit=True)
            self._sessions[service] = self.enter_context(closing(conn))
        work: ToDo = {}
        self.unread[service] = 0
        prefix, conn = facts["topic_prefix"], self._sessions[service]
        for topic, partition, next_offset in conn.execute(_POSITIONS).fetchall():
            end = self._ends.get((topic.removeprefix(prefix), partition), 0)
            if next_offset < end:
                self.unread[service] += end - next_offset
                work[service, f"unread records of {topic}[{partition}]"] = next_offset
        for partition, position in conn.execute(_UNPUBLISHED).fetchall():
            work[service, f"unpublished facts of partition {partition}"] = position
        if service == "notification":
            for (settled,) in conn.execute(_MAILS).fetchall():
                work[service, "pending mails"] = settled
        return work

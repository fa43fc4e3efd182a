"""A log that loses its end and grows again.

What was acknowledged is gone, so no history can be whole, and a person is needed. What is promised then is
that nobody pretends: every reader stops and says why, applies nothing of a log that is another one now, and
doctor names it. All others go on.
"""

import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from random import Random
from typing import BinaryIO

import httpx2
import psycopg
from confluent_kafka import KafkaException

from choreo.chaos.evidence import end_offsets
from choreo.chaos.faults.fault import Fault, NotInTime, ended, pid_of, replaced, suspended, until
from choreo.chassis.database.connection import session
from choreo.chassis.registry import descriptions
from choreo.embedded.part import accepts_connections
from choreo.embedded.ports import LOOPBACK
from choreo.message.catalog import topic_of
from choreo.operations.acting.throwaway import ThrowawaySystem

_ENDED_WITHIN, _GROWN_WITHIN, _TOLD_WITHIN = 10.0, 60.0, 15.0

_POSITIONS = "SELECT partition, next_offset FROM positions WHERE topic = %s"

_BATCH = struct.Struct(">qiibiHi")
"""A record batch begins with its first offset, the length of what follows, and, after the leader's epoch, the
format, the checksum and the attributes, how many offsets it has but one.
"""
_BEFORE_LENGTH_ENDS = 12

Ends = dict[int, int]
"""By partition of the topic."""


def log_cut() -> Fault:
    def strike(system: ThrowawaySystem, chance: Random) -> float:
        topic, before = system.run_file["topic_prefix"] + topic_of("user"), pid_of(system, "kafka")
        with suspended(pid_of(system, "billing")):  # so that it meets a log that has grown again
            with ended(system, "kafka", signal.SIGKILL):
                port = int(system.run_file["bootstrap"].rpartition(":")[2])
                until(lambda: not accepts_connections(port), _ENDED_WITHIN, "kafka did not end")
                ends = _cut(system, topic)
            replaced(system, "kafka", before)
            until(lambda: bool(_grown(system, ends)), _GROWN_WITHIN, f"{topic} did not grow again")
        for service in _readers():
            told = f"{service} did not say that {topic} was cut"
            until(lambda who=service: _says_cut(system, who, topic), _TOLD_WITHIN, told)  # type: ignore[misc]
        _nobody_reads_on(system, topic, ends)
        return time.monotonic()

    sentence = "kafka is killed and loses the last registrations, and others get their offsets"
    return Fault("cut-log", sentence, strike, kills=1, judged=False)


def _readers() -> list[str]:
    """Of registrations."""
    return [name for name, service in descriptions().items() if "user" in service.sources]


def _cut(system: ThrowawaySystem, topic: str) -> Ends:
    """Takes the last batch that all have read of each partition, and what is behind it. Where they ended."""
    read = [_positions(system, service, topic) for service in _readers()]
    ends: Ends = {}
    for partition in range(system.run_file["partitions"]):
        place = system.home / "data" / "kafka" / "data" / f"{topic}-{partition}"
        with (place / f"{0:020}.log").open("r+b") as file:
            batches = list(_batches(file))
            read_by_all = min(positions.get(partition, 0) for positions in read)
            lost = [at for at, end in batches if end <= read_by_all][-1:]
            if lost:
                file.truncate(lost[0])
                ends[partition] = batches[-1][1]
    if not ends:
        raise NotInTime(f"nobody has read anything of {topic}")
    return ends


def _batches(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Where each begins in the file, and the offset behind it."""
    at = 0
    while len(head := file.read(_BATCH.size)) == _BATCH.size:
        first, length, *_, more = _BATCH.unpack(head)
        yield at, first + more + 1
        at += _BEFORE_LENGTH_ENDS + length
        file.seek(at)


def _positions(system: ThrowawaySystem, service: str, topic: str) -> Ends:
    with psycopg.connect(**session(system.run_file["owner_urls"][service])) as conn:
        return dict(conn.execute(_POSITIONS, [topic]).fetchall())


def _grown(system: ThrowawaySystem, ends: Ends) -> list[int]:
    """The partitions that are longer than they were."""
    try:
        now = end_offsets(system.run_file)
    except KafkaException:
        return []
    return [partition for partition, end in ends.items() if now[topic_of("user"), partition] > end]


def _says_cut(system: ThrowawaySystem, service: str, topic: str) -> bool:
    (port,) = system.run_file["own_ports"][service]
    try:
        answer = httpx2.get(f"http://{LOOPBACK}:{port}/health/ready", trust_env=False)
    except httpx2.HTTPError:
        return False
    said = str(answer.json()["jobs"]["consumer"]["cause"])
    return answer.status_code == 503 and topic in said and "cut" in said


def _nobody_reads_on(system: ThrowawaySystem, topic: str, ends: Ends) -> None:
    doctor = subprocess.run(
        [sys.executable, "-m", "choreo.cli.main", "doctor"],
        env=system.environment,
        capture_output=True,
        text=True,
    )
    for service in _readers():
        positions = _positions(system, service, topic)
        if any(positions[partition] > end for partition, end in ends.items()):
            raise NotInTime(f"{service} has read on in another log: {positions}, which ended at {ends}")
    if doctor.returncode != 1 or doctor.stdout.count("cut") < len(_readers()):
        raise NotInTime(f"doctor does not name it: {doctor.stdout}")

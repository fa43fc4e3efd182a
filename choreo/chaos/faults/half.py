"""Faults by halves: what is connected and silent, held by somebody else, away for longer than a restart, or
takes some and not others. And who writes to a topic in transactions.
"""

import json
import signal
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import psycopg
from confluent_kafka import Producer

from choreo.chaos.evidence import end_offsets, read_topics
from choreo.chaos.faults.clean import leader_killed
from choreo.chaos.faults.cut_log import log_cut
from choreo.chaos.faults.fault import (
    CAUGHT_UP_WITHIN_SECONDS,
    RECOVERY_TIMEOUT_SECONDS,
    Fault,
    NotInTime,
    all_in_sync,
    ended,
    leaders,
    pid_of,
    replaced,
    suspended,
    until,
)
from choreo.chaos.history import Record
from choreo.chaos.mail import Mood, mood_of
from choreo.chassis.database.connection import session
from choreo.operations.acting.throwaway import ThrowawaySystem

_SILENT_SECONDS = 15.0
"""Longer than anybody waits for the database."""
_FOUND_WITHIN = 10.0
_FROZEN_BROKER_SECONDS = 20.0
_MAILED_WITHIN = 30.0
_MAILED_MEANWHILE = 20
"""So many other mails have to go out."""
_PAIRS = 3
"""Of transactions, one committed and one aborted."""


# A session, a row.


def session_silent(name: str, service: str, whose: str, sessions: str) -> Fault:
    """Stopped in the middle of a commit it may hold what all the others need."""

    def strike(system: ThrowawaySystem, chance: Random) -> float:
        time.sleep(chance.random())
        pids: list[int] = []

        def found() -> bool:
            with psycopg.connect(**session(system.admin_url)) as admin:
                asked = admin.execute(f"{_SESSION} AND {sessions} {_LATEST}".encode(), [f"choreo_{service}"])
                pids.extend(pid for (pid,) in asked)
            return bool(pids)

        until(found, _FOUND_WITHIN, f"{service} has no session of its {whose}")
        with suspended(pids[0]):
            time.sleep(_SILENT_SECONDS)
        return time.monotonic()

    sentence = (
        f"in Postgres the session of {service}'s {whose} gets SIGSTOP, SIGCONT after {_SILENT_SECONDS:.0f} s"
    )
    return Fault(f"silent-{name}", sentence, strike, stops=1)


_SESSION = """/* chaos.session: the one that was used last */ SELECT pid FROM pg_stat_activity
WHERE datname = %s AND pid <> pg_backend_pid()"""
_LATEST = "ORDER BY state_change DESC LIMIT 1"
_OF_THE_RELAY = r"query ~ '^/\* (outbox|relay_leases)\.'"
_OF_THE_KERNEL = "application_name = 'kernel'"


def locked(name: str, service: str, what: str, seconds: float) -> Fault:
    """By a session from outside that does nothing else."""

    def strike(system: ThrowawaySystem, chance: Random) -> float:
        with psycopg.connect(**session(system.run_file["owner_urls"][service])) as holder:
            if holder.execute(_ROWS[name].encode()).fetchone() is None:
                raise NotInTime(f"{service} has no such row: {what}")
            time.sleep(seconds)
        return time.monotonic()

    sentence = f"{what} of {service} is locked from outside for {seconds:.0f} s"
    return Fault(f"lock-{name}", sentence, strike)


_ROWS = {
    "key": """SELECT 1 FROM keys WHERE key =
        (SELECT user_id::text FROM ledger ORDER BY at DESC LIMIT 1) FOR UPDATE""",
    "position": "SELECT 1 FROM positions WHERE partition = 0 FOR UPDATE",
    "lease": "SELECT 1 FROM relay_leases WHERE partition = 0 FOR UPDATE",
}


def key_locked(seconds: float = 20.0) -> Fault:
    return locked("key", "billing", "the row of a customer", seconds)


def kept_away(part: str, by: signal.Signals, seconds: float) -> Fault:
    def strike(system: ThrowawaySystem, chance: Random) -> float:
        time.sleep(chance.random())
        before = pid_of(system, part)
        with ended(system, part, by):
            time.sleep(seconds)
        return replaced(system, part, before)

    sentence = f"{part} gets {by.name}, and is started again after {seconds:.0f} s"
    return Fault(f"away-{part}-{seconds:.0f}", sentence, strike, kills=1)


# Kafka.


def leader_silent() -> Fault:
    """For a system of three brokers: one does not answer, while it leads and when others do."""

    def strike(system: ThrowawaySystem, chance: Random) -> float:
        part = f"kafka-{min(leaders(system))}"
        with suspended(pid_of(system, part)):
            time.sleep(_FROZEN_BROKER_SECONDS)
        until(lambda: all_in_sync(system), CAUGHT_UP_WITHIN_SECONDS, f"{part} did not catch up")
        return time.monotonic()

    seconds = f"{_FROZEN_BROKER_SECONDS:.0f} s"
    sentence = f"the broker that leads some partitions gets SIGSTOP, and SIGCONT after {seconds}"
    return Fault("silent-leader", sentence, strike, stops=1, brokers=3)


def written_in_transactions() -> Fault:
    """What is committed is of a type nobody knows. What is aborted would take a customer's money."""

    def strike(system: ThrowawaySystem, chance: Random) -> float:
        order = _an_order(system)
        producer = Producer({**system.kafka_access("admin").confluent(), "transactional.id": "chaos"})
        producer.init_transactions(RECOVERY_TIMEOUT_SECONDS)
        topic = system.run_file["topic_prefix"] + order.topic
        for _ in range(_PAIRS):
            time.sleep(chance.random())
            for record, end in (
                (_with_headers(order, ce_type="SomethingUnheardOf"), producer.commit_transaction),
                (_placed_again(order), producer.abort_transaction),
            ):
                producer.begin_transaction()
                headers: Any = list(record.headers)
                producer.produce(topic, record.value, record.key, record.partition, headers=headers)
                producer.flush(RECOVERY_TIMEOUT_SECONDS)
                end(RECOVERY_TIMEOUT_SECONDS)
        return time.monotonic()

    sentence = "somebody writes orders in transactions, and aborts every other of them"
    return Fault("transactions", sentence, strike)


def _an_order(system: ThrowawaySystem) -> Record:
    records, _ = read_topics(system.run_file, end_offsets(system.run_file))
    for record in reversed(records):
        if ("ce_type", b"OrderCreated") in record.headers:
            return record
    raise NotInTime("nobody has placed an order")


def _placed_again(order: Record) -> Record:
    data = json.loads(order.value or b"") | {"order_id": str(uuid4())}
    return replace(_with_headers(order), value=json.dumps(data).encode())


def _with_headers(record: Record, **changed: str) -> Record:
    """As another event."""
    new = {"ce_id": str(uuid4()), **changed}
    headers = [(name, new[name].encode() if name in new else value) for name, value in record.headers]
    return replace(record, headers=tuple(headers))


# Mail.


def mail_refused(mood: Mood, sentence: str) -> Fault:
    """It lasts until a mail was refused, and until others got theirs."""

    def strike(system: ThrowawaySystem, chance: Random) -> float:
        facts = system.run_file
        with psycopg.connect(**session(facts["owner_urls"]["notification"]), autocommit=True) as conn:

            def count(status: str) -> int:
                found = conn.execute(_COUNT, [status]).fetchone()
                return int(found[0]) if found else 0

            failed, sent = count("failed"), count("sent")
            file = mood_of(Path(facts["maildir"]), mood)
            file.touch()
            try:
                until(lambda: count("failed") > failed, _MAILED_WITHIN, "no mail was refused")
                until(lambda: count("sent") > sent + _MAILED_MEANWHILE, _MAILED_WITHIN, "others had to wait")
            finally:
                file.unlink()
        return time.monotonic()

    return Fault(f"mail-{mood}", sentence, strike)


_COUNT = "SELECT count(*) FROM notifications WHERE status = %s"


def without_smtputf8() -> Fault:
    return mail_refused("ascii", "the mail server takes no address beyond ASCII")


def an_address_refused() -> Fault:
    return mail_refused("refuses", "the mail server refuses one address")


HALF_FAULTS: tuple[Fault, ...] = (
    session_silent("relay", "order", "relay", _OF_THE_RELAY),
    kept_away("postgres", signal.SIGQUIT, 3.0),
    an_address_refused(),
    key_locked(),
    session_silent("kernel", "billing", "kernel", _OF_THE_KERNEL),
    written_in_transactions(),
    kept_away("postgres", signal.SIGQUIT, 8.0),
    without_smtputf8(),
    locked("position", "billing", "the position in a partition of each topic", 20.0),
    kept_away("mail", signal.SIGKILL, 15.0),
    locked("lease", "order", "the lease of a partition of the outbox", 20.0),
    kept_away("postgres", signal.SIGQUIT, 20.0),
    leader_silent(),
    leader_killed(),
    log_cut(),
)

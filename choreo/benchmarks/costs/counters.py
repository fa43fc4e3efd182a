"""What a running system has counted so far: read before a load and after it, and told for each order."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from choreo.benchmarks.connection import Connection
from choreo.benchmarks.resources import written_bytes
from choreo.chassis.database.connection import session
from choreo.operations.acting.throwaway import ThrowawaySystem

_TRANSACTIONS = {
    "count": re.compile(rb"^choreo_transaction_inputs_count ([0-9.e+]+)", re.MULTILINE),
    "inputs": re.compile(rb"^choreo_transaction_inputs_sum ([0-9.e+]+)", re.MULTILINE),
    "seconds": re.compile(rb"^choreo_transaction_duration_seconds_sum ([0-9.e+]+)", re.MULTILINE),
}

_POSTGRES = """/* bench.counters: of the whole server. Each session tells its own about once a second. */
SELECT (SELECT sum(xact_commit) FROM pg_stat_database)::float8 AS commits,
    (SELECT sum(fsyncs) FROM pg_stat_io)::float8 AS fsyncs,
    (SELECT wal_bytes FROM pg_stat_wal)::float8 AS wal_bytes,
    (SELECT sum(pg_database_size(oid)) FROM pg_database)::float8 AS table_bytes"""


@dataclass(frozen=True, slots=True)
class Transactions:
    """Of one service's kernel, by its processes' metrics."""

    count: float
    inputs: float
    seconds: float


@dataclass(frozen=True)
class Counters:
    """Since each part began."""

    transactions: Mapping[str, Transactions]
    """By service."""
    postgres: Mapping[str, float]
    topic_bytes: int
    """Kafka's segments."""
    written: Mapping[str, int]
    """Bytes by part, as the system counts what its processes wrote to disk; empty where it does not."""


@dataclass(frozen=True)
class KernelCosts:
    per_second: float
    inputs: float
    """In each, on average."""
    milliseconds: float
    """From the first lock to the commit."""


@dataclass(frozen=True)
class Costs:
    """What the load made the system do."""

    transactions: Mapping[str, KernelCosts]
    """Of the kernel, by service, from its metrics."""
    commits_per_order: float
    """All that Postgres did, looking included (pg_stat_database)."""
    fsyncs_per_order: float
    """Postgres' own (pg_stat_io). Kafka and the mail sink make none."""
    bytes_per_order: Mapping[str, float]
    """`wal` (pg_stat_wal), `tables` (pg_database_size has grown by) and `topics` (Kafka's segments have)."""
    disk_bytes_per_order: Mapping[str, float]
    """By part: what its processes wrote to disk, over and over included (/proc/PID/io)."""


async def read_counters(system: ThrowawaySystem, pids: Mapping[str, int]) -> Counters:
    facts = system.run_file
    return Counters(
        {service: await _transactions(ports) for service, ports in facts["own_ports"].items()},
        await asyncio.to_thread(_postgres, system.admin_url),
        topic_bytes(system.home / "data" / "kafka"),
        written_bytes(pids),
    )


def costs(before: Counters, after: Counters, seconds: float, orders: float) -> Costs:
    postgres = {name: (after.postgres[name] - before.postgres[name]) / orders for name in after.postgres}
    topics = (after.topic_bytes - before.topic_bytes) / orders
    return Costs(
        {
            service: _per_transaction(before.transactions[service], counted, seconds)
            for service, counted in after.transactions.items()
        },
        commits_per_order=round(postgres["commits"], 3),
        fsyncs_per_order=round(postgres["fsyncs"], 4),
        bytes_per_order={
            "wal": round(postgres["wal_bytes"]),
            "tables": round(postgres["table_bytes"]),
            "topics": round(topics),
        },
        disk_bytes_per_order={
            part: round((count - before.written.get(part, 0)) / orders)
            for part, count in after.written.items()
        },
    )


def _per_transaction(before: Transactions, after: Transactions, seconds: float) -> KernelCosts:
    """Zeros where there was none."""
    count = after.count - before.count
    return KernelCosts(
        round(count / seconds, 1),
        round((after.inputs - before.inputs) / max(1.0, count), 1),
        round(1000 * (after.seconds - before.seconds) / max(1.0, count), 2),
    )


async def _transactions(ports: Any) -> Transactions:
    """All processes of a service together."""
    totals = dict.fromkeys(_TRANSACTIONS, 0.0)
    for port in ports:
        connection = Connection(port)
        answer = await connection.request("GET", "/metrics")
        connection.close()
        for name, pattern in _TRANSACTIONS.items():
            totals[name] += sum(map(float, pattern.findall(answer.body)))
    return Transactions(**totals)


def _postgres(admin_url: str) -> dict[str, float]:
    with psycopg.connect(**session(admin_url), row_factory=dict_row) as conn:
        row = conn.execute(_POSTGRES).fetchone()
        assert row is not None
        return dict(row)


def topic_bytes(directory: Path) -> int:
    """Of the segments of all topics that hold events."""
    return sum(file.stat().st_size for file in directory.rglob("*-events-*/*.log"))

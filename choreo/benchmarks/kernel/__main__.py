"""What a transaction costs: billing's kernel alone on a Postgres of its own, hearing orders it confirms.

`python -m choreo.benchmarks.kernel --against DIRECTORY` measures another checkout, too, turn by turn, and
prints the ratios. Both run this file with their own packages, so it leans on little.
"""

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import uvloop
from prometheus_client import CollectorRegistry

from choreo.chassis.database.connection import make_engine, raw_connection
from choreo.chassis.database.migrate import migrate
from choreo.chassis.installed import room_of
from choreo.chassis.kafka.relay import partition_of
from choreo.chassis.observe import log
from choreo.chassis.observe.meter import Meter
from choreo.chassis.registry import examples, service_of
from choreo.chassis.settings import OBSERVER, Settings
from choreo.chassis.transaction import positions
from choreo.chassis.transaction.inputs import Heard
from choreo.chassis.transaction.kernel import Kernel
from choreo.chassis.transaction.positions import Position
from choreo.chassis.transaction.store import PostgresStore
from choreo.embedded.testing import postgres_for_tests
from choreo.message.codec import decode, encode
from choreo.message.envelope import Cause
from choreo.message.fact import Fact

SERVICE = "billing"
ACCOUNTS = 200
PARTITIONS = 12
BATCHES = {1: 400, 10: 150, 100: 40}
"""Inputs of a transaction, and how many such transactions are measured."""
WARM_UP = 20
"""Transactions before those: statements are prepared, pages are in memory."""

_TOLD = ("client", "postgres", "wall")
ROOT = Path(__file__).parents[3]

_examples = cache(examples)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m choreo.benchmarks.kernel", description=__doc__)
    parser.add_argument("--against", type=Path, help="the root of another checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print what this checkout takes as JSON")
    asked = parser.parse_args()
    trees = {"this": ROOT} | ({"other": asked.against.resolve()} if asked.against else {})
    found: dict[str, list[dict[str, list[float]]]] = {name: [] for name in trees}
    with postgres_for_tests() as postgres:
        template, _ = postgres.create_service(SERVICE, database="template")
        migrate(SERVICE, template, SERVICE, OBSERVER)
        for round, (name, tree) in itertools.product(range(asked.rounds), trees.items()):
            database = f"{name}_{round}"
            urls = postgres.create_service(SERVICE, database=database, template="template")
            found[name].append(_measured(tree, urls))
            postgres.drop_database(database)
    if asked.json:
        print(
            json.dumps(
                {batch: dict(zip(_TOLD, row, strict=True)) for batch, row in _medians(found["this"]).items()}
            )
        )
        return
    for line in _report(found):
        print(line)


def _measured(tree: Path, urls: Sequence[str]) -> dict[str, list[float]]:
    told = subprocess.run(
        [sys.executable, "-P", __file__],
        env=os.environ | {"PYTHONPATH": str(tree), "KERNEL_URLS": json.dumps(urls)},
        check=True,
        stdout=subprocess.PIPE,
    )
    result: dict[str, list[float]] = json.loads(told.stdout.splitlines()[-1])
    return result


def _medians(rounds: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """By inputs of a transaction."""
    return {
        batch: [statistics.median(column) for column in zip(*(one[batch] for one in rounds), strict=True)]
        for batch in map(str, BATCHES)
    }


def _report(found: dict[str, list[dict[str, list[float]]]]) -> Iterator[str]:
    """The median of all rounds, in microseconds a transaction."""
    yield f"{'inputs':>6}  " + "  ".join(f"{name + ' ' + what:>15}" for name in found for what in _TOLD)
    for batch in map(str, BATCHES):
        medians = {name: _medians(rounds)[batch] for name, rounds in found.items()}
        line = f"{batch:>6}  " + "  ".join(f"{value:>15.0f}" for row in medians.values() for value in row)
        if len(medians) > 1:
            ratios = [other / this for this, other in zip(medians["this"], medians["other"], strict=True)]
            line += "   other/this " + " ".join(f"{ratio:.2f}" for ratio in ratios)
        yield line


async def measure(owner_url: str, runtime_url: str) -> dict[str, list[float]]:
    """By inputs of a transaction: client CPU, Postgres' CPU and time, in microseconds a transaction."""
    log.configure(SERVICE, "WARNING")
    engine = make_engine(runtime_url)
    service = service_of(SERVICE, Settings())
    kernel = Kernel(
        service.decider,
        PostgresStore(engine, service.store),
        partition_of=lambda key: partition_of(key, PARTITIONS),
        clock=lambda: datetime.now(UTC),
        meter=Meter(CollectorRegistry()),
    )
    async with raw_connection(engine) as conn:
        await positions.begin(conn, [Position("facts", 0, 0, "topic", "cluster")])
        await conn.commit()
    running = asyncio.ensure_future(kernel.run())
    offsets = itertools.count()
    users = [uuid4() for _ in range(ACCOUNTS)]
    registered, ordered = (_examples()[name].data for name in ("UserRegistered", "OrderCreated"))
    deposit = room_of(SERVICE, "commands").Deposit
    everybody = [registered.model_copy(update={"user_id": user}) for user in users]
    await asyncio.gather(*_hear(kernel, offsets, everybody))
    for user in users:
        await kernel.ask(deposit(cause=Cause.root(uuid4()), user_id=user, amount=10**9))
    backends = await _backends(runtime_url)
    orders = (
        ordered.model_copy(update={"order_id": uuid4(), "user_id": user, "price": 1})
        for user in itertools.cycle(users)
    )
    result = {}
    for batch, count in BATCHES.items():
        batches = [_inputs(offsets, itertools.islice(orders, batch)) for _ in range(WARM_UP + count)]
        for inputs in batches[:WARM_UP]:
            await asyncio.gather(*_put(kernel, inputs))
        before = _costs(backends)
        for inputs in batches[WARM_UP:]:
            await asyncio.gather(*_put(kernel, inputs))
        result[str(batch)] = [
            (after - was) / count * 1e6 for was, after in zip(before, _costs(backends), strict=True)
        ]
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await engine.dispose()
    return result


def _inputs(offsets: Iterator[int], facts: Any) -> list[Heard]:
    found = []
    for fact in facts:
        id = uuid4()
        event = replace(
            _examples()[type(fact).__name__],
            id=id,
            correlation_id=id,
            trace_id=id.hex,
            key=fact.key,
            data=fact,
        )
        record = encode(event)
        done = asyncio.get_running_loop().create_future()
        found.append(Heard("facts", 0, next(offsets), record, decode(record), None, datetime.now(UTC), done))
    return found


def _put(kernel: Kernel[Any], inputs: Sequence[Heard]) -> "list[asyncio.Future[None]]":
    for heard in inputs:
        kernel.hear(heard)
    return [heard.done for heard in inputs]


def _hear(kernel: Kernel[Any], offsets: Iterator[int], facts: Sequence[Fact]) -> Any:
    return _put(kernel, _inputs(offsets, facts))


def _costs(backends: Sequence[psutil.Process]) -> tuple[float, float, float]:
    used = [backend.cpu_times() for backend in backends]
    return time.process_time(), sum(one.user + one.system for one in used), time.monotonic()


async def _backends(url: str) -> list[psutil.Process]:
    """The sessions of the kernel: it has its own role."""
    engine = make_engine(url)
    async with raw_connection(engine) as conn:
        found = await conn.execute(
            "SELECT pid FROM pg_stat_activity WHERE usename = current_user AND datname = current_database()"
            " AND pid <> pg_backend_pid()"
        )
        pids = [pid for (pid,) in await found.fetchall()]
    await engine.dispose()
    return [psutil.Process(pid) for pid in pids]


if __name__ == "__main__":
    if urls := os.environ.get("KERNEL_URLS"):
        print(json.dumps(uvloop.run(measure(*json.loads(urls)))))
    else:
        main()

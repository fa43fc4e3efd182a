"""What a record costs from Kafka to a service's kernel: a Kafka of its own, and a kernel that only waits.

`python -m choreo.benchmarks.consumer` sends records one by one, evenly over twelve partitions, at one rate
after the other. What consumes is a process of its own, so that its CPU is told alone: Faust, decoding, and
what such a process does at rest.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

import uvloop

from choreo.benchmarks.latency import quantiles
from choreo.chassis.kafka.access import KafkaAccess
from choreo.chassis.kafka.admin.topics import declare_topics
from choreo.chassis.kafka.cluster import new_client_id
from choreo.chassis.kafka.faust_internals import ChunkedApp
from choreo.chassis.kafka.handover import Handover
from choreo.chassis.kafka.log_reader import LOG_UNREADABLE
from choreo.chassis.kafka.partition_producer import PartitionProducer
from choreo.chassis.observe import log
from choreo.chassis.registry import examples
from choreo.chassis.transaction.inputs import Heard
from choreo.chassis.transaction.kernel import BATCH, Kernel
from choreo.chassis.transaction.outbox import row_of
from choreo.chassis.transaction.positions import Expected, TopicPartition
from choreo.embedded.testing import kafka_for_tests

FACT = "OrderCreated"
PARTITIONS = 12
RATES = (50, 700, 2000)
"""Records a second."""
_SECONDS = 10.0
_WARM_UP_SECONDS = 3.0
_TRANSACTION_SECONDS, _INPUT_SECONDS = 0.003, 0.0001
"""So long the kernel waits, as one does that commits."""
_SETTLE_SECONDS = 1.0
_START_TIMEOUT_SECONDS = 60.0
_SEND_TIMEOUT_SECONDS = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m choreo.benchmarks.consumer", description=__doc__)
    parser.add_argument("--seconds", type=float, default=_SECONDS)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    _say_only_what_is_wrong()
    found = {}
    with kafka_for_tests() as kafka:
        for rate in RATES:
            topic = f"facts-{rate}"
            declare_topics(kafka.admin, [topic], PARTITIONS)
            found[str(rate)] = uvloop.run(_at(kafka.admin, topic, rate, asked.seconds))
    if asked.json:
        print(json.dumps(found))
        return
    print(f"{'records/s':>10} {'came':>6} {'CPU µs':>8} {'p50 ms':>8} {'p99 ms':>8}")
    for at, one in found.items():
        delays = f"{one['p50_ms']:>8.1f} {one['p99_ms']:>8.1f}"
        print(f"{at:>10} {one['records']:>6} {one['cpu_us']:>8.0f} {delays}")


async def _at(access: KafkaAccess, topic: str, rate: int, seconds: float) -> dict[str, float]:
    """Each record's costs: those of the process that consumes."""
    consumer = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "choreo.benchmarks.consumer",
        env=os.environ | {"CONSUMER": json.dumps([access.told(), topic])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert consumer.stdin and consumer.stdout
    try:
        async with asyncio.timeout(_START_TIMEOUT_SECONDS):
            await consumer.stdout.readline()  # it has its partitions
        producers = [PartitionProducer(access, topic, number, PARTITIONS) for number in range(PARTITIONS)]
        await asyncio.gather(*map(_send_one, producers, range(PARTITIONS)))
        await _send(producers, rate, _WARM_UP_SECONDS)
        consumer.stdin.write(b"begin\n")
        await _send(producers, rate, seconds)
        for producer in producers:
            producer.close()
        await asyncio.sleep(_SETTLE_SECONDS)
        consumer.stdin.write(b"end\n")
        told: dict[str, float] = json.loads(await consumer.stdout.readline())
        return told
    finally:
        with suppress(ProcessLookupError):
            consumer.kill()
        await consumer.wait()


async def _send_one(producer: PartitionProducer, partition: int) -> None:
    """A Kafka that has just started has no producer's id to give."""
    row = row_of(_an_event(), partition)
    async with asyncio.timeout(_SEND_TIMEOUT_SECONDS):
        while True:
            try:
                await producer.send([row])
                return
            except LOG_UNREADABLE:
                await asyncio.sleep(0.1)


async def _send(producers: Sequence[PartitionProducer], rate: int, seconds: float) -> None:
    """Each alone, when it is due; of one partition each waits for the one before it."""
    start, of_each = time.monotonic(), rate / PARTITIONS

    async def of_one(number: int) -> None:
        for count in range(int(of_each * seconds)):
            due = start + (count + number / PARTITIONS) / of_each
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await _send_one(producers[number], number)

    await asyncio.gather(*map(of_one, range(PARTITIONS)))


def _an_event() -> Any:
    id = uuid4()
    return replace(examples()[FACT], id=id, correlation_id=id, trace_id=id.hex, time=datetime.now(UTC))


class _Waits:
    """In the place of a kernel."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        """From when a record was made until it was finished, in seconds."""
        self._inputs: deque[Heard] = deque()
        self._woken = asyncio.Event()

    async def room(self) -> None:
        pass

    def hear(self, heard: Heard) -> None:
        self._inputs.append(heard)
        self._woken.set()

    async def run(self) -> None:
        while True:
            await self._woken.wait()
            batch = [self._inputs.popleft() for _ in range(min(BATCH, len(self._inputs)))]
            if not self._inputs:
                self._woken.clear()
            await asyncio.sleep(_TRANSACTION_SECONDS + _INPUT_SECONDS * len(batch))
            now = datetime.now(UTC)
            for heard in batch:
                if not heard.done.done():
                    heard.done.set_result(None)
                if heard.event:
                    self.delays.append((now - heard.event.time).total_seconds())


def _say_only_what_is_wrong() -> None:
    log.configure("consumer", "ERROR")


async def consume(told: dict[str, str], topic: str) -> None:
    """Says that it has its partitions, and between two lines that it reads what each record cost."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # where the log goes
    _say_only_what_is_wrong()
    kernel, access = _Waits(), KafkaAccess.from_told(told)
    consumed = {topic: frozenset({type(examples()[FACT].data)})}
    app = ChunkedApp("consumer", new_client_id("consumer", None), access)
    handover = Handover(cast(Kernel[Any], kernel), consumed, app, on_progress=lambda: None)
    assigned = asyncio.Event()

    async def begin(places: set[TopicPartition]) -> dict[TopicPartition, int]:
        assigned.set()
        return dict.fromkeys(places, 0)

    async def check(place: TopicPartition, end: Expected, epoch: int) -> None:
        pass

    async def listen(stream: Any) -> None:
        await handover.listen(stream, check=check)

    app.consume(consumed, listen, begin)
    running = asyncio.ensure_future(kernel.run())
    await app.start()
    await assigned.wait()
    print("ready", file=answers, flush=True)
    await _a_line()
    kernel.delays.clear()
    before = time.process_time()
    await _a_line()
    cpu, count = time.process_time() - before, len(kernel.delays)
    delays = quantiles(kernel.delays)
    each = {"records": count, "cpu_us": round(1e6 * cpu / count, 1)}
    told_of_each = json.dumps({**each, "p50_ms": delays.p50_ms, "p99_ms": delays.p99_ms})
    print(told_of_each, file=answers, flush=True)
    running.cancel()
    await asyncio.Event().wait()  # whoever reads this ends it


async def _a_line() -> None:
    await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    if given := os.environ.get("CONSUMER"):
        uvloop.run(consume(*json.loads(given)))
    else:
        main()

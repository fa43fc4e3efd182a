"""Outbox and inbox by hand: what is to be sent is stored with what it tells of, and sent afterwards."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import shop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

Handler = Callable[[AsyncConnection, Any], Awaitable[None]]

_ADD = "INSERT INTO outbox (topic, key, value) VALUES (%s, %s, %s)"
_TAKE = """
DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE topic = %s ORDER BY id LIMIT 500 FOR UPDATE)
RETURNING id, topic, key, value::text"""
_PAUSE, _MOST = 0.02, 500


async def send(conn: AsyncConnection, topic: str, message: Any) -> None:
    """Runs inside the caller's transaction."""
    await conn.execute(_ADD, (topic, message["user_id"], json.dumps(message)))


async def relay(pool: AsyncConnectionPool, topic: str) -> None:
    """At least once: whoever is killed between Kafka's answer and the commit sends again."""
    async with AIOKafkaProducer(**shop.KAFKA, acks="all", enable_idempotence=True) as producer:
        while True:
            async with pool.connection() as conn:
                rows = await (await conn.execute(_TAKE, [topic])).fetchall()
                sent = [
                    await producer.send(to, value.encode(), key.encode())
                    for _, to, key, value in sorted(rows)
                ]
                await asyncio.gather(*sent)
            if not rows:
                await asyncio.sleep(_PAUSE)


async def consume(pool: AsyncConnectionPool, topic: str, group: str, handle: Handler) -> None:
    """One transaction for a batch, then the offsets. What comes twice is known by its inbox row."""
    consumer = AIOKafkaConsumer(
        topic, group_id=group, **shop.KAFKA, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    async with consumer:
        while True:
            batch = await consumer.getmany(timeout_ms=1000, max_records=_MOST)
            if not batch:
                continue
            async with pool.connection() as conn:
                for record in (record for records in batch.values() for record in records):
                    message = json.loads(record.value)
                    if (await conn.execute(shop.FIRST_TIME, {**message, "step": group})).rowcount:
                        await handle(conn, message)
            await consumer.commit()


@asynccontextmanager
async def running(pool: AsyncConnectionPool, *jobs: Awaitable[None]) -> AsyncIterator[None]:
    """A job that fails ends the process: whoever watches it starts it again."""
    async with pool, asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(job) for job in jobs]  # type: ignore[arg-type]
        yield
        for task in started:
            task.cancel()

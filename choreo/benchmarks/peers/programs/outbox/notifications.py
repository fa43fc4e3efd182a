"""The notification service: a payment in."""

import asyncio

import shop
from messaging import consume, running
from psycopg import AsyncConnection


async def notify(conn: AsyncConnection, decided: shop.Decided) -> None:
    await conn.execute(shop.NOTIFY, decided)


async def main() -> None:
    pool = shop.connection_pool()
    async with running(pool, consume(pool, "payments", "notifications", notify)):
        await asyncio.Event().wait()


asyncio.run(main())

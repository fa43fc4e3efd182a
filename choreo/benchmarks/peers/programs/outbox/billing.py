"""The billing service: an order in, a payment out."""

import asyncio

import shop
from messaging import consume, relay, running, send
from psycopg import AsyncConnection


async def pay(conn: AsyncConnection, order: shop.Order) -> None:
    paid = await conn.execute(shop.PAY, order)
    await send(conn, "payments", shop.decided(order, await paid.fetchone()))


async def main() -> None:
    pool = shop.connection_pool()
    async with running(pool, relay(pool, "payments"), consume(pool, "orders", "billing", pay)):
        await asyncio.Event().wait()


asyncio.run(main())

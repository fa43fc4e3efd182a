"""The order service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import shop
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from messaging import consume, relay, running, send
from psycopg import AsyncConnection

pool = shop.connection_pool()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with running(pool, relay(pool, "orders"), consume(pool, "payments", "orders", settle)):
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders")
async def place_order(order: shop.Placed) -> JSONResponse:
    async with pool.connection() as conn:
        if (await conn.execute(shop.STORE_ORDER, order)).rowcount:
            await send(conn, "orders", order)
    return shop.accepted(order)


async def settle(conn: AsyncConnection, decided: shop.Decided) -> None:
    await conn.execute(shop.SETTLE, decided)

"""One process, one transaction: nothing between the steps can break, and nothing else is needed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import shop
from fastapi import FastAPI
from fastapi.responses import JSONResponse

pool = shop.connection_pool()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with pool:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders")
async def place_order(order: shop.Placed) -> JSONResponse:
    async with pool.connection() as conn:  # a transaction
        stored = await conn.execute(shop.STORE_ORDER, order)
        if stored.rowcount:
            paid = await conn.execute(shop.PAY, order)
            decided = shop.decided(order, await paid.fetchone())
            await conn.execute(shop.SETTLE, decided)
            await conn.execute(shop.NOTIFY, decided)
    return shop.accepted(order)

"""The order service: FastStream's plugin for FastAPI."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import shop
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from faststream.kafka.fastapi import KafkaRouter
from security import SECURITY

pool = shop.connection_pool()
router = KafkaRouter(shop.KAFKA["bootstrap_servers"], security=SECURITY, logger=None)


@router.post("/orders")
async def place_order(order: shop.Placed) -> JSONResponse:
    async with pool.connection() as conn:
        await conn.execute(shop.STORE_ORDER, order)
    await router.broker.publish(order, "orders", key=order["user_id"].encode())
    return shop.accepted(order)


@router.subscriber("payments", group_id="orders", auto_offset_reset="earliest")
async def settle(decided: shop.Decided) -> None:
    async with pool.connection() as conn:
        await conn.execute(shop.SETTLE, decided)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with pool:
        yield


app = FastAPI(lifespan=lifespan)
app.include_router(router)

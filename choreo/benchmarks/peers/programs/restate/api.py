"""The half that customers see: the token is checked here, then Restate has the order."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import restate
import shop
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from services import fulfil


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with restate.create_client(os.environ["SHOP_RESTATE"]) as client:
        app.state.restate = client
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders")
async def place_order(order: shop.Placed) -> JSONResponse:
    await app.state.restate.workflow_send(fulfil, order["id"], order)  # once for each id
    return shop.accepted(order)

"""Where orders come in; what follows is for the workers."""

import shop
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from tasks import pay, pool

app = FastAPI()


@app.post("/orders")
def place_order(order: shop.Placed) -> JSONResponse:
    with pool.connection() as conn:
        conn.execute(shop.STORE_ORDER, order)
    pay.send(order)
    return shop.accepted(order)

"""What every peer shares: who asks, what is asked and answered, and one SQL statement for each step.

So a peer's own program shows only what is its own: how one step leads to the next.
"""

import os
import time
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any
from uuid import UUID, uuid5

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from fastapi import Depends, Header, HTTPException
from fastapi.responses import JSONResponse
from jwt.utils import base64url_decode
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

DATABASE_URL = os.environ["SHOP_DATABASE_URL"]
CONNECTIONS = 16
"""To Postgres, of each program."""

KAFKA: dict[str, Any] = {
    "bootstrap_servers": os.environ.get("SHOP_KAFKA", ""),
    "security_protocol": "SASL_PLAINTEXT",
    "sasl_mechanism": "PLAIN",
    "sasl_plain_username": "admin",
    "sasl_plain_password": os.environ.get("SHOP_KAFKA_PASSWORD", ""),
}
"""The arguments of aiokafka's clients."""


class Order(TypedDict):
    """As a request made it. Money is in minor units."""

    id: str
    user_id: str
    price: int


class Decided(Order):
    outcome: str


# One statement a step.

STORE_ORDER = """
INSERT INTO orders (id, user_id, price, status)
VALUES (%(id)s, %(user_id)s, %(price)s, 'created') ON CONFLICT DO NOTHING"""

PAY = """
WITH paid AS (
    UPDATE accounts SET balance = balance - %(price)s
    WHERE user_id = %(user_id)s AND balance >= %(price)s RETURNING user_id
), entry AS MATERIALIZED (
    SELECT gen_random_uuid() AS id, user_id FROM paid
), legs AS (
    INSERT INTO ledger (entry_id, side, user_id, kind, amount, order_id)
    SELECT entry.id, side, user_id, 'payment', sign * %(price)s, %(id)s::uuid
    FROM entry, (VALUES ('customer', -1), ('shop', 1)) AS leg (side, sign)
)
INSERT INTO payments (order_id, user_id, amount, outcome)
VALUES (
    %(id)s, %(user_id)s, %(price)s,
    CASE WHEN EXISTS (SELECT FROM paid) THEN 'confirmed' ELSE 'rejected' END
)
RETURNING outcome"""

OUTCOME = "SELECT outcome FROM payments WHERE order_id = %(id)s"
SETTLE = "UPDATE orders SET status = %(outcome)s WHERE id = %(id)s"
NOTIFY = "INSERT INTO notifications (order_id, user_id, kind) VALUES (%(id)s, %(user_id)s, %(outcome)s)"

FIRST_TIME = "INSERT INTO inbox (message) VALUES (%(step)s || ' ' || %(id)s) ON CONFLICT DO NOTHING"
"""Changes no row if this step of this order was done before."""


def decided(order: Order, row: Any) -> Decided:
    return {**order, "outcome": row[0]}


def connection_pool() -> AsyncConnectionPool:
    return AsyncConnectionPool(DATABASE_URL, min_size=4, max_size=CONNECTIONS, open=False)


# The request and its answer.

_ISSUER, _AUDIENCE = "urn:choreo:tokens", "urn:choreo:services"
_CLAIMS = ["exp", "iat", "iss", "aud", "sub"]
_PUBLIC_KEY = Ed25519PublicKey.from_public_bytes(base64url_decode(os.environ["SHOP_PUBLIC_KEY"]))


@lru_cache(maxsize=10_000)
def _claims(token: str) -> dict[str, Any]:
    """A verified token is remembered, as by the shop: checking a signature costs 200 µs."""
    options = {"require": _CLAIMS}
    return jwt.decode(token, _PUBLIC_KEY, ["EdDSA"], options, issuer=_ISSUER, audience=_AUDIENCE)


async def customer(authorization: Annotated[str, Header()] = "") -> UUID:
    try:
        claims = _claims(authorization.removeprefix("Bearer "))
    except jwt.PyJWTError:
        raise HTTPException(401) from None
    if claims["exp"] <= time.time():
        raise HTTPException(401)
    return UUID(claims["sub"])


class OrderBody(BaseModel):
    price: Annotated[Decimal, Field(gt=0, max_digits=11, decimal_places=2)]


async def placed(
    body: OrderBody, user: Annotated[UUID, Depends(customer)], idempotency_key: Annotated[str, Header()]
) -> Order:
    """A repeated request is the same order."""
    order_id = uuid5(user, idempotency_key)
    return {"id": str(order_id), "user_id": str(user), "price": int(body.price * 100)}


Placed = Annotated[Order, Depends(placed)]


def accepted(order: Order) -> JSONResponse:
    answer = {"id": order["id"], "status": "created"}
    return JSONResponse(answer, status_code=202, headers={"Flow-Id": order["id"]})

"""Dramatiq's actors. A message is acknowledged once it is done, so whatever is killed is done again."""

import os

import dramatiq
import shop
from dramatiq.brokers.redis import RedisBroker
from psycopg_pool import ConnectionPool

# The heartbeat, of 60 s otherwise, is how long the work of a killed worker lies about.
dramatiq.set_broker(RedisBroker(url=os.environ["SHOP_REDIS"], heartbeat_timeout=5_000))
pool = ConnectionPool(shop.DATABASE_URL, min_size=4, max_size=shop.CONNECTIONS, open=True)


@dramatiq.actor
def pay(order: shop.Order) -> None:
    with pool.connection() as conn:
        if conn.execute(shop.FIRST_TIME, {**order, "step": "pay"}).rowcount:
            conn.execute(shop.PAY, order)
        decided = shop.decided(order, conn.execute(shop.OUTCOME, order).fetchone())
    settle.send(decided)
    notify.send(decided)


@dramatiq.actor
def settle(decided: shop.Decided) -> None:
    with pool.connection() as conn:
        conn.execute(shop.SETTLE, decided)


@dramatiq.actor
def notify(decided: shop.Decided) -> None:
    with pool.connection() as conn:
        if conn.execute(shop.FIRST_TIME, {**decided, "step": "notify"}).rowcount:
            conn.execute(shop.NOTIFY, decided)

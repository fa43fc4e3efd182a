"""The billing service: an order in, a payment out."""

import shop
from faststream import FastStream
from faststream.kafka import KafkaBroker
from security import SECURITY

pool = shop.connection_pool()
broker = KafkaBroker(shop.KAFKA["bootstrap_servers"], security=SECURITY, logger=None)
app = FastStream(broker, on_startup=[pool.open], after_shutdown=[pool.close])


@broker.subscriber("orders", group_id="billing", auto_offset_reset="earliest")
@broker.publisher("payments")
async def pay(order: shop.Order) -> shop.Decided:
    async with pool.connection() as conn:
        paid = await conn.execute(shop.PAY, order)
        return shop.decided(order, await paid.fetchone())

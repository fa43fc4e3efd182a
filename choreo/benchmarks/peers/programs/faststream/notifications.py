"""The notification service: a payment in."""

import shop
from faststream import FastStream
from faststream.kafka import KafkaBroker
from security import SECURITY

pool = shop.connection_pool()
broker = KafkaBroker(shop.KAFKA["bootstrap_servers"], security=SECURITY, logger=None)
app = FastStream(broker, on_startup=[pool.open], after_shutdown=[pool.close])


@broker.subscriber("payments", group_id="notifications", auto_offset_reset="earliest")
async def notify(decided: shop.Decided) -> None:
    async with pool.connection() as conn:
        await conn.execute(shop.NOTIFY, decided)

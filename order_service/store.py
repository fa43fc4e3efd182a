"""Which orders a batch needs, and where they are kept."""

from chassis.key_source import SIGNING_KEYS
from chassis.shelf import Shelf, ShelvesByKey
from order_service.state import Order, Orders
from order_service.tables import orders

SHELVES = ShelvesByKey(
    Orders,
    (Shelf("orders", orders, Order, key="user_id", named_by="order_id"), SIGNING_KEYS),
)

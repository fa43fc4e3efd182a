"""Which orders a batch needs, and where they are kept."""

from choreo.chassis.http.signing_keys import SIGNING_KEYS
from choreo.chassis.transaction.state_store import Shelf, ShelvesByKey
from order_service.state import Order, Orders
from order_service.tables import orders

SHELVES = ShelvesByKey(
    Orders,
    (Shelf("orders", orders, Order, key="user_id", named_by="order_id"), SIGNING_KEYS),
)

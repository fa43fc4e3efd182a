"""Which orders a batch needs, and where they are kept."""

from choreo.chassis.transaction.state_store import StateStore, TableMapping
from order_service.state import Order, Orders
from order_service.tables import orders

STORE = StateStore(
    Orders,
    (TableMapping("orders", orders, Order, key="user_id", loaded_by_id="order_id"),),
)

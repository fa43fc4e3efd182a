"""Which of billing's rows a batch needs, and where they are kept."""

from billing_service.state import Account, Billing, Leg, Payment
from billing_service.tables import accounts, ledger, payments
from choreo.chassis.transaction.state_store import StateStore, TableMapping

STORE = StateStore(
    Billing,
    (
        TableMapping("account", accounts, Account, key="user_id", single=True, loaded_with_key={}),
        TableMapping(
            "payments",
            payments,
            Payment,
            key="user_id",
            loaded_with_key={"outcome": "waiting"},
            loaded_by_id="order_id",
        ),
        TableMapping("ledger", ledger, Leg, key="user_id"),
    ),
)
